"""Publishing with a receipt: from outside, over HTTP, and with a transaction."""

from __future__ import annotations

import hmac
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from flask import request
from flask.testing import FlaskClient
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import Session

from flask_phoenix import Broadcaster, History, InvalidOption, Position
from flask_phoenix.pubsub.envelope import unpack_entry
from flask_phoenix.pubsub.unix.archive import WorkersArchive
from tests.support.clients import Client, Room, Site, WebSocketClient
from tests.support.processes import ROOT, START

SECRET = "a secret of sixteen bytes"
TOPIC = "room:1"


class Chat(Room):
    history = History()


@pytest.fixture
def site() -> Iterator[Site]:
    """Return an app that publishes what it is sent."""
    site = Site((WebSocketClient, "2.0.0"))
    site.app.register_blueprint(site.phoenix.publish_blueprint(SECRET), url_prefix="/internal")
    site.serve(Chat)
    yield site
    site.close()


@pytest.fixture
def client(site: Site) -> Client:
    """Return a client in the room."""
    return site.enter(Chat)


@pytest.fixture
def http(site: Site) -> FlaskClient:
    """Return a client over HTTP."""
    return site.app.test_client()


@pytest.fixture
def engine() -> Iterator[Engine]:
    """Return an empty database, whose connections are closed in the end: from Python 3.13 on, an open one warns."""
    engine = create_engine("sqlite://")
    yield engine
    engine.dispose()


def sign(body: bytes, at: float | None = None, secret: str = SECRET) -> dict[str, str]:
    """Return the header of a request."""
    now = str(int(time.time() if at is None else at))
    signature = hmac.digest(secret.encode(), f"{now}.".encode() + body, "sha256").hex()
    return {"X-Phoenix-Signature": f"t={now},v1={signature}"}


