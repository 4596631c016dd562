"""``flask phoenix client``: speaks to a server as a page does, from a shell or a script."""

from __future__ import annotations

import base64
import json
import sys
from collections import deque
from collections.abc import Callable
from contextlib import closing
from itertools import count
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from time import monotonic
from typing import Any, NamedTuple

import click

from ..protocol.messages import CLOSE, ERROR, HEARTBEAT, JOIN, LEAVE, PHOENIX, REPLY, Message
from ..testing.frames import read_server_frame, write_client_frame
from .carriers import CARRIERS, LongPollCarrier, Lost, WebSocketCarrier, address
from .keyboard import Keyboard

#: Seconds of silence after which a heartbeat goes out.
HEARTBEAT_PERIOD = 25.0
#: The exit status where something was answered with an error, or not in time. (1: no connection; 2: wrong arguments.)
REFUSED = 3
#: That of Ctrl-C.
INTERRUPTED = 130
#: Messages that may come before they are waited for.
KEPT = 1000

HELP = """\
join TOPIC [PAYLOAD]         join, and wait for the reply
push TOPIC EVENT [PAYLOAD]   send an event
call TOPIC EVENT [PAYLOAD]   send an event, and wait for the reply
leave TOPIC                  leave, and wait for the reply
wait EVENT                   wait until an event comes
quit                         end
A PAYLOAD is JSON, or @ and the name of a file whose bytes are sent."""


class Line(NamedTuple):
    """A line that was typed; None: there are no more."""

    text: str | None


