"""The old place of ``tests/support/slow.py``; goes when nobody imports it."""

from tests.support.slow import *  # noqa: F403
