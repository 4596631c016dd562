"""What an author tests with: clients, virtual time, and an adapter that joins apps in one process."""

from .client import Joined as Joined
from .clock import Clock as Clock
from .frames import Wire as Wire
from .in_memory import MemoryAdapter as MemoryAdapter
from .live import LiveClient as LiveClient
from .live import LiveServer as LiveServer
from .matching import ANYTHING as ANYTHING
from .memory import Client as Client
from .memory import Clients as Clients
