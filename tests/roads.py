"""The old address of :mod:`tests.support.roads`, until nobody imports it."""

from tests.support.roads import *  # noqa: F403
