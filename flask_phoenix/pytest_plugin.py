"""The fixtures of pytest; what they need is imported when a test asks for one of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from importlib import import_module
from typing import Any

import pytest

NO_APP = (
    "phoenix_client needs a fixture named app that returns the Flask app under test, as pytest-flask does; for one, in"
    " conftest.py:\n\n    @pytest.fixture\n    def app():\n        return create_app()"
)


@pytest.fixture
def live_phoenix_server() -> Iterator[Any]:
    """Serve an app in a process of its own: call it with ``"chat:create_app"``, or with that function."""
    with ExitStack() as servers:
        yield lambda app, **environment: servers.enter_context(
            import_module("flask_phoenix.testing").LiveServer(app, environment)
        )


@pytest.fixture
def phoenix_clock() -> Iterator[Any]:
    """Let time stand still, but for what ``phoenix_clock.advance(seconds)`` adds."""
    with import_module("flask_phoenix.testing").Clock() as clock:
        yield clock


@pytest.fixture
def phoenix_client(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Make clients of the app under test, without a network: call it with a path, as in ``("/socket")``."""
    if "phoenix_clock" in request.fixturenames:
        request.getfixturevalue("phoenix_clock")  # first, so that it stands still until they are closed
    try:
        app = request.getfixturevalue("app")
    except pytest.FixtureLookupError:
        pytest.fail(NO_APP, pytrace=False)
    with import_module("flask_phoenix.testing").Clients(app) as clients:
        yield clients
