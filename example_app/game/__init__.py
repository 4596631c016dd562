"""Embers: a small game on the same server as the chat and the map.

Those who play are flames in a cold night. They gather embers, and carry them to the hearth in the middle, which warms
them all: the lower it burns, the slower they are.
"""

from __future__ import annotations

from example_app.game.channel import GameChannel

__all__ = ["GameChannel"]
