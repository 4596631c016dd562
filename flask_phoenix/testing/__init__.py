"""What an author tests with: clients without a network, and an adapter that joins apps in one process."""

from .client import Client as Client
from .client import Joined as Joined
from .in_memory import MemoryAdapter as MemoryAdapter
