"""The contexts in which a client's callbacks run: what they keep of its handshake, and what ``url_for`` knows."""

from __future__ import annotations

from contextvars import Context, copy_context
from copy import copy
from decimal import Context as DecimalContext
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from flask import Flask, current_app
from flask.ctx import AppContext
from flask.globals import request_ctx
from werkzeug.routing import MapAdapter

from ..runtime.connection import Surroundings
from ..runtime.inbox import EMPTY

#: Clients that came to the same app by the same address share what makes their contexts.
_app_contexts: WeakValueDictionary[tuple[Any, ...], partial[AppContext]] = WeakValueDictionary()


def surroundings_of_handshake() -> Surroundings:
    """Return what callbacks run in for the client whose handshake is the request at hand."""
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    adapter = request_ctx.url_adapter
    assert adapter is not None
    key = id(app), adapter.url_scheme, adapter.server_name, adapter.script_name, adapter.subdomain
    app_context = _app_contexts.get(key)
    if app_context is None:
        # What it needs to write URLs, and nothing else of the request.
        adapter = copy(adapter)
        adapter.path_info, adapter.query_args = "/", {}
        app_context = _app_contexts[key] = partial(_app_context, app, adapter)
    return Surroundings(_context_variables(), app_context)


def _app_context(app: Flask, adapter: MapAdapter) -> AppContext:
    """Make an application context in which ``url_for`` knows the scheme and the host of a handshake."""
    context = app.app_context()
    context.url_adapter = adapter
    return context


def _context_variables() -> Context:
    """Return the context variables as they are, but for what the request at hand and the thread own.

    Flask's contexts end with the request. A decimal context is an object that all who copied it share: without one,
    each callback gets its own.
    """
    kept = [
        (variable, value)
        for variable, value in copy_context().items()
        if type(value).__module__ != "flask.ctx" and not isinstance(value, DecimalContext)
    ]
    if not kept:
        return EMPTY
    context = Context()
    for variable, value in kept:
        context.run(variable.set, value)
    return context
