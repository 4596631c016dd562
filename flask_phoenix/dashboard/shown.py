"""Names and parameters that clients chose, as a page is told them: bounded, and without what is to stay secret."""

from __future__ import annotations

from reprlib import Repr
from typing import Any

from ..protocol.messages import shown
from ..runtime.logs import ParameterFilter

#: Characters of a name, and of parameters.
NAME_LENGTH, PARAMETERS_LENGTH = 1024, 1000


class _Parameters(Repr):
    """Writes parameters that a client may have made as large and as deep as it likes."""

    maxdict = maxlist = maxtuple = 20
    maxstring = maxother = 200
    maxlevel = 4


def shortened(name: str | None) -> str | None:
    """Return a name of a bounded length."""
    return name if name is None or len(name) <= NAME_LENGTH else shown(name)


def parameters(value: Any, told: ParameterFilter) -> str:
    """Return parameters, or a payload, in a line.

    :param told: takes out what nobody is to read.
    """
    return _Parameters().repr(told(value))[:PARAMETERS_LENGTH]
