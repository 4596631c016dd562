"""What callbacks run in: context variables, Flask's contexts, URLs; what becomes of their exceptions; log lines."""

from __future__ import annotations

import asyncio
import decimal
import json
import logging
from collections.abc import Iterator
from contextvars import ContextVar, copy_context
from typing import Any

import flask
import flask_login
import gevent
import pytest
from flask import current_app, g, got_request_exception, session, url_for
from gevent.event import Event
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix

from flask_phoenix import Channel, InvalidOption, Phoenix, Refused, Reply, Socket
from flask_phoenix.testing import Client as InProcessClient
from tests.support.clients import CRASHED, JOIN_CRASHED, JOINED, KINDS, Room, Site, enters, fails, scripted
from tests.support.loop import turn
from tests.support.processes import DEADLINE
from tests.support.wire import Entry

WHO: ContextVar[str] = ContextVar("WHO", default="nobody")
TRACE: ContextVar[str] = ContextVar("TRACE", default="none")


@pytest.fixture(params=KINDS[1:3])
def own_site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """Return an app that a test may change."""
    site = Site(request.param)
    yield site
    site.close()


# Context variables


def look(channel: Room, *_: Any) -> Any:
    """Note what is seen, and leave something behind."""
    channel.note((channel.params.get("user"), WHO.get(), TRACE.get(), decimal.getcontext().prec))
    WHO.set(channel.params["user"])
    decimal.getcontext().prec = 7
    return {}


def test_what_one_callback_sets_no_other_sees(own_site: Site) -> None:
    @own_site.app.before_request
    def trace() -> None:
        decimal.getcontext()  # as in every process that has computed with decimals before
        TRACE.set(f"trace of {flask.request.args.get('user')}")

    site = own_site
    room = scripted(join=look, after_join=look, do=look, news=look, handle_info=look, terminate=look)
    site.serve(room)
    for user in ("ann", "bob"):
        client = site.connect(user=user)
        client.join()
        client.say("1", "2", "room:1", "do")
        client.connection.protocol.memberships["room:1"].server.send("note")
        site.phoenix.broadcast("room:1", "news", {})
        seen = [site.noted() for _ in range(5)]
        client.say("1", "3", "room:1", "phx_leave")
        assert site.noted() == "left"
        seen.append(site.noted())
        assert seen == [(user, "nobody", f"trace of {user}", 28)] * 6
    assert (WHO.get(), decimal.getcontext().prec) == ("nobody", 28)


def test_callback_that_blocks_keeps_its_own_context(site: Site) -> None:
    gates: dict[str, Event] = {"ann": Event(), "bob": Event()}

    def wait(channel: Room) -> Any:
        WHO.set(channel.params["user"])
        assert gates[channel.params["user"]].wait(DEADLINE)
        assert gevent.spawn(WHO.get).get() == "nobody", "a greenlet of the author's starts without variables"
        assert gevent.spawn(copy_context().run, WHO.get).get() == channel.params["user"]
        return {"who": WHO.get()}

    clients = [site.enter(scripted(do=wait), user=user) for user in gates]
    for client in clients:
        client.say("1", "2", "room:1", "do")
        client.rest()
    for client, user in zip(clients, gates, strict=True):
        gates[user].set()
        assert client.hear()[4]["response"] == {"who": user}


def test_context_of_functions_that_belong_to_no_client(site: Site) -> None:
    seen: list[str] = []

    def hear(_: Any) -> None:
        seen.append(WHO.get())
        WHO.set("a listener")

    subscribing = copy_context()
    subscribing.run(WHO.set, "who subscribes")
    ends = [subscribing.run(site.phoenix.subscribe, "room:1", hear) for _ in range(2)]
    client = site.enter(scripted(do=lambda _: WHO.set("ann")))
    client.say("1", "2", "room:1", "do")
    client.rest()
    for _ in range(2):
        site.phoenix.broadcast("room:1", "e", {})
        turn()
    for end in ends:
        end()
    assert seen == ["nobody"] * 4


# Flask's contexts


def test_request_and_session_belong_to_the_handshake(site: Site) -> None:
    def do(channel: Room) -> Any:
        assert current_app.name == site.app.name
        assert not hasattr(g, "seen")
        g.seen = True
        for look in (lambda: flask.request.path, lambda: session.get("user")):
            with pytest.raises(RuntimeError, match="outside of request context"):
                look()
        return {}

    client = site.enter(scripted(do=do))
    assert [client.call("do"), client.call("do")] == [JOINED] * 2


