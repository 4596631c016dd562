"""Bytes that no client would send: they are answered, or end the connection with a documented code; nothing fails."""

from __future__ import annotations

import json
import logging
import os
import zlib
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from flask_phoenix.exceptions import InvalidMessage
from flask_phoenix.protocol.messages import Message
from flask_phoenix.protocol.serializers import Serializer
from flask_phoenix.transports.longpoll import registry
from flask_phoenix.transports.websocket import FrameSplitter, Limits, read_message
from tests.support.clients import KINDS, V1, V2, Room, Site
from tests.support.wire import Entry, write

#: More of them take minutes.
EXAMPLES = int(os.environ.get("PHOENIX_TEST_EXAMPLES", "100"))
FUZZ = settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
#: Where each example is a client.
CLIENTS = settings(FUZZ, max_examples=EXAMPLES // 4)
#: What docs/explanation/security.md and RFC 6455 say of a client that is closed for what it has sent.
CODES = {1000, 1002, 1003, 1007, 1008, 1009, 1011}
#: Bytes of one message, in these tests.
MAX_FRAME = 2000
DEFLATE = {"Sec-WebSocket-Extensions": "permessage-deflate; client_no_context_takeover; server_no_context_takeover"}

names = st.sampled_from(
    ["room:1", "room:2", "phoenix", "phx_join", "phx_leave", "heartbeat", "echo", "phx_reply", "", "é"]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | names,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=5,
)
messages = st.lists(names | values, max_size=6).map(json.dumps) | st.dictionaries(
    st.sampled_from(["topic", "event", "payload", "ref", "join_ref", "more"]), names | values
).map(json.dumps)
texts = st.binary(max_size=200) | messages.map(str.encode) | st.sampled_from([b"x" * 1999, b"[" * 2000, b"1" * 2001])
#: What a client of vsn 2.0.0 pushes as bytes: the head's lengths need not be true.
pushes = st.builds(
    lambda kind, sizes, rest: bytes([kind, *sizes]) + rest,
    st.integers(0, 4),
    st.lists(st.integers(0, 255), min_size=4, max_size=4),
    st.binary(max_size=40) | st.just(b"11room:1echo..."),
)


def deflated(data: bytes) -> bytes:
    """Compress a message."""
    encoder = zlib.compressobj(wbits=-15)
    return (encoder.compress(data) + encoder.flush(zlib.Z_SYNC_FLUSH))[:-4]


frames = st.builds(
    lambda opcode, data, fin, rsv, mask: write(opcode, data, fin=fin, rsv=rsv, mask=mask),
    st.sampled_from([1, 1, 1, 2, 2, 0, 0, 8, 9, 10]) | st.integers(0, 15),
    texts | pushes | texts.map(deflated) | st.just(deflated(b"x" * 2001)),
    st.sampled_from([True, True, True, False]),
    st.sampled_from([0, 0, 0, 0, 4, 4, 4, 1]),
    st.sampled_from([True] * 9 + [False]),
)
streams = st.lists(frames | frames | frames | st.binary(max_size=20), max_size=8).map(b"".join)
cuts = st.lists(st.integers(1, 100), max_size=10)


def pieces(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    """Cut a stream."""
    start = 0
    for size in sizes:
        yield data[start : start + size]
        start += size
    yield data[start:]


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    """Return an app with a room."""
    monkeypatch.setattr(registry, "UNUSED_DELAY", 0.0)
    site = Site(KINDS[0], max_frame_size=MAX_FRAME, compress=True)
    site.serve(Room)
    return site


@pytest.fixture(autouse=True)
def no_tracebacks(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """See that nothing has failed by accident."""
    caplog.set_level(logging.WARNING)
    yield
    failures = [record for when in ("setup", "call") for record in caplog.get_records(when) if record.exc_info]
    assert failures == []


@FUZZ
@given(data=streams, sizes=cuts)
def test_a_stream_is_cut_at_its_frames(data: bytes, sizes: list[int]) -> None:
    splitter = FrameSplitter()
    assert b"".join(piece for cut in pieces(data, sizes) for piece in splitter.split(cut)) == data


@FUZZ
@given(data=frames | st.binary(max_size=20))
def test_the_short_way_of_a_frame_reads_what_the_codec_reads(data: bytes) -> None:
    read = read_message(data, Limits(None, MAX_FRAME, 0))
    if read is not None:
        opcode, message = read
        assert len(message) <= MAX_FRAME
        mask = data[-len(message) - 4 : len(data) - len(message)]
        assert data[:1] == bytes([0x80 | opcode])
        assert message == bytes(byte ^ mask[at % 4] for at, byte in enumerate(data[len(data) - len(message) :]))


@pytest.mark.parametrize("serializer", [V1, V2])
@FUZZ
@given(frame=messages | texts | pushes)
@example(frame=b"\x00\x01\x01\x06\x0411room:1echo")
def test_a_frame_is_a_message_or_an_invalid_one(serializer: Serializer, frame: Any) -> None:
    try:
        message = serializer.decode(frame)
    except InvalidMessage:
        return
    assert isinstance(message, Message)


@pytest.mark.parametrize("vsn", ["1.0.0", "2.0.0"])
@pytest.mark.parametrize("headers", [{}, DEFLATE], ids=["plain", "deflated"])
@CLIENTS
@given(data=streams, sizes=cuts)
def test_whatever_comes_over_a_websocket(site: Site, vsn: str, headers: Any, data: bytes, sizes: list[int]) -> None:
    entry = Entry(site.app, f"/socket/websocket?vsn={vsn}", headers)
    assert entry.status.startswith("101 ")
    wire = entry.wire
    sending = gevent.spawn(lambda: [wire.sock.sendall(piece) for piece in pieces(data, sizes)])
    sending.join()
    # What is left of a frame that is not complete, and a close frame; or it is closed already.
    wire.sock.sendall(bytes(MAX_FRAME + 14) + write(8, b"\x03\xe8"))
    assert wire.close_code() in CODES | {1005}
    entry.close()
    engine = site.engine
    assert (engine.connections, engine.budget.total, engine.runners.busy) == (set(), 0, 0)


headers = st.dictionaries(
    st.sampled_from(
        [
            "Host",
            "Connection",
            "Upgrade",
            "Sec-WebSocket-Key",
            "Sec-WebSocket-Version",
            "Sec-WebSocket-Protocol",
            "Sec-WebSocket-Extensions",
            "Origin",
            "X-Phoenix-Longpoll-Token",
            "X-Forwarded-For",
            "Content-Type",
            "Cookie",
        ]
    ),
    st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=30)
    | st.sampled_from(
        [
            "http://localhost",
            "http://[",
            "null",
            "//*",
            "phoenix, base64url.bearer.phx.eA",
            "permessage-deflate; server_max_window_bits=8",
            'permessage-deflate; x="\\"',
            "websocket",
            "session=eyJ",
        ]
    ),
)
queries = st.dictionaries(
    st.sampled_from(["vsn", "token", "_csrf_token", "a[b]", "a[][]", "a", "%", "a[b"]),
    st.text(max_size=8) | st.sampled_from(["1.0.0", "2.0.0", "2", "2.0.0-x", "3.0.0", "0.0.0"]),
)


@CLIENTS
@given(given=headers, query=queries)
def test_whatever_a_handshake_says(site: Site, given: dict[str, str], query: dict[str, str]) -> None:
    for path in ("/socket/websocket", "/socket/longpoll"):
        response = site.app.test_client().get(path, headers=given, query_string={"vsn": "2.0.0", **query})
        assert response.status_code in (200, 400, 403, 404, 426), response.text
    entry = Entry(site.app, "/socket/websocket?vsn=2.0.0", given)
    assert entry.status[:3] in ("101", "400", "403", "426"), entry.status
    entry.close()
    site.engine.stop()


@CLIENTS
@given(
    lines=st.lists(texts | pushes | pushes.map(b64encode) | pushes.map(lambda push: b'"' + b64encode(push) + b'"')),
    kind=st.sampled_from(["application/x-ndjson", "application/json", "text/plain", ""]),
    vsn=st.sampled_from(["1.0.0", "2.0.0"]),
)
def test_whatever_a_client_that_polls_posts(site: Site, lines: list[bytes], kind: str, vsn: str) -> None:
    client, url = site.app.test_client(), f"/socket/longpoll?vsn={vsn}"
    token = {"X-Phoenix-Longpoll-Token": json.loads(client.get(url).text)["token"]}
    answer = client.post(url, data=b"\n".join(lines), headers=token, content_type=kind)
    assert (answer.status_code, json.loads(answer.text)["status"]) in [
        (200, 200),
        (200, 410),
        (200, 400),
        (400, 400),
        (200, 413),
        (200, 408),
    ]
    site.engine.stop()