class Conversation:
    """One client of a server.

    :param within: seconds for a reply.
    """

    def __init__(
        self, carrier: WebSocketCarrier | LongPollCarrier, vsn: str, within: float, keyboard: Keyboard
    ) -> None:
        self._carrier = carrier
        self._keyboard = keyboard
        self._vsn = vsn
        self._within = within
        self._refs = count(1)
        self._join_refs: dict[str, str] = {}
        #: What comes from the server, what is typed, and the end of the connection.
        self.happened: Queue[Message | Line | Lost] = Queue()
        #: Lines that were typed while something else was waited for.
        self._typed: list[Line] = []
        #: What came since something was sent, and was not waited for.
        self._came: deque[Message] = deque(maxlen=KEPT)
        #: Something was answered with an error, or not in time.
        self.failed = False
        self._receiver = Thread(target=self._receive, daemon=True)
        self._receiver.start()

    def do(self, line: str) -> bool:
        """Do what a line says; return False where it ends the conversation.

        :raises click.UsageError: it says nothing that is known.
        :raises Lost: the connection is closed.
        """
        verb, *words = line.split(None, 1) or ["help"]
        rest = words[0] if words else ""
        if verb == "quit":
            return False
        if verb == "help":
            click.echo(HELP, err=True)
            return True
        if verb in ("join", "leave"):
            topic, payload = _split(line, rest, 1)
            self._expect_reply(topic, self._send(topic, JOIN if verb == "join" else LEAVE, payload))
        elif verb in ("push", "call"):
            topic, event, payload = _split(line, rest, 2)
            ref = self._send(topic, event, payload)
            if verb == "call":
                self._expect_reply(topic, ref)
        elif verb == "wait" and rest:
            self._wait(rest)
        else:
            raise click.UsageError(f"{line!r} is none of these:\n{HELP}")
        return True

    def close(self) -> None:
        """Go away."""
        self._carrier.close()
        self._receiver.join()

    def listen(self, seconds: float) -> None:
        """Print what comes, for so many seconds.

        :raises Lost: the connection is closed.
        """
        self._take(lambda message: False, monotonic() + seconds)

    def follow(self) -> None:
        """Do what each line says, as they come, and print what comes from the server meanwhile."""
        Thread(target=self._read, daemon=True).start()
        while (line := self._next_line()) is not None:
            try:
                if line.strip() and not self.do(line.strip()):
                    return
            except click.UsageError as error:
                click.echo(error.format_message(), err=True)
                self.failed = True

    def _send(self, topic: str, event: str, payload: Any) -> str:
        ref = str(next(self._refs))
        if topic != PHOENIX:
            self._came.clear()
        if event == JOIN:
            self._join_refs[topic] = ref
        message = Message(self._join_refs.get(topic), ref, topic, event, payload)
        if self._vsn.startswith("1."):
            if isinstance(payload, bytes):
                raise click.UsageError("version 1.0.0 carries no bytes")
            self._carrier.send(json.dumps(message._asdict()))
        else:
            self._carrier.send(write_client_frame(message))
        return ref

    def _wait(self, event: str) -> None:
        """Wait for an event, unless it has come since something was sent: a broadcast comes before the reply."""
        came = next((message for message in self._came if message.event == event), None)
        if came is None:
            came = self._expect(lambda message: message.event == event, f"no {event} has come")
        if came is not None:
            self._came.remove(came)

    def _expect_reply(self, topic: str, ref: str) -> None:
        def fits(message: Message) -> bool:
            ends: bool = message.event in (ERROR, CLOSE) and message.topic == topic
            return ends or (message.event == REPLY and bool(message.ref == ref))

        reply = self._expect(fits, f"no reply has come to {ref}")
        if reply is not None and reply.event != REPLY:
            click.echo(f"{topic} has ended ({reply.event}): no reply comes to {ref}", err=True)
            self.failed = True
        elif reply is not None and reply.payload["status"] != "ok":
            self.failed = True

    def _expect(self, fits: Callable[[Message], bool], otherwise: str) -> Message | None:
        message = self._take(fits, monotonic() + self._within)
        if message is None:
            click.echo(f"{otherwise} in {self._within:g} s", err=True)
            self.failed = True
        return message

    def _take(self, fits: Callable[[Message], bool], deadline: float) -> Message | None:
        """Print what comes until something fits, which is returned; None: nothing does in time."""
        while (left := deadline - monotonic()) > 0:
            happened = self._next(left)
            if isinstance(happened, Line):
                self._typed.append(happened)
            elif happened is not None and fits(happened):
                return happened
        return None

    def _next_line(self) -> str | None:
        while not self._typed:
            happened = self._next(HEARTBEAT_PERIOD)
            if isinstance(happened, Line):
                return happened.text
        return self._typed.pop(0).text

    def _next(self, seconds: float) -> Message | Line | None:
        """Wait for what happens next, and print it; None: nothing does in time."""
        try:
            happened = self.happened.get(timeout=min(seconds, HEARTBEAT_PERIOD))
        except Empty:
            if seconds >= HEARTBEAT_PERIOD:
                self._send(PHOENIX, HEARTBEAT, {})
            return None
        if isinstance(happened, Lost):
            raise happened
        if isinstance(happened, Message):
            if happened.topic == PHOENIX:
                return None
            self._came.append(happened)
            self._keyboard.show(json.dumps(happened._asdict(), default=_bytes, ensure_ascii=False))
        return happened

    def _receive(self) -> None:
        try:
            for frame in self._carrier.frames():
                self.happened.put(_read(frame))
        except Lost as lost:
            self.happened.put(lost)

    def _read(self) -> None:
        for line in self._keyboard.lines():
            self.happened.put(Line(line))
        self.happened.put(Line(None))


def _read(frame: Any) -> Message:
    """Read a frame of either version."""
    value = json.loads(frame) if isinstance(frame, str) else frame
    if isinstance(value, dict):
        return Message(None, value["ref"], value["topic"], value["event"], value["payload"])
    return Message(*value) if isinstance(value, list) else read_server_frame(value)


def _bytes(value: bytes) -> dict[str, str]:
    return {"base64": base64.b64encode(value).decode()}