def do_urls(channel: Channel) -> Any:
    """Write URLs."""
    return {"urls": [url_for("page", name="x y"), url_for("page", name="z", _external=False)]}


@pytest.mark.parametrize(
    ("headers", "begin", "prefix"),
    [
        ({"Host": "a.example:81"}, "http://a.example:81", ""),
        (
            {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "shop.example", "X-Forwarded-Prefix": "/p"},
            "https://shop.example/p",
            "/p",
        ),
    ],
)
@pytest.mark.parametrize("mounted", ["", "/inner"])
def test_url_for_begins_as_the_handshake_did(headers: dict[str, str], begin: str, prefix: str, mounted: str) -> None:
    site = Site(KINDS[1], check_origin=False)
    site.app.add_url_rule("/page/<name>", "page", lambda name: name)
    site.serve(scripted(join=do_urls, do=do_urls))
    stack: Any = DispatcherMiddleware(flask.Flask("outer"), {mounted: site.app}) if mounted else site.app
    stack = ProxyFix(stack, x_proto=1, x_host=1, x_prefix=1)
    entry = Entry(stack, f"{mounted}/socket/websocket?vsn=2.0.0", headers)
    urls = [f"{begin}{mounted}/page/x%20y", f"{prefix}{mounted}/page/z"]
    for ref, event in enumerate(("phx_join", "do")):
        entry.wire.text(json.dumps([0, ref, "room:1", event, {}]))
        assert json.loads(entry.wire.data())[4]["response"] == {"urls": urls}
    entry.close()
    site.close()


def test_url_for_of_functions_that_belong_to_no_client_needs_a_server_name(site: Site) -> None:
    failures: list[str] = []

    def hear(_: Any) -> None:
        try:
            url_for("static", filename="x")
        except RuntimeError as error:
            failures.append(str(error))

    end = site.phoenix.subscribe("room:1", hear)
    site.phoenix.broadcast("room:1", "e", {})
    turn()
    end()
    assert "SERVER_NAME" in failures[0]


def test_current_user_of_flask_login() -> None:
    site = Site(KINDS[1])
    login = flask_login.LoginManager(site.app)

    @login.user_loader  # type: ignore[untyped-decorator]
    def load(id: str) -> Any:
        user = flask_login.UserMixin()
        user.id = id
        return user

    @site.app.get("/login")
    def log_in() -> str:
        flask_login.login_user(load("7"))
        return ""

    @site.phoenix.socket("/users")
    class UserSocket(Socket):
        def connect(self, params: dict[str, Any], info: dict[str, Any]) -> None:
            if not flask_login.current_user.is_authenticated:
                raise Refused("log in first")
            self.assigns["user_id"] = flask_login.current_user.get_id()

    @UserSocket.channel("room:*")
    class UserRoom(Channel):
        def join(self, payload: Any) -> Any:
            assert not flask_login.current_user
            return {"user": load(self.assigns["user_id"]).id}

    http = site.app.test_client()
    http.get("/login")
    cookie = http.get_cookie("session")
    assert cookie is not None
    with InProcessClient(site.app, "/users", headers={"Cookie": f"session={cookie.value}"}) as client:
        assert client.join("room:1").response == {"user": "7"}
    with pytest.raises(Refused, match="log in first"):
        InProcessClient(site.app, "/users")
    site.close()


# Exceptions


def test_teardown_functions_are_given_what_nothing_handled_and_http_handlers_are_not_asked(own_site: Site) -> None:
    given: list[str] = []
    failures: list[BaseException] = [Refused("no"), ValueError(), RuntimeError()]
    own_site.app.register_error_handler(RuntimeError, lambda error: f"asked: {given.pop()}")
    own_site.app.teardown_appcontext(lambda error: given.append(type(error).__name__))
    own_site.phoenix.errorhandler(ValueError)(lambda error, channel: {})

    def fail(channel: Room) -> Any:
        given.clear()
        raise failures.pop(0)

    client = own_site.enter(scripted(do=fail, terminate=lambda channel, reason: channel.note(given[:])))
    for ref in "234":
        client.say("1", ref, "room:1", "do")
        client.rest()
        if failures:
            assert set(given) == {"NoneType"}
    assert [note for note in own_site.notes() if isinstance(note, list)] == [["RuntimeError"]], (
        "app.errorhandler is not asked"
    )


