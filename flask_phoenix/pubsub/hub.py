"""The Queue through which broadcasts pass, and the greenlet that delivers them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextvars import Context
from itertools import groupby
from time import monotonic, perf_counter
from typing import Any

import gevent
from gevent import GreenletExit, monkey
from gevent.event import Event
from gevent.queue import Queue

from ..exceptions import Unsupported
from ..protocol.messages import Broadcast
from .conflation import glue
from .failures import log_failure
from .local import Delivery, Stamp

log = logging.getLogger("flask_phoenix.pubsub")

#: Returns the identity of the OS thread; the patched function would return that of the greenlet.
thread_id = monkey.get_original("_thread", "get_ident")
#: A lock between OS threads; a patched one is between greenlets.
allocate_lock = monkey.get_original("_thread", "allocate_lock")

#: Receivers that are served before other greenlets may run: about a millisecond of work.
RECEIVERS_PER_TURN = 256
#: A moment that is not none at all: gevent.sleep(0) lets other greenlets run, but no socket be read.
MOMENT = 1e-6
#: Bytes that may wait here before no more is taken from other nodes; one message may be larger.
WAITING_LIMIT = 16 << 20
#: Deliveries that are gathered at most before a large one begins.
BATCH_LIMIT = 64
#: In a burst the hub waits for this share of the time that its last batch took, and for so many seconds at most.
BURST_WAIT_SHARE = 0.05
BURST_WAIT_LIMIT = 0.002
#: Seconds that another thread waits for the event loop to take up what it asks for, and to answer.
ANSWER_TIMEOUT = 30.0


class WriteTiming:
    """Measures how long broadcasts take: the wall between this room and who measures."""

    def written(self, topic: str, seconds: float, remote: bool) -> None:
        """A broadcast was written to the clients of a topic, so many seconds after it was published."""
        raise NotImplementedError


class Hub:
    """Delivers in the order in which deliveries were put, each receiver's share of a burst in one write.

    It starts with the first connection, in the process and the thread that serve it, never before a fork. Until then
    :meth:`put` delivers at once, in the caller's thread.
    """

    def __init__(self) -> None:
        # Made by start: a Queue brings gevent's event loop with it, which no process may have before it forks.
        self._queue: Queue[Delivery]
        self._greenlet: gevent.Greenlet[[], None] | None = None
        self._thread = 0
        self._loop: Any = None
        #: The number of undelivered deliveries for each key: a topic, or one receiver.
        self._pending: dict[Any, int] = {}
        self._at_end_of_turn: list[Callable[[], None]] = []
        #: Bytes of the undelivered deliveries, and what is set once there is room for more.
        self._waiting = 0
        self._room: Event | None = None
        #: Is told how long broadcasts take, where that is measured.
        self.timing: WriteTiming | None = None

    def start(self) -> None:
        """Start delivering, in this thread; a hub that runs is left alone."""
        if self._greenlet is None:
            self._thread, self._loop = thread_id(), gevent.get_hub().loop
            self._queue = Queue()
            self._spawn()

    def stop(self) -> None:
        """Stop delivering; what waits is dropped."""
        greenlet = self._greenlet
        self.forget()
        if greenlet is not None:
            greenlet.kill()

    def forget(self) -> None:
        """Run no more, in a process that was forked from the one in which this runs."""
        self._greenlet = None
        self._pending.clear()
        self._at_end_of_turn.clear()
        self._waiting = 0
        self._signal_room()

    @property
    def running(self) -> bool:
        """True from :meth:`start` to :meth:`stop`."""
        return self._greenlet is not None

    @property
    def elsewhere(self) -> bool:
        """True in any thread but the one that delivers."""
        return self._greenlet is not None and thread_id() != self._thread

    def call(self, function: Callable[..., None], *args: Any) -> None:
        """Call a function in the thread that delivers: at once when this is it."""
        if self.elsewhere:
            self._loop.run_callback_threadsafe(function, *args)
        else:
            function(*args)

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function in the thread that delivers, where it may block; return or raise what it does.

        :raises Unsupported: it has not returned in time.
        """
        if not self.elsewhere:
            return function(*args)
        ended, outcome, failed = allocate_lock(), list[Any](), list[BaseException]()
        ended.acquire()

        def work() -> None:
            try:
                outcome.append(function(*args))
            except BaseException as error:
                failed.append(error)
            finally:
                ended.release()

        self._loop.run_callback_threadsafe(Context().run, gevent.spawn, work)
        if not ended.acquire(True, ANSWER_TIMEOUT):
            raise Unsupported(f"the event loop of this process did not answer within {ANSWER_TIMEOUT:.0f} s")
        if failed:
            raise failed[0]
        return outcome[0]

    def put(self, delivery: Delivery) -> None:
        """Queue a delivery; from any thread."""
        self.call(self._put, delivery)

    def wait_for_room(self) -> None:
        """Wait while much is to be delivered: for who hands on what other nodes publish, and reads no more meanwhile.

        What this process publishes itself does not wait: that takes its share of each turn like the deliveries.
        """
        while self._waiting > WAITING_LIMIT and gevent.getcurrent() is not gevent.get_hub():
            self._room = self._room or Event()
            self._room.wait()

    def at_end_of_turn(self, call: Callable[[], None]) -> None:
        """Call back at the end of this turn of the event loop, and before anything is delivered.

        What a client is sent in one turn is written in one go then. Replies written one by one, as their
        handlers end, would wake a client that waits on the same machine once for each of them.
        """
        if not self._at_end_of_turn:
            self._loop.run_callback(self._turn)
        self._at_end_of_turn.append(call)

    def owes(self, receiver: Any, topics: Iterable[Any]) -> bool:
        """Tell whether a frame for this receiver must be put here: others come first, or this is another thread."""
        if not self._pending:
            return thread_id() != self._thread and self._greenlet is not None  # elsewhere, at half the cost
        return receiver in self._pending or not self._pending.keys().isdisjoint(topics) or self.elsewhere

    def _turn(self) -> None:
        calls, self._at_end_of_turn = self._at_end_of_turn, []
        for call in calls:
            try:
                call()
            except GreenletExit:
                raise
            except BaseException:
                log_failure(log, "%r failed at the end of a turn", call)

    def _put(self, delivery: Delivery) -> None:
        if self._greenlet is None:
            self._deliver([delivery])
            return
        self._pending[delivery.key] = self._pending.get(delivery.key, 0) + 1
        self._waiting += size_of(delivery)
        self._queue.put(delivery)

    def _spawn(self) -> None:
        # In an empty context: greenlets inherit that of their maker, which may be a request's.
        self._greenlet = Context().run(gevent.spawn, self._run)
        self._greenlet.rawlink(self._ended)

    def _ended(self, greenlet: Any) -> None:
        """Go on with another greenlet, if somebody has killed this one."""
        if greenlet is self._greenlet:
            log.error("the greenlet that delivers broadcasts was killed; another one goes on")
            self._spawn()

    def _run(self) -> None:
        spent = 0.0
        while True:
            batch = [self._queue.get()]
            began = perf_counter()
            try:
                self._gather(batch, spent)
                self._turn()
                began = perf_counter()
                self._deliver(batch)
            except GreenletExit:
                raise
            except BaseException:
                log_failure(log, "%d broadcasts failed", len(batch))
            finally:
                spent = perf_counter() - began
                for delivery in batch:
                    self._delivered(delivery)
                    if delivery.stamp is not None:
                        self._measure(delivery.key, delivery.stamp)

    def _gather(self, batch: list[Delivery], spent: float) -> None:
        """Add what was put meanwhile; before much work, also what is about to be put: it can share the writes.

        :param spent: seconds that the last batch took.
        """
        self._drain(batch)
        if sum(len(delivery.receivers) for delivery in batch) <= RECEIVERS_PER_TURN:
            return
        before = 0
        while before < len(batch) < BATCH_LIMIT:
            before = len(batch)
            gevent.sleep(0)
            self._drain(batch)
        if len(batch) > 1:
            # A burst: clients that have just been served answer now, and a short wait lets their messages in.
            gevent.sleep(min(spent * BURST_WAIT_SHARE, BURST_WAIT_LIMIT))
            self._drain(batch)

    def _drain(self, batch: list[Delivery]) -> None:
        while not self._queue.empty():
            batch.append(self._queue.get_nowait())

    def _measure(self, topic: Any, stamp: Stamp) -> None:
        try:
            if self.timing is not None:
                self.timing.written(topic, monotonic() - stamp.at, stamp.remote)
        except Exception:
            log_failure(log, "the time of a broadcast cannot be measured")

    def _delivered(self, delivery: Delivery) -> None:
        if (left := self._pending.pop(delivery.key, 0)) == 0:
            return  # it has been stopped meanwhile
        if left > 1:
            self._pending[delivery.key] = left - 1
        self._waiting -= size_of(delivery)
        if self._room is not None and self._waiting <= WAITING_LIMIT:
            self._signal_room()

    def _signal_room(self) -> None:
        room, self._room = self._room, None
        if room is not None:
            room.set()

    def _deliver(self, batch: list[Delivery]) -> None:
        served = 0
        for run in plan(batch) if len(batch) > 1 else batch:
            for start in range(0, len(run.receivers), RECEIVERS_PER_TURN):
                if served >= RECEIVERS_PER_TURN:
                    served = 0
                    gevent.sleep(MOMENT)
                some = run.receivers[start : start + RECEIVERS_PER_TURN]
                try:
                    run.each(some, run.data)
                except GreenletExit:
                    raise
                except BaseException:
                    log_failure(log, "a broadcast failed at %d receivers", len(some))
                served += len(some)


