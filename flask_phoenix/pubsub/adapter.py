"""What carries broadcasts between nodes, and how the scheme of a URL names it."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ..exceptions import InvalidOption, Unsupported
from .history import TOTAL, History, Position

#: The entry points in which packages name their adapters (``scheme = package.module:Adapter``), and their publishers. A
#: scheme needs no publisher of its own: its adapter makes one. With one, who only publishes does not load the adapter.
ADAPTERS, PUBLISHERS = "flask_phoenix.adapters", "flask_phoenix.publishers"

log = logging.getLogger("flask_phoenix.pubsub")

#: What adapters say where they are called as they cannot be.
RUNS_ALREADY = "this adapter runs already: make one for each app, and start it once"
WRONG_THREAD = "an adapter is asked for topics in the thread that has started it, which is that of the event loop"


class Archive:
    """Where nodes keep the histories of topics, and everybody finds them. All of it may block."""

    #: There is such a place.
    keeps = False
    #: Bytes that all topics keep together, where this is for the archive to see to.
    history_total = TOTAL
    #: Called in the thread of the event loop when that has made topics lose what they would keep.
    history_reached: Callable[[], None] = staticmethod(lambda: None)

    def keep(self, topic: str, history: History, entry: bytes, key: str) -> tuple[Position, bool]:
        """Keep an entry, and publish it with its position, as one step; return the position, and whether it is new.

        :param key: unless it is empty, an entry is kept only while none with the same key is.
        :raises InvalidPayload: it is larger than what the topic may keep.
        :raises NotPublished: it is not kept, or that is unknown.
        """
        raise NotImplementedError

    def kept(
        self, topic: str, history: History, since: Position | None
    ) -> tuple[Position, list[tuple[int, bytes]] | None]:
        """Return where a topic is, and the entries after a position, or all, by their offsets; None: some are lost.

        :raises NotPublished: nothing can be read.
        """
        raise NotImplementedError

    def position(self, topic: str, history: History) -> Position:
        """Return where a topic is.

        :raises NotPublished: nothing can be read.
        """
        raise NotImplementedError


class Adapter(Archive):
    """Carries broadcasts between nodes. Subclass it, and hand it in: ``Phoenix(adapter=...)``.

    It is started in the process that serves, never before a fork. All but :meth:`publish` is called in the thread of
    that process' event loop. Topics are any strings at all. What was published and is lost is never swallowed:
    :meth:`publish` raises what it knows at once, and what is lost later is counted in :attr:`unpublished` and logged as
    an error, one line for each loss of a link.
    """

    #: The way to other nodes is lost, or a part of it: see :meth:`tell_lost`.
    lost = False
    #: Called with True and a reason when the way is lost, with False when it is there again; set before :meth:`start`.
    lost_changed: Callable[[bool, str], None] = staticmethod(lambda lost, why: None)
    #: It knows which other nodes there are, and calls :attr:`joined` and ``gone`` of :meth:`start`. Where it does not,
    #: nodes tell each other.
    meets = False
    #: To be called, as ``gone`` of :meth:`start`, with the name of another node that has been met.
    joined: Callable[[str], None] = staticmethod(lambda node: None)
    #: How many messages were taken by :meth:`publish` and lost before another node had them.
    unpublished = 0
    #: Seconds in which :meth:`subscribe` returns, also where nothing confirms the topic. What a client waits for one
    #: after the other, its id and the topic that it joins, has this time together.
    subscribe_timeout = 2.0

    def start(self, node: str, receive: Callable[[str, bytes], None], gone: Callable[[str], None]) -> None:
        """Begin, or raise and leave nothing behind; never blocks.

        :param node: the name of this node, unique among all.
        :param receive: to be called, in the thread of the event loop and in each publisher's order, with each topic and
            data that another node has published on a topic that this one subscribes to; never with what this node has
            published. It blocks while more waits for the clients of this node than may: read no more then.
        :param gone: to be called, in the same thread, with the name of another node that is known to have ended. An
            adapter that cannot know calls it never.
        :raises InvalidOption: what it was made with cannot be used here; the message names the remedy.
        :raises PhoenixError: it runs already.
        """
        raise NotImplementedError

    def stop(self) -> None:
        """End, and free all that was started; what was published before is still handed on, as far as it can be."""
        raise NotImplementedError

    def subscribe(self, topic: str) -> None:
        """Ask for a topic; may block. When it returns, nothing that any node publishes from then on is missed.

        It is called by several greenlets at once. It does not block for long where the other nodes cannot be reached:
        all who ask meanwhile wait for one time-out together, and then nobody does until they can.

        :raises PhoenixError: it is called in another thread than that of :meth:`start`.
        """
        raise NotImplementedError

    def unsubscribe(self, topic: str) -> None:
        """Ask for a topic no more, however often it was asked for; never blocks.

        Whoever is just asking for it does not return before it is had anew.

        :raises PhoenixError: as for :meth:`subscribe`.
        """
        raise NotImplementedError

    def publish(self, topic: str, data: bytes) -> None:
        """Hand data to every other node that asks for a topic; never blocks, and may be called from any thread.

        :raises NotPublished: it is known at once that it cannot be.
        """
        raise NotImplementedError

    def lead(self, name: str, lost: Callable[[], None]) -> Callable[[], None]:
        """Wait, for as long as it takes, until this node alone leads under a name; return what gives that up.

        :param lost: to be called by the event loop itself, in a callback of it, before another node may lead; it ends
            at once what this node does as the leader.
        :raises Unsupported: this adapter cannot tell who leads.
        """
        raise Unsupported(
            f"{type(self).__name__} cannot tell who leads: write its lead(), or join the nodes by workers: or redis:"
        )

    def tell_lost(self, lost: bool, why: str = "") -> None:
        """Say that the way is lost, or there again: for the adapter to call, in the thread of the event loop."""
        if lost != self.lost:
            self.lost = lost
            self.lost_changed(lost, why)

    def when_restored(self, call: Callable[[], None]) -> Callable[[], None]:
        """Call back whenever a link was lost and is there again: what others have published meanwhile is missed.

        :return: a function that ends it.
        """
        key = object()
        calls: dict[object, Callable[[], None]] = self.__dict__.setdefault("_calls_when_restored", {})
        calls[key] = call
        return lambda: calls.pop(key, None) and None

    def restored(self) -> None:
        """Say that a link was lost and is there again: for the adapter to call, in the thread of the event loop."""
        for call in [*self.__dict__.get("_calls_when_restored", {}).values()]:
            try:
                call()
            except Exception:
                log.exception("%r failed after a link was restored", call)

    @classmethod
    def from_url(cls, url: str) -> Adapter:
        """Make the adapter that a URL describes.

        :raises InvalidOption: the URL is none of this adapter's.
        """
        raise NotImplementedError

    def publisher(self) -> Publisher:
        """Make what publishes to the same nodes from a process that is none of them; this adapter is not started."""
        raise NotImplementedError


class Publisher(Archive):
    """Publishes from outside, without an event loop: in any process, from any thread, after any fork."""

    @classmethod
    def from_url(cls, url: str) -> Publisher:
        """Make the publisher that a URL describes.

        :raises InvalidOption: the URL is none of this publisher's.
        """
        raise NotImplementedError

    def publish(self, topic: str, data: bytes) -> None:
        """Hand data to every node that asks for a topic; blocks until it is on its way.

        :raises NotPublished: nothing carries it.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Free what is held; it can be used again."""
        raise NotImplementedError


KINDS: dict[str, type[Any]] = {ADAPTERS: Adapter, PUBLISHERS: Publisher}


def find_class(url: str, group: str = ADAPTERS) -> type[Any] | None:
    """Return what a group of entry points has for the scheme of a URL, or None.

    :raises InvalidOption: it lacks a package, or is no class that belongs there.
    """
    scheme = str(url).partition(":")[0]
    for point in entry_points(group=group, name=scheme):
        try:
            found = point.load()
        except ImportError as error:
            raise InvalidOption(f"{scheme}: needs a package that is missing ({error}); {remedy(point)}") from error
        if not (isinstance(found, type) and issubclass(found, KINDS[group])):
            raise InvalidOption(f"the entry point {scheme!r} of {group} is no {KINDS[group].__name__}: {found!r}")
        return found
    return None


def adapter_class(url: str) -> type[Adapter]:
    """Return the adapter for the scheme of a URL.

    :raises InvalidOption: no package has one, or it lacks a package.
    """
    found = find_class(url)
    if found is None:
        raise InvalidOption(
            f"expected the URL of an adapter, with one of the schemes {sorted(entry_points(group=ADAPTERS).names)}; got"
            f" {str(url).partition(':')[0]!r}"
        )
    return found


def make_publisher(url: str) -> Publisher:
    """Make what publishes from outside to the nodes that a URL joins; where it can, without loading an adapter.

    :raises InvalidOption: the URL names nothing that can be.
    """
    publisher = find_class(url, PUBLISHERS)
    return adapter_class(url).from_url(url).publisher() if publisher is None else publisher.from_url(url)


def sharing_key() -> int:
    """Return what tells which calls may share a socket: all threads, but where gevent has patched the sockets, one.

    A patched socket belongs to the event loop of its thread; another thread's waits elsewhere, or for ever.
    """
    return threading.get_native_id() if socket.socket.__module__.startswith("gevent") else 0


def remedy(point: EntryPoint) -> str:
    """Tell what to type where a package is missing: an entry point names the extra that brings it."""
    package = point.dist.name if point.dist else point.module.partition(".")[0]
    return f"type: pip install '{package}[{','.join(point.extras)}]'" if point.extras else f"see what {package} needs"
