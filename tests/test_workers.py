"""The workers of one host: several in this process, and real processes that are killed, stopped and started."""

from __future__ import annotations

from pathlib import Path

import pytest

from flask_phoenix.workers import WorkersAdapter
from tests import contract


class TestWorkersAdapter(contract.GoneContract):
    """What every adapter keeps."""

    @pytest.fixture
    def make_adapter(self, tmp_path: Path) -> contract.MakeAdapter:
        return lambda: WorkersAdapter(tmp_path / "workers")
