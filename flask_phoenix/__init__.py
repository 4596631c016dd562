"""Makes a Flask app a Phoenix Channels server."""

from .channel import Channel as Channel
from .channel import SocketRef as SocketRef
from .channel import intercept as intercept
from .channel import on as on
from .codec import Json as Json
from .exceptions import InvalidMessage as InvalidMessage
from .exceptions import InvalidOption as InvalidOption
from .exceptions import InvalidPayload as InvalidPayload
from .exceptions import InvalidReturn as InvalidReturn
from .exceptions import NotJoined as NotJoined
from .exceptions import NotPublished as NotPublished
from .exceptions import PhoenixError as PhoenixError
from .exceptions import Refused as Refused
from .exceptions import UnknownEvent as UnknownEvent
from .exceptions import UnknownVersion as UnknownVersion
from .exceptions import Unsupported as Unsupported
from .extension import Phoenix as Phoenix
from .message import Broadcast as Broadcast
from .message import Message as Message
from .message import Reply as Reply
from .pubsub import Adapter as Adapter
from .serializer import Serializer as Serializer
from .socket import RawSocket as RawSocket
from .socket import Socket as Socket