def post(http: FlaskClient, value: Any, **options: Any) -> Any:
    """Post a signed request; return the status and the answer."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    response = http.post("/internal/publish", data=body, headers=sign(body, **options))
    return response.status_code, response.json


def message(number: int, **more: Any) -> dict[str, Any]:
    """Return a message for the room."""
    return {"topic": TOPIC, "event": "said", "payload": {"n": number}, **more}


def heard(number: int) -> list[Any]:
    """Return a message as the client hears it."""
    return [None, None, TOPIC, "said", {"n": number}]


def test_one_or_many_messages_are_published_with_receipts(http: FlaskClient, client: Client) -> None:
    status, answer = post(http, message(1))
    epoch = answer["receipts"][0]["epoch"]
    assert (status, answer) == (200, {"receipts": [{"epoch": epoch, "offset": 1, "ref": f"{epoch}:1"}]})
    status, answer = post(http, [message(2, idempotency_key="a"), message(3, idempotency_key="a")])
    assert (status, [receipt["offset"] for receipt in answer["receipts"]]) == (200, [2, 2])
    client.hears_only(heard(1), heard(2))


@pytest.mark.parametrize("options", [{"at": 0}, {"at": 1e11}, {"secret": "another secret of 16"}])
def test_other_signatures_are_refused(http: FlaskClient, client: Client, options: Any) -> None:
    assert post(http, message(1), **options)[0] == 401
    client.hears_only()


@pytest.mark.parametrize("header", ["", "t=", "t=1", "v1=a,t=\u0663", ",", "t=1,v1=\u00e9"])
def test_what_is_no_signature_is_refused(http: FlaskClient, client: Client, header: str) -> None:
    response = http.post("/internal/publish", data=b"{}", headers={"X-Phoenix-Signature": header})
    assert response.status_code == 401


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (b"{", 400),
        (5, 400),
        ([message(1), {}], 400),
        (message(1, more=1), 400),
        ({**message(1), "payload": []}, 400),
        ({"topic": TOPIC, "event": "said"}, 400),
        ({**message(1), "topic": "phx:presence"}, 400),
        (message(1, idempotency_key=256 * "k"), 422),
        ([message(1)] * 101, 400),
        (b" " * 1_000_001, 413),
        ({**message(1), "topic": "hall:1", "idempotency_key": "a"}, 422),
    ],
)
def test_what_is_no_message_is_nobody_s(http: FlaskClient, client: Client, value: Any, status: int) -> None:
    assert post(http, value)[0] == status
    client.hears_only()


def test_hooks_of_the_app_may_read_a_request_first(site: Site, http: FlaskClient) -> None:
    @site.app.before_request
    def note() -> None:
        request.get_data()

    assert post(http, message(1))[0] == 200


def test_one_secret_takes_the_place_of_another(site: Site) -> None:
    secrets = (SECRET, b"the next of sixteen bytes")
    site.app.register_blueprint(site.phoenix.publish_blueprint(secrets, "two"), url_prefix="/two")
    body = json.dumps({"topic": "room:1", "event": "said", "payload": {}}).encode()
    for secret, status in ((SECRET, 200), ("the next of sixteen bytes", 200), ("some other of sixteen bytes", 401)):
        answer = site.app.test_client().post("/two/publish", data=body, headers=sign(body, secret=secret))
        assert answer.status_code == status


@pytest.mark.parametrize("secret", ["short", [], [SECRET, "short"]])
def test_a_secret_has_some_length(site: Site, secret: Any) -> None:
    with pytest.raises(InvalidOption, match="16 bytes"):
        site.phoenix.publish_blueprint(secret)


@pytest.mark.parametrize("kind", ["workers", "redis"])
def test_a_broadcaster_has_receipts(request: pytest.FixtureRequest, short_path: Path, kind: str) -> None:
    url = f"workers://{short_path}" if kind == "workers" else request.getfixturevalue("redis_url")
    with Broadcaster(url, histories={"room:*": History(size=2)}) as broadcaster:
        first = broadcaster.broadcast(TOPIC, "said", {"n": 1}, idempotency_key="a")
        assert first == Position(first.epoch if first else "", 1)
        assert broadcaster.broadcast(TOPIC, "said", {"n": 2}, idempotency_key="a") == first
        for key in (None, 7, 256 * "k"):
            with pytest.raises(InvalidOption, match="a string of at most 255 characters"):
                broadcaster.broadcast(TOPIC, "said", {}, idempotency_key=key)  # type: ignore[arg-type] # a mistake
        with pytest.raises(InvalidOption, match="histories"):
            broadcaster.broadcast("hall:1", "said", {}, idempotency_key="a")


def test_broadcasts_wait_for_the_commit(site: Site, client: Client, engine: Engine) -> None:
    with Session(engine) as session:
        waiting = site.phoenix.after_commit(session)
        for number, end in ((1, session.rollback), (2, session.commit), (3, session.rollback)):
            session.execute(text("SELECT 1"))
            waiting.broadcast(TOPIC, "said", {"n": number}, idempotency_key=str(number))
            client.hears_only()
            end()
            gevent.sleep(0)
            client.hears_only(*([heard(2)] if number == 2 else []))


def test_a_session_that_is_closed_drops_what_waits(site: Site, client: Client, engine: Engine) -> None:
    session = Session(engine)
    waiting = site.phoenix.after_commit(session)
    for number, end in ((1, session.close), (2, session.commit)):
        session.execute(text("SELECT 1"))
        waiting.broadcast(TOPIC, "said", {"n": number})
        end()
    with pytest.raises(InvalidOption, match="idempotency_key"):
        waiting.broadcast(TOPIC, "said", {"n": 3}, idempotency_key=7)
    gevent.sleep(0)
    client.hears_only(heard(2))
    session.close()


def test_what_is_said_in_a_savepoint_ends_with_it_and_waits_for_the_outermost_commit(
    site: Site, client: Client, engine: Engine
) -> None:
    with Session(engine) as session:
        waiting = site.phoenix.after_commit(session)
        session.execute(text("SELECT 1"))
        waiting.broadcast(TOPIC, "said", {"n": 1})
        with session.begin_nested():
            waiting.broadcast(TOPIC, "said", {"n": 2})
            with session.begin_nested():
                waiting.broadcast(TOPIC, "said", {"n": 3})
            lost = session.begin_nested()
            waiting.broadcast(TOPIC, "said", {"n": 4})
            with session.begin_nested():
                waiting.broadcast(TOPIC, "said", {"n": 5})
            lost.rollback()
        gevent.sleep(0)
        client.hears_only()
        session.commit()
        gevent.sleep(0)
        client.hears_only(*map(heard, (1, 2, 3)))
        with session.begin_nested():
            waiting.broadcast(TOPIC, "said", {"n": 6})
        session.begin_nested()
        waiting.broadcast(TOPIC, "said", {"n": 7})
        session.rollback()
        session.execute(text("SELECT 1"))
        session.commit()
        gevent.sleep(0)
        client.hears_only()


#: Posts a message with the recipe, and is killed where it says so; prints what the room has then.
POSTING = """
import os, signal, sqlite3, sys
from flask_phoenix import Broadcaster, History
url, file, body, killed = sys.argv[1:]
names = {}
exec(sys.stdin.read(), names)
class Killed(Broadcaster):
    def broadcast(self, *message, **options):
        if killed == "before it publishes": os.kill(os.getpid(), signal.SIGKILL)
        super().broadcast(*message, **options)
        if killed == "before its row is gone": os.kill(os.getpid(), signal.SIGKILL)
names["phoenix"] = Killed(url, histories={"room:*": History()})
database = sqlite3.connect(file)
database.execute(names["OUTBOX"])
database.execute("CREATE TABLE IF NOT EXISTS message (room, body)")
names["post"](database, "1", body)
print(database.execute("SELECT count(*) FROM outbox").fetchone()[0])
"""


@pytest.mark.parametrize("killed", ["before it publishes", "before its row is gone"])
def test_an_outbox_survives_a_crash(short_path: Path, tmp_path: Path, killed: str) -> None:
    page = (ROOT / "docs/howto/recovery.md").read_text("utf-8")
    [recipe] = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "OUTBOX" in block]

    def post(body: str, killed: str) -> subprocess.CompletedProcess[str]:
        words = (sys.executable, "-c", POSTING, f"workers://{short_path}", str(tmp_path / "app.db"), body, killed)
        return subprocess.run(words, cwd=ROOT, input=recipe, text=True, capture_output=True, timeout=START)

    assert post("hello", killed).returncode == -signal.SIGKILL
    assert post("again", "never").stdout == "0\n"
    archive = WorkersArchive(short_path)
    _, kept = archive.read(TOPIC, None)
    archive.close()
    assert [unpack_entry(TOPIC, data)[1].payload for _, data in kept or ()] == [
        '{"body":"hello"}',
        '{"body":"again"}',
    ]
