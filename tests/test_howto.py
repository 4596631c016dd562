"""Recipes of the how-to pages whose border is the point: other programs, other processes."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.clients import driver
from tests.docs.pages import blocks
from tests.support.processes import Servers


def written(page: str, folder: Path) -> Path:
    """Write the files of a page, and return the folder."""
    for block in blocks(page, "python", "js"):
        if not block.filename.startswith("block_"):
            (folder / block.filename).write_text(block.code)
    return folder


def test_two_people_edit_a_document_on_two_workers(servers: Servers, tmp_path: Path) -> None:
    folder = written("howto/documents.md", tmp_path)
    parts = (folder / "parts.js").rename(folder / "parts.mjs")
    workers = {"PHOENIX_PUBSUB_URL": f"workers://{folder}/workers", "DOCUMENTS": f"{folder}/documents.db"}
    words = (sys.executable, "-m", "flask", "--app", f"{folder}/app", "run", "--port", "{port}")
    urls = [servers.start(*words, **workers).url("/socket", "ws") for _ in range(2)]
    script = driver.Script("documents.mjs", str(parts), *urls)
    told = script.result()
    script.close()
    ada, alan, late = told["seen"]
    assert ada == alan == late
    assert all(part in ada for part in ("Hello", "I say: ", "[pasted]", "Offline. ", "Online. "))
    assert 1009 not in told["closes"]
