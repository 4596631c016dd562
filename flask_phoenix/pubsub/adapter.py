"""What carries broadcasts between nodes, and how the scheme of a URL names it."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ..exceptions import InvalidOption

#: The entry points in which packages name their adapters (``scheme = package.module:Adapter``), and their publishers. A
#: scheme needs no publisher of its own: its adapter makes one. With one, who only publishes does not load the adapter.
ADAPTERS, PUBLISHERS = "flask_phoenix.adapters", "flask_phoenix.publishers"


class Adapter:
    """Carries broadcasts between nodes. Subclass it, and hand it in: ``Phoenix(adapter=...)``.

    It is started in the process that serves, never before a fork. Topics are any strings at all. What was published
    and is lost is never swallowed: :meth:`publish` raises what it knows at once, and what is lost later is counted in
    :attr:`unpublished` and logged as an error, one line for each loss of a link.
    """

    #: How many messages were taken by :meth:`publish` and lost before another node had them.
    unpublished = 0

    def start(self, node: str, receive: Callable[[str, bytes], None], gone: Callable[[str], None]) -> None:
        """Begin.

        :param node: the name of this node, unique among all.
        :param receive: to be called, in the thread of the event loop and in each publisher's order, with each topic and
            data that another node has published on a topic that this one subscribes to; never with what this node has
            published.
        :param gone: to be called, in the same thread, with the name of another node that is known to have ended. An
            adapter that cannot know calls it never.
        """
        raise NotImplementedError

    def stop(self) -> None:
        """End, and free all that was started; what was published before is still handed on, as far as it can be."""
        raise NotImplementedError

    def subscribe(self, topic: str) -> None:
        """Ask for a topic; may block. When it returns, nothing that any node publishes from then on is missed.

        It is called in the thread of the event loop, by several greenlets at once.
        """
        raise NotImplementedError

    def unsubscribe(self, topic: str) -> None:
        """Ask for a topic no more, however often it was asked for; never blocks."""
        raise NotImplementedError

    def publish(self, topic: str, data: bytes) -> None:
        """Hand data to every other node that asks for a topic; never blocks, and may be called from any thread.

        :raises NotPublished: it is known at once that it cannot be.
        """
        raise NotImplementedError

    @classmethod
    def from_url(cls, url: str) -> Adapter:
        """Make the adapter that a URL describes.

        :raises InvalidOption: the URL is none of this adapter's.
        """
        raise NotImplementedError

    def publisher(self) -> Publisher:
        """Make what publishes to the same nodes from a process that is none of them; this adapter is not started."""
        raise NotImplementedError


class Publisher:
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


def remedy(point: EntryPoint) -> str:
    """Tell what to type where a package is missing: an entry point names the extra that brings it."""
    package = point.dist.name if point.dist else point.module.partition(".")[0]
    return f"type: pip install '{package}[{','.join(point.extras)}]'" if point.extras else f"see what {package} needs"
