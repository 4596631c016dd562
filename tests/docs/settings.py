"""Files of settings: JSON, TOML, YAML, and the units of systemd; and templates."""

from __future__ import annotations

import configparser
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jinja2
import yaml

from tests.docs.pages import Block
from tests.support.processes import DEADLINE

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it


def reading(read: Callable[[str], object], *wrong: type[Exception]) -> Callable[[Block, Path], list[str]]:
    """Make a check of a function that reads a text."""

    def complaints(block: Block, folder: Path) -> list[str]:
        try:
            read(block.code)
        except wrong as error:
            return [str(error)]
        return []

    return complaints


json_file = reading(json.loads, ValueError)
toml_file = reading(tomllib.loads, ValueError)
template = reading(jinja2.Environment().parse, jinja2.TemplateError)
yaml_file = reading(lambda text: list(yaml.safe_load_all(text)), yaml.YAMLError)


def unit(block: Block, folder: Path) -> list[str]:
    """Read a file of sections; a unit of systemd is read by systemd too, where it is installed."""
    sections = configparser.RawConfigParser(strict=False)
    try:
        sections.read_string(block.code)
    except configparser.Error as error:
        return [str(error)]
    if "Service" not in sections or not shutil.which("systemd-analyze"):
        return []
    started = "" if sections.has_option("Service", "ExecStart") else "\n[Service]\nExecStart=/bin/true\n"
    (folder / "app.service").write_text(block.code + started)
    command = ("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", folder / "app.service")
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    return [line for line in done.stderr.splitlines() if "app.service:" in line and "not executable" not in line]
