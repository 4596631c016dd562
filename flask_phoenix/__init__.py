"""Makes a Flask app a Phoenix Channels server.

Each public name is imported when it is first used: a script that only publishes loads no Flask and no gevent.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .broadcaster import Broadcaster as Broadcaster
    from .channel import Channel as Channel
    from .channel import sends as sends
    from .channel_runtime import SocketRef as SocketRef
    from .exceptions import AlreadyTracked as AlreadyTracked
    from .exceptions import ExpiredToken as ExpiredToken
    from .exceptions import HistoryLost as HistoryLost
    from .exceptions import InvalidMessage as InvalidMessage
    from .exceptions import InvalidOption as InvalidOption
    from .exceptions import InvalidPayload as InvalidPayload
    from .exceptions import InvalidReturn as InvalidReturn
    from .exceptions import InvalidToken as InvalidToken
    from .exceptions import NotJoined as NotJoined
    from .exceptions import NotPublished as NotPublished
    from .exceptions import NotTracked as NotTracked
    from .exceptions import PhoenixError as PhoenixError
    from .exceptions import Refused as Refused
    from .exceptions import UnknownEvent as UnknownEvent
    from .exceptions import UnknownVersion as UnknownVersion
    from .exceptions import Unsupported as Unsupported
    from .extension import Phoenix as Phoenix
    from .handlers import intercept as intercept
    from .handlers import on as on
    from .presence import Presence as Presence
    from .protocol.json import Json as Json
    from .protocol.messages import Broadcast as Broadcast
    from .protocol.messages import Message as Message
    from .protocol.messages import Reply as Reply
    from .protocol.serializers import Serializer as Serializer
    from .pubsub.adapter import Adapter as Adapter
    from .pubsub.adapter import Publisher as Publisher
    from .pubsub.history import History as History
    from .pubsub.history import Position as Position
    from .pubsub.redis.adapter import RedisAdapter as RedisAdapter
    from .pubsub.unix.adapter import WorkersAdapter as WorkersAdapter
    from .runtime.logs import ConnectionFilter as ConnectionFilter
    from .socket import RawSocket as RawSocket
    from .socket import Socket as Socket
else:
    from importlib import import_module
    from importlib.util import find_spec

    # The same names once more, as an interpreter needs them; tests/test_package.py holds the two lists equal.
    _NAMES = {
        "broadcaster": "Broadcaster",
        "channel": "Channel sends",
        "channel_runtime": "SocketRef",
        "handlers": "intercept on",
        "exceptions": "AlreadyTracked ExpiredToken HistoryLost InvalidMessage InvalidOption InvalidPayload"
        " InvalidReturn InvalidToken NotJoined NotPublished NotTracked PhoenixError Refused UnknownEvent UnknownVersion"
        " Unsupported",
        "extension": "Phoenix",
        "presence": "Presence",
        "protocol.json": "Json",
        "protocol.messages": "Broadcast Message Reply",
        "protocol.serializers": "Serializer",
        "pubsub.adapter": "Adapter Publisher",
        "pubsub.history": "History Position",
        "pubsub.redis.adapter": "RedisAdapter",
        "pubsub.unix.adapter": "WorkersAdapter",
        "runtime.logs": "ConnectionFilter",
        "socket": "RawSocket Socket",
    }
    _MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}
    _SUBMODULES = {module.partition(".")[0] for module in _NAMES}
    # Who asks for all names and has no redis-py does not mean the one that needs it.
    __all__ = sorted(name for name in _MODULES if name != "RedisAdapter" or find_spec("redis"))

    def __getattr__(name):
        if name in _SUBMODULES:  # flask_phoenix.exceptions, after no more than `import flask_phoenix`
            return import_module(f".{name}", __name__)
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
        except ModuleNotFoundError as error:
            if name != "RedisAdapter" or str(error.name).partition(".")[0] != "redis":
                raise
            raise ImportError(f"{name} needs redis-py; type: pip install 'flask_phoenix[redis]'") from error
        globals()[name] = value  # found at once from now on
        return value

    def __dir__():
        return sorted({*globals(), *__all__})
