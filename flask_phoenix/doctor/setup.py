"""The app and what is installed: mounts, secrets, origins, versions."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from itertools import zip_longest

from ..app_state import State
from ..transports.options import Mount
from ..transports.origin import RequestOrigin
from .findings import Finding, found

PACKAGE = "flask_phoenix"
#: A requirement: its name, its extras, its ranges, and the extra of ours to which it belongs.
REQUIREMENT = re.compile(r"([\w.-]+)\s*(?:\[[^\]]*\])?\s*([^;]*)(?:;\s*extra == ['\"](\w+)['\"])?")
RANGE = re.compile(r"(>=|<=|<|>|!=|==)\s*([\d.]+)")
PYTHON = re.compile(r"Programming Language :: Python :: (\d+)\.(\d+)$")


def check_app(state: State) -> Iterator[Finding]:
    """Look at what the app declares."""
    if not state.endpoints:
        yield found("sockets", f"the app {state.app.name!r} mounts none")
    polled = [endpoint.mount.url for endpoint in state.endpoints if endpoint.mount.transport == "longpoll"]
    if polled and not state.app.secret_key:
        yield found("secret-key", f"clients poll at {', '.join(polled)}, and SECRET_KEY is not set")


def check_origin(mount: Mount, scheme: str, address: str) -> Iterator[Finding]:
    """See that pages of a site may connect to a mount of the same site."""
    origin = f"{scheme}://{address}"
    if not mount.origin.allows(origin, RequestOrigin.read(scheme, address)):
        yield found("origin", f"{mount.url} refuses pages of {origin}: {mount.origin.explain(origin)}")


def check_versions(extras: set[str]) -> Iterator[Finding]:
    """Look at what is installed, and what this package asks for.

    :param extras: those that are used.
    """
    for line in requires(PACKAGE) or ():
        match = REQUIREMENT.match(line)
        if match is None or (match[3] and match[3] not in extras):
            continue
        name, wanted = match[1], match[2].strip()
        try:
            installed = version(name)
        except PackageNotFoundError:
            yield found("versions", f"{name} is not installed, and {wanted or 'any'} is asked for")
            continue
        if not fits(installed, wanted):
            yield found("versions", f"{name} is {installed}; asked for is {wanted}")
    tried = [match.groups() for each in metadata(PACKAGE).get_all("Classifier") or () if (match := PYTHON.match(each))]
    if tried and not any((int(major), int(minor)) == sys.version_info[:2] for major, minor in tried):
        versions = ", ".join(".".join(each) for each in tried)
        yield found("versions", f"Python is {sys.version_info[0]}.{sys.version_info[1]}; tried are {versions}")


def fits(installed: str, wanted: str) -> bool:
    """Tell whether a version lies in the ranges that a requirement names (``>=3.0.3,<4``)."""
    return all(_holds(_compare(installed, bound), operator) for operator, bound in RANGE.findall(wanted))


def _holds(order: int, operator: str) -> bool:
    return (
        (operator == "!=" and order != 0)
        or ("=" in operator and operator != "!=" and order == 0)
        or (operator[0] == "<" and order < 0)
        or (operator[0] == ">" and order > 0)
    )


def _compare(one: str, other: str) -> int:
    """Return which of two versions is the newer: -1, 0 or 1; what stands behind the numbers is left aside."""
    for a, b in zip_longest(_numbers(one), _numbers(other), fillvalue=0):
        if a != b:
            return 1 if a > b else -1
    return 0


def _numbers(version: str) -> list[int]:
    release = re.match(r"\d+(?:\.\d+)*", version)
    return [int(number) for number in release[0].split(".")] if release else []