def size_of(delivery: Delivery) -> int:
    """Return the bytes, or characters, that a delivery holds."""
    data = delivery.data.payload if isinstance(delivery.data, Broadcast) else delivery.data
    return len(data) if isinstance(data, bytes | str) else 0


def plan(batch: list[Delivery]) -> Iterator[Delivery]:
    """Join the bytes that each receiver's stream gets in a burst, in order; then everything else, in order."""
    runs = list(joined([delivery for delivery in batch if delivery.stream]))
    if len(runs) < 2 or are_apart(runs):
        yield from runs
    else:
        shares: dict[Any, list[bytes]] = {}
        for run in runs:
            for receiver in run.receivers:
                shares.setdefault(receiver, []).append(run.data)
        join = joiner(runs)
        for receiver, pieces in shares.items():
            yield Delivery(None, join(pieces), [receiver], True)
    yield from (delivery for delivery in batch if not delivery.stream)


def are_apart(runs: list[Delivery]) -> bool:
    """Tell whether nobody gets more than one of some deliveries: as of many topics whose clients are in one each."""
    receivers = [run.receivers for run in runs]
    return len(set().union(*receivers)) == sum(map(len, receivers))


def joined(batch: list[Delivery]) -> Iterator[Delivery]:
    """Join adjacent deliveries that go to the very same receivers: the common burst, many messages on one topic."""
    for _, run in groupby(batch, key=lambda delivery: id(delivery.receivers)):
        first, *others = deliveries = list(run)
        yield first._replace(data=joiner(deliveries)([each.data for each in deliveries])) if others else first


def joiner(deliveries: list[Delivery]) -> Callable[[list[bytes]], bytes]:
    """Return what joins the bytes of deliveries: mostly they need not be told apart any more."""
    return b"".join if all(type(delivery.data) is bytes for delivery in deliveries) else glue
