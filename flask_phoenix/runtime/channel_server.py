"""One channel as the runtime runs it, from its join to its end (in Phoenix: ``channel/server.ex``)."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import gevent

from ..assigns import CheckedAssigns
from ..channel import GRACEFUL, Channel, check_sent, dispatch, dispatch_out, handle_error
from ..channel_runtime import ChannelRuntime, SocketRef
from ..exceptions import InvalidOption, InvalidPayload, NotJoined, PhoenixError, Refused
from ..handlers import as_reply
from ..payloads.writing import is_record
from ..places import place_of
from ..protocol.messages import EXPIRING, JOIN, LEAVE, Broadcast, Frame, Kept, Message, Reply, shown
from ..protocol.state import GIVEN_UP, JOIN_CRASHED, JOIN_TIMED_OUT, OK, TOO_MANY_JOINS, JoinReceived, Protocol
from ..pubsub.history import History, Position
from ..pubsub.local import Lane, Subscriber
from ..signals import channel_refused, channel_terminated, handled_in
from ..socket import Route, check_expires_at
from .channel_telemetry import ChannelTelemetry
from .connection import Connection
from .engine import FAILURES
from .inbox import INBOX_LIMIT, Inbox
from .recovery import Recovery, recovery_of, without_position
from .resources import Resources

#: Messages that wait for one channel's ``handle_info``, beyond which its own code is to send no more.
SEND_LIMIT = 10_000


def ignore_broadcast(broadcast: Broadcast) -> None:
    """Receive a broadcast for a channel that has ended."""


class ChannelServer(ChannelRuntime):
    """Runs one channel: its callbacks one at a time in its inbox, its subscriptions and timers, its end.

    :param lane: how broadcasts are written for this client.
    :param redispatch: handles a message that waited for the end of the join.
    """

    __slots__ = (
        "_broadcast_size",
        "_decided",
        "_handled",
        "_has_read",
        "_held_pushes",
        "_join_timer",
        "_recovery",
        "_redispatch",
        "_resources",
        "_route",
        "_stop_reason",
        "channel",
        "connection",
        "ended",
        "inbox",
        "joined",
        "left",
        "membership",
        "protocol",
        "subscriber",
        "telemetry",
    )

    def __init__(
        self,
        connection: Connection,
        protocol: Protocol,
        lane: Lane,
        join: JoinReceived,
        redispatch: Callable[[Message, int], None],
    ) -> None:
        self.connection = connection
        self.protocol = protocol
        self.membership = join.membership
        self.inbox = Inbox(connection.engine.runners, connection.context, connection.account)
        #: Bytes of broadcasts that wait in the inbox.
        self._broadcast_size = 0
        self._join_timer: Any = None
        #: The author's object, made by the join.
        self.channel: Any = None
        #: The author has let it in.
        self._decided = False
        self.joined = False
        self.ended = self.left = False
        self._redispatch = redispatch
        self._route: Route = join.route
        #: The message that is being handled.
        self._handled: Message | None = None
        #: What is told of this channel.
        self.telemetry = ChannelTelemetry(connection, join.route, join.membership.topic)
        #: Where the topic has a history and the client tells positions: what it has missed.
        self._recovery: Recovery | None = None
        #: Where the topic was when the author's join read its history; None: it did not.
        self._has_read: Position | None = None
        #: What is pushed while a broadcast with a position passes through its interceptor.
        self._held_pushes: list[tuple[str, Any]] | None = None
        #: What :meth:`stop` was given, in a tuple.
        self._stop_reason: tuple[Any] | None = None
        #: What the author has asked for, and ends with the channel.
        self._resources: Resources | None = None
        #: The channel as a subscriber of its own topic.
        intercepts = self._route.channel.intercepts
        conflation = self._route.channel.conflation if connection.carrier.conflates else None
        self.subscriber = Subscriber(
            self._receive_intercepted, lane, connection.carrier.write, intercepts, connection.missed, conflation
        )

    # What the connection asks for. Each but end() is called by the inbox.

    def join(self, join: JoinReceived) -> None:
        """Ask the author, answer, and handle what was held meanwhile."""
        began = perf_counter()
        reply = self._await_turn() or self._decide(join)
        if self.ended:
            return
        connection, protocol = self.connection, self.protocol
        try:
            frame = self._admit(join, reply) if reply.status == "ok" else protocol.refuse(join, reply)
        except FAILURES as failure:
            self.telemetry.note_crash("cannot be joined", "in its join", failure, join.message.payload)
            connection.engine.caught(failure)
            reply, frame = JOIN_CRASHED, protocol.refuse(join, JOIN_CRASHED)
        if frame is None:
            return
        connection.send(frame)
        self.telemetry.note_join(join.message, reply, self.joined, perf_counter() - began)
        if join.replaced is not None:
            connection.send(protocol.close(join.replaced))
        if not self.joined:
            protocol.forget(self.membership)
        self._stop_join_timer()
        for message, size in protocol.release(self.membership):  # which wait in the inbox for the end of this call
            self._redispatch(message, size)
        if self.joined and self._recovery is not None and not self._replay(self._recovery):
            return
        if self.joined:
            if connection.expiry is not None and connection.expiry.told:
                self.tell_expiring(connection.expiry.left)
            connection.context.copy().run(self._run, self.channel.after_join)
        elif reply is JOIN_CRASHED:
            self.ended = True
            self._clean_up()
            self._let_go()
        else:
            self.end("shutdown")

    def limit_join(self, join: JoinReceived) -> None:
        """Let a join that has blocked take so much time and no more."""
        seconds = self.connection.bounds.join_timeout
        if seconds is not None and not self.joined and not self.ended:
            self._join_timer = gevent.get_hub().loop.timer(seconds)
            self._join_timer.start(self._time_out, join)

    def handle_in(self, message: Message) -> None:
        """Let the author handle an event, and answer."""
        self._handled = message
        try:
            with self.connection.app_context():
                if self.telemetry.measured or handled_in.receivers:
                    frame = self.telemetry.follow_in(message, self._answer_in)
                else:
                    frame = self._answer_in(message)
            if frame is not None:
                self.connection.send(frame)
        except FAILURES as failure:
            self._fail(failure, f"at event {shown(message.event)}")
        finally:
            self._handled = None

    def leave(self, message: Message) -> None:
        """Let the client go."""
        self._answer(message.ref, OK)
        self._close("left")

    def end(self, reason: Any, start: Callable[[Inbox, Any, Any], None] = Inbox.put) -> None:
        """End without telling the client; a callback that runs may finish, then ``terminate`` is called."""
        if self.ended:
            return
        self.ended = True
        self._clean_up()
        start(self.inbox, self._terminate, reason)

    def disconnect(self) -> None:
        """End at once, for good: the client does not join again by itself. A join that runs is decided first."""
        if not self.joined:
            self.stop("disconnected")
        elif not self.ended:
            self.left = True
            self.connection.send(self.protocol.close(self.membership))
            self.end("disconnected")

    def tell_expiring(self, left: float) -> None:
        """Tell the client that its connection will be closed in so many seconds."""
        if self.joined and not self.ended:
            self.connection.send(self.protocol.push(self.membership, EXPIRING, {"expires_in": round(left, 3)}))

    # What the author asks for, through the channel.

    def push(self, event: str, payload: Any) -> None:
        """Send an event to this client."""
        self._require_joined("push")
        if not isinstance(event, str):
            raise InvalidPayload(f"an event is a string, as in self.push('new_msg', {{...}}); got {shown(event)}")
        frame = self.protocol.push(self.membership, event, payload)
        if self._held_pushes is None:
            self.connection.send(frame)
        else:
            self._held_pushes.append((event, payload))

    def broadcast(self, event: str, payload: Any, everybody: bool) -> None:
        """Send an event to the subscribers of the topic, this channel among them or not."""
        self._require_joined("broadcast")
        broadcast = Broadcast(self.membership.topic, event, payload)
        self.connection.engine.broadcast(broadcast, None if everybody else self.subscriber)

    def socket_ref(self) -> SocketRef:
        """Remember the message that is being handled."""
        self._require_joined("socket_ref")
        if self._handled is None or self._handled.ref is None:
            raise NotJoined("socket_ref() works while a message with a ref is handled; this one cannot be answered")
        return SocketRef(self._handled.ref)

    def reply(self, socket_ref: SocketRef, reply: Reply) -> None:
        """Answer a remembered message."""
        if not isinstance(socket_ref, SocketRef):
            raise InvalidOption(
                f"reply answers what self.socket_ref() remembers while a message is handled; got {shown(socket_ref)}."
                " To answer the message that is handled, return the reply"
            )
        self._answer(socket_ref.ref, reply)

    def refresh(self, payload: Any) -> Reply:
        """Let the socket take a new token.

        :raises Refused: it does not.
        :raises InvalidReturn: it returned no time.
        """
        socket: Any = self.connection.socket
        expires_at = socket.refresh(payload.get("token") if isinstance(payload, dict) else None)
        check_expires_at(expires_at, f"{type(socket).__name__}.refresh")
        socket.expires_at = expires_at
        self.connection.expire()
        return OK

    def stop(self, reason: Any) -> None:
        """End the channel after the callback that runs."""
        self._stop_reason = (reason,)
        if not self.ended:
            self.connection.engine.hub.call(self.inbox.put_next, self._settle)

    def send(self, message: Any) -> None:
        """Queue a message for the channel's own ``handle_info``, within bounds."""
        if len(self.inbox) < SEND_LIMIT:
            self._queue(self._inform, message)
        elif self._stop_reason is None:
            self.connection.engine.reach("send_limit", connection=self.connection)
            self.stop(PhoenixError(f"{SEND_LIMIT} messages wait: its handle_info is slower than what it is sent"))

    def send_after(self, seconds: float, message: Any) -> Callable[[], None]:
        """Queue a message in so many seconds; the answer is a function that cancels it."""
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise InvalidOption(f"send_after takes seconds, and then the message; got {shown(seconds)} as seconds")
        if self.ended:
            return lambda: None
        return self._hold().call_after(seconds, lambda: self.send(message))

    def spawn(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        """Call a function in a greenlet of its own, which ends with the channel."""
        if not callable(function):
            raise InvalidOption(
                f"spawn takes a function and its arguments, self.spawn(self.work, 1), and calls it itself; got"
                f" {shown(function)}"
            )
        if not self.ended:
            context = self.connection.context.copy()
            self._hold().spawn(lambda: context.run(self._run_spawned, function, arguments))

    def ignore(self, events: tuple[str, ...]) -> None:
        """Send this client no broadcasts of these events."""
        if self._decided:
            raise InvalidOption(f"{self._name} may call ignore in its join alone: who hears what is settled then")
        if not all(isinstance(event, str) for event in events):
            raise InvalidOption(f"expected names of events, as in self.ignore('typing'), got {events!r:.200}")
        self.subscriber.ignores |= frozenset(events)

    def subscribe(self, topic: str) -> None:
        """Hear another topic."""
        if not self.ended:
            self._hold().subscribe(topic)

    def unsubscribe(self, topic: str) -> None:
        """Hear another topic no more."""
        if not self.ended:
            self._hold().unsubscribe(topic)

    def at_end(self, release: Callable[[], None]) -> bool:
        """Call a function when the channel ends, however it ends; return False where it has ended already."""
        self._require_joined("track")
        if not self.ended:
            self._hold().at_end(release)
        return not self.ended

    def history(self, since: str | None, limit: int | None) -> list[Kept]:
        """Return what the topic keeps."""
        position, kept = self.connection.engine.history(self.membership.topic, since, limit)
        if not self._decided:
            self._has_read = self._has_read or position
        return kept

    @property
    def id(self) -> str | None:
        """The id of the client's socket, if it has one."""
        return self.connection.id

    def once(self, key: str, call: Callable[[], Reply | None]) -> Reply | None:
        """Call a function, unless it was called for this key of the topic."""
        return self.connection.engine.once(self.membership.topic, key, call)

    # The join.

    def _time_out(self, join: JoinReceived) -> None:
        """Refuse a join that takes too long; what its callback decides later does not count."""
        self._stop_join_timer()
        if self.joined or self.ended:
            return
        connection, protocol = self.connection, self.protocol
        connection.engine.reach("join_timeout", connection=connection)
        seconds = connection.bounds.join_timeout
        self.telemetry.log("is refused", f"its join takes longer than {seconds} s (join_timeout)")
        self.telemetry.tell(channel_refused, reason=JOIN_TIMED_OUT.response, seconds=seconds)
        connection.send(protocol.refuse(join, JOIN_TIMED_OUT))
        if join.replaced is not None:
            connection.send(protocol.close(join.replaced))
        held = protocol.release(self.membership)
        self.end("shutdown")
        for message, size in held:
            self._redispatch(message, size)

    def _stop_join_timer(self) -> None:
        timer, self._join_timer = self._join_timer, None
        if timer is not None:
            timer.close()

    def _await_turn(self) -> Reply | None:
        """Wait, where joins are many; return the reply of one that is not to be handled."""
        engine = self.connection.engine
        rate = engine.caps.joins
        if rate is None:
            return None
        if not rate.wait():
            engine.reach("joins_per_second", connection=self.connection)
            engine.caps.report("joins_per_second")
            return TOO_MANY_JOINS
        return TOO_MANY_JOINS if self.ended else None

    def _decide(self, join: JoinReceived) -> Reply:
        """Return the reply to a join: what the author decides, or that it crashed."""
        try:
            with self.connection.app_context():
                return self._ask(join)
        except FAILURES as failure:
            self.telemetry.note_crash("crashed in its join", "in its join", failure, join.message.payload)
            self.connection.engine.caught(failure)
            return JOIN_CRASHED

    def _ask(self, join: JoinReceived) -> Reply:
        try:
            channel, payload = self._make(), self._read_join(join.message.payload)
            return as_reply(channel.join(payload, **channel.variables), channel, "join") or OK
        except Refused as refused:
            return Reply("error", refused.response)
        except FAILURES as failure:
            if (reply := self._handle_error(failure)) is None:
                raise
            return reply

    def _read_join(self, payload: Any) -> Any:
        """Make a join's payload one of its declared type, which need not know of positions.

        :raises Refused: it is none.
        """
        read = self._route.channel.read_join
        if read is None:
            return payload
        try:
            return read(payload)
        except Refused:
            bare = without_position(payload) if self._route.channel.history.size else payload
            if bare is payload:
                raise
        return read(bare)

    def _make(self) -> Channel:
        """Make the author's object."""
        socket, route, topic = self.connection.socket, self._route, self.membership.topic
        assigns = {**socket.assigns, **route.assigns}
        if type(socket.assigns) is CheckedAssigns:
            assigns = CheckedAssigns(self._name, assigns)
        channel = route.channel(self, topic, route.subtopic(topic), assigns)
        channel.params, channel.transport = socket.params, socket.transport
        channel.variables = route.variables(topic)
        self.channel = self.telemetry.channel = channel
        return channel

    def _admit(self, join: JoinReceived, reply: Reply) -> Frame | None:
        """Let the client in; None: the channel ended while the other nodes were told of its topic.

        Until they know, it is not joined, and what the client sends waits. Nothing comes between the subscription and
        the reply, nor between the subscription and the look at what the client has missed.
        """
        history = self._route.channel.history
        if history.size and (recovery := recovery_of(join.message.payload)) is not None:
            self._recovery, recovery.has_read = recovery, self._has_read
            self._tell_positions(recovery)
        self._decided = True
        try:
            if history.size:
                self._enter(history)
            else:
                self._subscribe()
        except FAILURES:
            if not self.ended:
                raise
        if self.ended:
            return None
        if self._recovery is not None:
            if any(message.event in (JOIN, LEAVE) for message, _ in self.membership.held):
                # The client waits for this join no more, and would take what follows for an answer to its next one.
                self.connection.engine.histories.leave(self.membership.topic, self.subscriber)
                return self.protocol.refuse(join, GIVEN_UP)
            self._recovery.skip(self.subscriber.ignores)
            if is_record(reply.response):
                reply = reply._replace(response=self.connection.engine.as_written(reply.response))
            reply = self._recovery.tell(reply)
        try:
            frame = self.protocol.accept(join, reply)
        except InvalidPayload as error:
            raise self._of_reply("join", error) from error
        self.joined = True
        self.connection.engine.joined_patterns.add(self._route.pattern)
        return frame

    def _tell_positions(self, recovery: Recovery) -> None:
        """Tell this client the positions of broadcasts; it gets them all, none replaces another.

        Where some are intercepted, all of them pass the inbox, so that it gets them in their order.
        """
        lane = self.subscriber.lane
        if self._route.channel.intercepts or lane is None:
            ignores, self.subscriber = self.subscriber.ignores, Subscriber(self._receive_intercepted)
            self.subscriber.ignores = ignores
        else:
            self.subscriber.lane, self.subscriber.conflation = lane._replace(refs=True), None
        self.subscriber.name = recovery.name

    def _subscribe(self) -> None:
        topic, pubsub = self.membership.topic, self.connection.engine.pubsub
        pubsub.subscribe(topic, self.subscriber, self.connection.time_to_confirm())
        if self.ended:
            pubsub.unsubscribe(topic, self.subscriber)

    def _enter(self, history: History) -> None:
        """Subscribe to a topic with a history, and see what the client has missed."""
        topic, histories = self.membership.topic, self.connection.engine.histories
        histories.enter(topic, history, self.subscriber, self._recovery, self._lose)
        if self.ended:
            histories.leave(topic, self.subscriber)

    def _lose(self) -> None:
        """Have the client join again, since messages are lost: the reply tells it then."""
        if self.joined and not self.ended:
            self.connection.send(self.protocol.crash(self.membership))
            self.end("history lost")

    def _replay(self, recovery: Recovery) -> bool:
        """Send what the client has missed; return False where the channel has ended meanwhile."""
        missed, recovery.missed = recovery.missed, []
        for broadcast in missed:
            if self.ended:
                break
            if broadcast.event in self._route.channel.intercepts:
                self._pass_out_kept(self.connection.engine.pubsub.read(broadcast), self._leave_out)
            else:
                self._send_kept(broadcast)
        return not self.ended

    def _leave_out(self, failure: BaseException, where: str) -> None:
        """Go on without a broadcast: a client that joins again would come back to the same failure."""
        self._held_pushes = []
        self.telemetry.log(f"failed {where}, which its client missed and now goes without,", failure)
        self.connection.engine.caught(failure)

    # The callbacks.

    def _answer_in(self, message: Message) -> Frame | None:
        """Return the answer to a message, if there is one."""
        try:
            try:
                reply = dispatch(self.channel, message.event, message.payload)
            except Refused as refused:
                reply = Reply("error", refused.response)
            self.telemetry.outcome = "" if reply is None else reply.status
            try:
                return None if reply is None else self.protocol.reply(self.membership, message.ref, reply)
            except InvalidPayload as error:
                raise self._of_reply(self._route.channel.handlers.get(message.event, "handle_in"), error) from error
        except FAILURES as failure:
            if (reply := self._handle_error(failure)) is None:
                raise
            self.telemetry.outcome = reply.status
            return self.protocol.reply(self.membership, message.ref, reply)

    def _of_reply(self, method: str, error: InvalidPayload) -> InvalidPayload:
        """Say of which method the reply is that cannot be written."""
        return InvalidPayload(f"the reply of {self._name}.{method}{place_of(getattr(self.channel, method))}: {error}")

    def _handle_error(self, failure: BaseException) -> Reply | None:
        """Return the reply that an error handler makes of an exception; None: none, and the app has been told of it.

        :raises BaseException: the error handler failed; of this, too, the app has been told.
        """
        engine, channel = self.connection.engine, self.channel
        try:
            reply = channel and handle_error(
                failure, channel, self.connection.socket.error_handlers, engine.error_handlers
            )
        except FAILURES as another:
            engine.report(another)
            raise
        if reply is None:
            engine.report(failure)
        return reply

    def _run(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call an author's method; its failure is the channel's crash."""
        try:
            self.connection.call(function, *arguments)
        except FAILURES as failure:
            self._fail(failure, f"in {getattr(function, '__name__', function)}")

    def _run_spawned(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        """Call an author's function beside the callbacks; its failure is the channel's crash, after what waits."""
        try:
            self.connection.call(function, *arguments)
        except gevent.GreenletExit:
            pass
        except FAILURES as failure:
            self._queue(self._fail_spawned, (failure, function))

    def _fail_spawned(self, failed: tuple[BaseException, Any]) -> None:
        if not self.ended:
            failure, function = failed
            self._fail(failure, f"in {getattr(function, '__name__', function)}, which it has spawned")

    def _queue(self, call: Callable[[Any], None], argument: Any) -> None:
        if not self.ended:
            self.connection.engine.hub.call(self.inbox.put, call, argument)

    def _receive_intercepted(self, broadcast: Broadcast) -> None:
        self._queue_broadcast(self._pass_out, broadcast)

    def _receive_other(self, broadcast: Broadcast) -> None:
        self._queue_broadcast(self._inform_of, broadcast)

    def _queue_broadcast(self, call: Callable[[Any], None], broadcast: Broadcast) -> None:
        """Queue a broadcast, within bounds."""
        if len(self.inbox) < INBOX_LIMIT and self._broadcast_size < self.connection.bounds.inbox_limit:
            self._broadcast_size += len(broadcast.payload)
            self._queue(call, broadcast)
        elif self._stop_reason is None:
            size = self._broadcast_size
            self.connection.engine.reach("inbox_limit", connection=self.connection)
            self.stop(
                PhoenixError(
                    f"{len(self.inbox)} messages wait, {size} bytes of broadcasts among them:"
                    " its callbacks are slower than its broadcasts"
                )
            )

    def _take(self, broadcast: Broadcast) -> Broadcast:
        """Take a broadcast that has waited, and read its payload."""
        self._broadcast_size -= len(broadcast.payload)
        return self.connection.engine.pubsub.read(broadcast)

    def _pass_out(self, broadcast: Broadcast) -> None:
        if self.ended:
            return
        self._hand_out(self._take(broadcast))

    def _hand_out(self, broadcast: Broadcast) -> None:
        intercepted = broadcast.event in self._route.channel.intercepts
        if self._recovery is not None and isinstance(broadcast, Kept):
            if intercepted:
                self._pass_out_kept(broadcast, self._fail)
            else:
                self._send_kept(broadcast)
        elif intercepted:
            self._dispatch_out(broadcast, self._fail)
        else:
            self._send_broadcast(broadcast)

    def _pass_out_kept(self, broadcast: Kept, fail: Callable[[BaseException, str], None]) -> None:
        """Pass on a broadcast with its position: on the last of what its interceptor pushes, all of which leaves then.

        Whoever loses the connection meanwhile gets the broadcast again, from its position on.
        """
        self._held_pushes = []
        try:
            self._dispatch_out(broadcast, fail)
        finally:
            held, self._held_pushes = self._held_pushes, None
        if self.ended or not held:
            return
        *others, last = held
        frames = [self.protocol.push(self.membership, *each) for each in others]
        for frame in frames + self.protocol.push_kept(self.membership, *last, broadcast.ref):
            self.connection.send(frame)

    def _send_kept(self, broadcast: Kept) -> None:
        serializer, pubsub = self.protocol.serializer, self.connection.engine.pubsub
        due = broadcast if serializer.takes_text else pubsub.read(broadcast)
        try:
            for frame in serializer.encode_kept(Message(None, broadcast.ref, *due)):
                self.connection.send(frame)
        except InvalidPayload as error:
            self.connection.missed(broadcast, error)

    def _send_broadcast(self, broadcast: Broadcast) -> None:
        try:
            self.connection.send(self.protocol.serializer.encode_broadcast(broadcast))
        except InvalidPayload as error:
            self.connection.missed(broadcast, error)

    def _dispatch_out(self, broadcast: Broadcast, fail: Callable[[BaseException, str], None]) -> None:
        try:
            call, handled = self.connection.call, (dispatch_out, self.channel, broadcast.event, broadcast.payload)
            if self.connection.engine.tracing is None:
                call(*handled)
            else:
                self.telemetry.follow_out(broadcast, call, *handled)
        except FAILURES as failure:
            fail(failure, f"at broadcast {shown(broadcast.event)}")

    def _inform_of(self, broadcast: Broadcast) -> None:
        self._inform(self._take(broadcast))

    def _inform(self, message: Any) -> None:
        if not self.ended:
            self._run(self.channel.handle_info, message)

    def _answer(self, ref: Any, reply: Reply) -> None:
        self.connection.send(self.protocol.reply(self.membership, ref, reply))

    # The end.

    def _settle(self, _: None) -> None:
        """Do what a stop asked for, after the callback that asked."""
        if self._stop_reason is None or self.ended:
            return
        (reason,) = self._stop_reason
        if reason in (*GRACEFUL, "disconnected") or (isinstance(reason, tuple) and reason[:1] == ("shutdown",)):
            self._close(reason)
        else:
            self._crash(reason)

    def _close(self, reason: Any) -> None:
        """End on purpose: ``phx_close`` first, then ``terminate`` (``channel/server.ex``)."""
        self.ended = self.left = True
        self.connection.send(self.protocol.close(self.membership))
        self._clean_up()
        self._terminate(reason)

    def _fail(self, failure: BaseException, where: str) -> None:
        """End by an exception of a callback."""
        self._crash(failure, where)
        self.connection.engine.caught(failure)

    def _crash(self, reason: Any, where: str = "in stop") -> None:
        """End by accident: ``terminate`` first, then ``phx_error``, after which the client joins again."""
        payload = None if self._handled is None else self._handled.payload
        self.telemetry.note_crash(f"crashed {where}", where, reason, payload)
        if self.ended:
            return
        self.ended = True
        if self._resources is not None:
            self._resources.release()
        self._call_terminate(reason)
        self.connection.send(self.protocol.crash(self.membership))
        self._clean_up()
        self._let_go()

    def _terminate(self, reason: Any) -> None:
        self._call_terminate(reason)
        self._let_go()

    def _let_go(self) -> None:
        """Refer no more to what refers to this: it all goes at once, without Python's garbage collector."""
        self.channel = self.telemetry.channel = self.membership.server = None
        self.subscriber.notify = ignore_broadcast
        self.connection.channel_over(self)

    def _call_terminate(self, reason: Any) -> None:
        if self.channel is None:
            return
        try:
            self.connection.context.copy().run(self.connection.call, self.channel.terminate, reason)
        except FAILURES as failure:
            self.telemetry.log("failed to terminate", failure)
            self.connection.engine.caught(failure)
        if self.joined:
            self.telemetry.tell(channel_terminated, reason=reason)

    def _clean_up(self) -> None:
        """Free the topic; end the subscriptions, the timers and the calls that wait."""
        self._stop_join_timer()
        self.protocol.forget(self.membership)
        self.inbox.clear()
        self.connection.engine.histories.leave(self.membership.topic, self.subscriber)
        if (resources := self._resources) is not None:
            self._resources = None
            resources.free()

    def _hold(self) -> Resources:
        """Return what holds what ends with the channel."""
        if self._resources is None:
            self._resources = Resources(self.connection.engine, self._receive_other)
        return self._resources

    def _require_joined(self, verb: str) -> None:
        if not self.joined:
            raise NotJoined(
                f"{self._name} may not {verb} before its join is over: do it in after_join(self),"
                " which runs after the join's reply"
            )

    @property
    def _name(self) -> str:
        return self._route.channel.__name__


class CheckedChannelServer(ChannelServer):
    """Runs a channel, and holds what it sends to what it declares: in tests, and under debug."""

    __slots__ = ()

    def push(self, event: str, payload: Any) -> None:
        """Send an event to this client."""
        check_sent(self._route.channel, event, payload, self.connection.engine.as_written(payload))
        super().push(event, payload)

    def broadcast(self, event: str, payload: Any, everybody: bool) -> None:
        """Send an event to the subscribers of the topic."""
        self._require_joined("broadcast")
        self.connection.engine.check_sent(Broadcast(self.membership.topic, event, payload))
        super().broadcast(event, payload, everybody)
