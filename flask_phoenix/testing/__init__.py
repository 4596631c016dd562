"""What an author tests with: a client, and an adapter, without a network."""

from .client import Client as Client
from .client import Joined as Joined
from .client import MemoryAdapter as MemoryAdapter
