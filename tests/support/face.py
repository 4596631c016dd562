"""What the package offers to those who write apps and their tests."""

from __future__ import annotations

#: What the engine calls, and no author.
INTERNAL = {"runtime", "error_handlers", "handlers", "interceptors", "intercepts", "match", "channels", "bind"}
INTERNAL |= {"server", "conflation", "entrances", "read_in", "read_join", "read_out", "read_params", "declared_events"}


def public(cls: type) -> set[str]:
    """Return what a class offers to authors."""
    ours = [base for base in cls.__mro__ if base.__module__.startswith("flask_phoenix")]
    offered = {name for base in ours for name in {**vars(base), **vars(base).get("__annotations__", {})}}
    return {name for name in offered if not name.startswith("_")} - INTERNAL
