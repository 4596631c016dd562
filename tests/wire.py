"""The old place of ``tests/support/wire.py``; goes when nobody imports it."""

from tests.support.wire import *  # noqa: F403
