"""JavaScript and TypeScript: the compiler reads all blocks at once, with the types of the official client."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

from tests.docs.pages import Block
from tests.support.processes import ROOT, START

MODULES = ROOT / "tests" / "clients" / "node_modules"
SCRIPT = re.compile(r"<script\b[^>]*>\n(.*?)</script>", re.DOTALL)

#: What a part of a page's code may take as given. A name that is not here may be anything.
GIVEN = """\
import type * as phoenix from "phoenix";
declare global {
  const Socket: typeof phoenix.Socket;
  const Presence: typeof phoenix.Presence;
  const socket: phoenix.Socket;
  const channel: phoenix.Channel;
  const room: phoenix.Channel;
  const presence: phoenix.Presence;
}
"""
#: Modules that are not installed here.
FOREIGN = 'declare module "*";\n'
#: Names that the page takes as given, their types among them.
UNKNOWN = {2304, 2503, 2552, 2580, 2709}
#: A callback may return what it likes.
RETURNED = re.compile(r"Type '.*' is not assignable to type 'void \| Promise<void>'")
#: An element that a script looks up has whatever the page gave it.
ELEMENT = re.compile(r"Property '\w+' does not exist on type '(HTML)?Element'")
OPTIONS = {
    "allowJs": True,
    "checkJs": True,
    "lib": ["es2022", "dom", "dom.iterable"],
    "module": "esnext",
    "moduleDetection": "force",
    "moduleResolution": "bundler",
    "noEmit": True,
    "skipLibCheck": True,
    "target": "es2022",
    "types": [],
    "allowImportingTsExtensions": True,
    "paths": {
        "phoenix": [f"{MODULES}/@types/phoenix"],
        "*/phoenix.js": [f"{MODULES}/@types/phoenix"],
        "*/phoenix.mjs": [f"{MODULES}/@types/phoenix"],
    },
}


def complaints(blocks: Iterable[Block], folder: Path) -> list[str]:
    """Return what the compiler says of these blocks, with the place of each; of a page's HTML, of its scripts."""
    places = {}
    for number, block in enumerate(blocks):
        code = block.code if block.language != "html" else "\n".join(SCRIPT.findall(block.code))
        name = f"block{number}.{'ts' if block.language in ('ts', 'typescript') else 'js'}"
        (folder / name).write_text(code)
        places[name] = block.place
    (folder / "given.d.ts").write_text(GIVEN)
    (folder / "foreign.d.ts").write_text(FOREIGN)
    files = [*places, "given.d.ts", "foreign.d.ts"]
    (folder / "tsconfig.json").write_text(json.dumps({"compilerOptions": OPTIONS, "files": files}))
    compiler = (MODULES / ".bin" / "tsc", "--project", folder, "--pretty", "false")
    done = subprocess.run(compiler, cwd=folder, capture_output=True, text=True, timeout=START, check=False)
    found = re.findall(r"^([\w.]+)\((\d+),\d+\): error TS(\d+): (.*)$", done.stdout, re.MULTILINE)
    assert found or not done.stdout, done.stdout
    return [
        f"{places[name]}, line {line} of the block: {says} (TS{code})"
        for name, line, code, says in found
        if int(code) not in UNKNOWN and not ELEMENT.match(says) and not RETURNED.match(says)
    ]
