"""Signals: what a process tells its operators, as Flask's signals do. Without a receiver they cost nothing."""

from __future__ import annotations

from blinker import Namespace

_signals = Namespace()

#: A bound was reached. Sent with the app, ``limit`` (its name in docs/security.md) and what is known of the client.
limit_reached = _signals.signal("limit-reached")
