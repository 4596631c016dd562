"""Assigns as they are under debug: they tell of values that do not last as long as a client."""

from __future__ import annotations

import logging
from typing import Any

from .places import place_of_caller

log = logging.getLogger("flask_phoenix.channel")


class CheckedAssigns(dict[str, Any]):
    """The author's values, looked at as they are set: a model of SQLAlchemy has no session at the next callback.

    :param owner: the name of the class that has them.
    """

    def __init__(self, owner: str, values: dict[str, Any]) -> None:
        super().__init__(values)
        self._owner = owner

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        self._check(key, value)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set several values."""
        super().update(*args, **kwargs)
        for key, value in dict(*args, **kwargs).items():
            self._check(key, value)

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Set a value, unless there is one."""
        self._check(key, default)
        return super().setdefault(key, default)

    def _check(self, key: str, value: Any) -> None:
        for each in value if isinstance(value, list | tuple | set) else [value]:
            # Each mapped class has this attribute; so SQLAlchemy need not be here to be recognised.
            if hasattr(type(each), "__mapper__"):
                log.warning(
                    "%s: %s.assigns[%r] keeps a %s, whose database session ends with this callback: keep its id, and"
                    " load it anew in each callback",
                    place_of_caller(),
                    self._owner,
                    key,
                    type(each).__name__,
                )
                return
