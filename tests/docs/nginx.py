"""Configuration of nginx: parsed, and each directive held to where it may stand and what it takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import crossplane

from tests.docs.pages import Block

#: What a part of a configuration stands in, by what it begins with.
AROUND = (
    (r"^(events|http)\b", "{}"),
    (r"^(server|upstream|map|limit_req_zone|log_format)\b", "events {{}} http {{ {} }}"),
    (r"", "events {{}} http {{ server {{ {} }} }}"),
)
EMPTY = r"\1{}"
#: Blocks that hold values, not directives.
VALUES = re.compile(r"^(\s*(?:map|geo|types|split_clients)\b[^{]*)\{[^}]*\}", re.MULTILINE)


def complaints(block: Block, folder: Path) -> list[str]:
    """Return what is wrong with a configuration, or with a part of one."""
    around = next(around for begins, around in AROUND if re.search(begins, block.code, re.MULTILINE))
    (folder / "nginx.conf").write_text(around.format(f"\n{VALUES.sub(EMPTY, block.code)}\n"))
    parsed: dict[str, Any] = crossplane.parse(str(folder / "nginx.conf"), strict=True)
    return [error["error"] for error in parsed["errors"]]