def test_flask_tells_of_the_context_of_a_callback_as_of_any(own_site: Site) -> None:
    told: list[Any] = []
    app = own_site.app
    client = own_site.enter(scripted(do=lambda channel: told.append("do")))
    listeners: list[tuple[Any, Any]] = [
        (flask.appcontext_pushed, lambda sender, **_: told.append(("pushed", current_app == sender))),
        (flask.appcontext_tearing_down, lambda sender, exc, **_: told.append(("tearing down", exc))),
        (flask.appcontext_popped, lambda sender, **_: told.append(("popped", flask.has_app_context()))),
    ]
    for signal, listener in listeners:
        signal.connect(listener, app)
    client.say("1", "2", "room:1", "do")
    client.rest()
    at = told.index("do")  # between those of polls, where the client polls
    assert told[at - 1 : at + 3] == [("pushed", True), "do", ("tearing down", None), ("popped", False)]


def test_an_app_may_make_contexts_and_tear_them_down_in_its_own_way() -> None:
    class Desk(flask.Flask):
        def app_context(self) -> Any:
            context = super().app_context()
            context.g.desk = "a desk"
            return context

        def do_teardown_appcontext(self, *args: Any) -> None:
            g.pop("desk")
            cleared.append(g.get("desk"))
            super().do_teardown_appcontext(*args)

    cleared: list[Any] = []
    app = Desk(__name__)
    phoenix = Phoenix(app)

    @phoenix.socket("/socket")
    class UserSocket(Socket):
        pass

    @UserSocket.channel("room:*")
    class RoomChannel(Channel):
        def join(self, payload: Any) -> Any:
            cleared.clear()
            return {"desk": g.desk}

    with InProcessClient(app) as client:
        assert client.join("room:1").response == {"desk": "a desk"}
        assert cleared
        assert not any(cleared)


@pytest.fixture
def reported(site: Site) -> Iterator[list[tuple[Any, BaseException, str]]]:
    """Return what Flask's signal told: the app, the exception, and who it is about."""
    told: list[tuple[Any, BaseException, str]] = []

    def hear(sender: Any, exception: BaseException, **_: Any) -> None:
        told.append((sender, exception, WHO.get()))
        assert current_app.name == sender.name
        raise RuntimeError("a listener fails, too")

    with got_request_exception.connected_to(hear, site.app):
        yield told


@pytest.mark.parametrize("exit", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["join", "after_join", "do", "terminate"])
def test_exit_in_a_callback_is_its_crash_and_stops_the_server(
    site: Site, exit: type[BaseException], where: str, reported: list[Any]
) -> None:
    stops: list[str] = []
    site.engine.stop_server = lambda: stops.append("stop")
    try:
        client = enters(site, **{where: fails(exit)})
        client.say("1", "2", "room:1", "do")
        client.say("1", "3", "room:1", "phx_leave")
        client.rest()
    finally:
        site.engine.stop_server = None
    assert (stops, reported, site.hears("room:1")) == (["stop"], [], False)