def _split(line: str, rest: str, names: int) -> list[Any]:
    """Take a line apart: so many names, and a payload.

    :raises click.UsageError: a name is missing, or the payload is none.
    """
    words = rest.split(None, names)
    if len(words) < names:
        raise click.UsageError(f"{line!r} is too short:\n{HELP}")
    text = words[names] if len(words) > names else "{}"
    try:
        return [*words[:names], Path(text[1:]).read_bytes() if text.startswith("@") else json.loads(text)]
    except (OSError, ValueError) as error:
        raise click.UsageError(f"{text!r} is no payload: {error}") from error


def pairs(given: tuple[str, ...], sign: str, option: str) -> list[tuple[str, str]]:
    """Take apart what an option was given: names and values, with a sign between.

    :raises click.BadParameter: there is no such sign.
    """
    parts = [pair.partition(sign) for pair in given]
    if wrong := next((name for name, found, _ in parts if not found), None):
        raise click.BadParameter(f"{wrong!r} has no {sign!r}", param_hint=option)
    return [(name.strip(), value.strip()) for name, _, value in parts]


def headers_of(given: tuple[str, ...]) -> list[tuple[str, str]]:
    """Take apart what ``--header`` was given.

    :raises click.BadParameter: it is none, or the one that the URL says already: a request may not have two.
    """
    headers = pairs(given, ":", "--header")
    if any(name.lower() == "host" for name, _ in headers):
        raise click.BadParameter("the Host is the one of the URL: write it there", param_hint="--header")
    return headers


@click.command("client")
@click.argument("url")
@click.option("--transport", type=click.Choice(list(CARRIERS)), default="websocket", show_default=True)
@click.option("--vsn", default="2.0.0", show_default=True, help="The version of the wire format.")
@click.option("--params", multiple=True, metavar="NAME=VALUE", help="A parameter of the connect.")
@click.option("--header", multiple=True, metavar="NAME:VALUE", help="A header of the requests, such as a Cookie.")
@click.option("--auth-token", help="The client's authToken.")
@click.option("--insecure", is_flag=True, help="Take any certificate, such as one of one's own.")
@click.option("--join", "joins", multiple=True, metavar="'TOPIC [PAYLOAD]'", help="Join a topic, at first.")
@click.option("--push", "pushes", multiple=True, metavar="'TOPIC EVENT [PAYLOAD]'", help="Send an event, then.")
@click.option("--call", "calls", multiple=True, metavar="'TOPIC EVENT [PAYLOAD]'", help="The same; wait for the reply.")
@click.option("--for", "seconds", type=float, help="Print what comes for so many seconds, and end.")
@click.option("--within", type=float, default=5.0, show_default=True, help="Seconds for a reply.")
def client(
    url: str,
    transport: str,
    vsn: str,
    params: tuple[str, ...],
    header: tuple[str, ...],
    auth_token: str | None,
    insecure: bool,
    joins: tuple[str, ...],
    pushes: tuple[str, ...],
    calls: tuple[str, ...],
    seconds: float | None,
    within: float,
) -> None:
    """Speak to a server as a page does. URL is that of the mount, as localhost:5000/socket.

    What comes is written as a line of JSON each. Without --push, --call and --for, what to do is read from the standard
    input, a line each; type help. The exit status is 1 where there is no connection, or no more, 3 where something was
    answered with an error, or not in time, and 130 after Ctrl-C.
    """
    query = [("vsn", vsn), *pairs(params, "=", "--params")]
    headers = headers_of(header)
    doing = [f"{verb} {words}" for verb, each in (("join", joins), ("push", pushes), ("call", calls)) for words in each]
    try:
        carrier = CARRIERS[transport](address(url, transport, query), headers, auth_token, insecure)
        with Keyboard() as keyboard, closing(Conversation(carrier, vsn, within, keyboard)) as conversation:
            for line in doing:
                conversation.do(line)
            if seconds is None and not pushes and not calls:
                conversation.follow()
            else:
                conversation.listen(seconds or 0.0)
    except Lost as lost:
        raise click.ClickException(str(lost)) from lost
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    if conversation.failed:
        sys.exit(REFUSED)
