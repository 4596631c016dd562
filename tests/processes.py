"""The old address of :mod:`tests.support.processes`, until nobody imports it."""

from tests.support.processes import *  # noqa: F403
