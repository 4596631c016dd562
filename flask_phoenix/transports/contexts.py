"""The contexts in which a client's callbacks run: what they keep of its handshake, and what ``url_for`` knows."""

from __future__ import annotations

from contextlib import AbstractContextManager
from contextvars import Context, ContextVar, Token, copy_context
from copy import copy
from decimal import Context as DecimalContext
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from flask import Flask, appcontext_popped, appcontext_pushed, appcontext_tearing_down, current_app
from flask.ctx import AppContext
from flask.globals import app_ctx, request_ctx
from werkzeug.routing import MapAdapter

from ..runtime.connection import Surroundings
from ..runtime.inbox import EMPTY

#: Clients that came to the same app by the same address share what makes their contexts.
_app_contexts: WeakValueDictionary[tuple[Any, ...], partial[CallbackContext]] = WeakValueDictionary()


class CallbackContext(AbstractContextManager[None]):
    """The application context of one callback: Flask's own, entered and left at half the cost.

    Flask sends three signals and looks for functions to tear the context down, each time. Here that is done where
    somebody listens, or has registered such a function.

    :param variable: holds Flask's application context.
    :param adapter: writes URLs with the scheme and the host of a handshake.
    """

    __slots__ = ("_adapter", "_app", "_token", "_variable")

    def __init__(self, app: Flask, variable: ContextVar[AppContext], adapter: MapAdapter) -> None:
        self._app, self._variable, self._adapter = app, variable, adapter

    def __enter__(self) -> None:
        app = self._app
        context = app.app_context()
        context.url_adapter = self._adapter
        self._token: Token[AppContext] = self._variable.set(context)
        if appcontext_pushed.receivers:
            appcontext_pushed.send(app, _async_wrapper=app.ensure_sync)

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        app = self._app
        try:
            if tears_down(app):
                app.do_teardown_appcontext(error)
        finally:
            self._variable.reset(self._token)
        if appcontext_popped.receivers:
            appcontext_popped.send(app, _async_wrapper=app.ensure_sync)


def tears_down(app: Flask) -> bool:
    """Whether something is done when a context of an app is torn down."""
    return bool(
        app.teardown_appcontext_funcs
        or appcontext_tearing_down.receivers
        or type(app).do_teardown_appcontext is not Flask.do_teardown_appcontext  # it has a way of its own
    )


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
        app_context = _app_contexts[key] = partial(CallbackContext, app, _variable_of_app_context(), adapter)
    return Surroundings(_context_variables(), app_context)


def _variable_of_app_context() -> ContextVar[Any]:
    """Return the context variable that holds the application context, which Flask has no public name for."""
    context = app_ctx._get_current_object()  # type: ignore[attr-defined]
    return next(variable for variable, value in copy_context().items() if value is context)


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