FAILURES = [RuntimeError, asyncio.CancelledError, gevent.Timeout, gevent.GreenletExit, BaseException]


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("where", ["join", "after_join", "do", "news", "handle_info", "terminate"])
def test_any_exception_of_a_callback_is_that_channels_crash(
    site: Site,
    failure: type[BaseException],
    where: str,
    reported: list[tuple[Any, BaseException, str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(channel: Room, *_: Any) -> Any:
        WHO.set("ann")
        raise failure()

    site.serve(Room, "other")
    site.serve(scripted(**{where: fail}))
    client = site.connect()
    client.join("other", "2")
    client.say("1", "1", "room:1", "phx_join")
    client.rest()
    membership = client.connection.protocol.memberships.get("room:1")
    if where == "handle_info" and membership is not None:
        membership.server.send("note")
    site.phoenix.broadcast("room:1", "news", {})
    client.say("1", "3", "room:1", "do")
    client.rest()
    client.say("1", "4", "room:1", "phx_leave")
    client.rest()
    assert not site.hears("room:1")
    expected = [] if failure is gevent.GreenletExit else [(site.app, failure, "ann")]
    assert [(sender, type(error), who) for sender, error, who in reported] == expected
    assert caplog.text.count("a listener of got_request_exception failed") == len(expected)
    assert failure.__name__ in caplog.text
    assert client.call("echo", topic="other", join_ref="2") == JOINED
    assert site.engine.runners.busy == 0


class Wrong(ValueError):
    """An exception of the app's."""


class VeryWrong(Wrong):
    """One of its kinds."""


@pytest.mark.parametrize("where", ["join", "do"])
@pytest.mark.parametrize(
    ("raised", "status", "response"),
    [
        (Wrong("x"), "error", {"wrong": "x", "topic": "room:1"}),
        (VeryWrong("x"), "later", ["very"]),
        (KeyError("declined"), None, None),
        (IndexError("refused"), "error", {"reason": "refused"}),
        (LookupError("socket"), "error", {"by": "the socket"}),
        (OSError("returns what it may not"), None, None),
        (asyncio.CancelledError(), "error", {"reason": "cancelled"}),
    ],
    ids=repr,
)
def test_error_handlers(
    site: Site,
    request: pytest.FixtureRequest,
    raised: BaseException,
    status: str | None,
    response: Any,
    where: str,
    reported: list[Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    request.addfinalizer(site.engine.error_handlers.clear)
    request.addfinalizer(site.socket.error_handlers.clear)

    @site.phoenix.errorhandler(Wrong)
    def wrong(error: Wrong, channel: Channel) -> Any:
        assert current_app.name == site.app.name
        return {"wrong": str(error), "topic": channel.topic}

    @site.phoenix.errorhandler(VeryWrong)
    def very_wrong(error: VeryWrong, channel: Channel) -> Reply:
        return Reply("later", ["very"])

    @site.phoenix.errorhandler(KeyError, LookupError)
    def decline(error: KeyError, channel: Channel) -> None:
        return None

    @site.phoenix.errorhandler(IndexError, asyncio.CancelledError)
    def refuse(error: BaseException, channel: Channel) -> None:
        raise Refused(str(error) or "cancelled")

    @site.socket.errorhandler(LookupError)
    def of_the_socket(error: LookupError, channel: Channel) -> Any:
        return {"by": "the socket"} if type(error) is LookupError else phoenix_decides(error)

    def phoenix_decides(error: LookupError) -> Any:
        return refuse(error, None) if isinstance(error, IndexError) else None  # type: ignore[arg-type]

    @site.phoenix.errorhandler(OSError)
    def mistaken(error: OSError, channel: Channel) -> Any:
        return 7

    client = enters(site, **{where: fails(raised)})
    if where == "do":
        client.hear()
        client.say("1", "1", "room:1", "do")
    heard = client.hear()
    if status is not None:
        assert heard[1:] == ["1", "room:1", "phx_reply", {"status": status, "response": response}]
        assert (reported, caplog.records) == ([], [])
        if where == "do":
            assert client.call("echo") == JOINED
    else:
        assert heard[4] == (JOIN_CRASHED if where == "join" else CRASHED)
        assert len(reported) == 1
        assert ("mistaken returned 7" in caplog.text) is isinstance(raised, OSError)


@pytest.mark.parametrize("wrong", [(), (7,), (ValueError, "x"), (ValueError("x"),)])
def test_error_handler_names_classes_of_exceptions(site: Site, wrong: Any) -> None:
    for register in (site.phoenix.errorhandler, type("Some", (Socket,), {}).errorhandler):  # type: ignore[attr-defined]
        with pytest.raises(InvalidOption, match=r"@phoenix.errorhandler\(ValueError\)"):
            register(*wrong)


def test_error_handlers_are_inherited_by_subclasses_alone() -> None:
    class Base(Socket):
        pass

    Base.errorhandler(ValueError)(lambda error, channel: {"by": "base"})

    class Derived(Base):
        pass

    Derived.errorhandler(KeyError)(lambda error, channel: {"by": "derived"})
    assert (set(Socket.error_handlers), set(Base.error_handlers)) == (set(), {ValueError})
    assert set(Derived.error_handlers) == {ValueError, KeyError}


# Log lines


@pytest.mark.parametrize("event", ["x" * 1_000, "\x1b[31m\n" + "y" * 1_000, ["z"] * 50_000])
def test_what_clients_send_is_cut_and_escaped_in_log_lines(
    site: Site, event: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "flask_phoenix")
    topic = f"room:{event}" if isinstance(event, str) else "room:1"

    def answer(channel: Room) -> Any:
        return (event,)

    site.serve(scripted(do=answer, terminate=lambda channel, reason: 1 / 0, handle_info=Room.handle_info))
    client = site.connect()
    client.say("1", "1", f"no {topic}", "phx_join")
    for ref in "23":
        client.say(ref, ref, topic, "phx_join")
    client.say("3", "4", topic, event)
    client.say("5", "5", topic, "phx_join")
    client.say("5", "6", topic, "do")
    client.rest()
    assert max(len(record.getMessage()) for record in caplog.records) < 600
    assert len(caplog.text) < 20_000
    assert "\x1b" not in caplog.text
    assert caplog.text.count("crashed") == 2
