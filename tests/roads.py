"""The old names of what stands in ``tests/support`` now; goes when nobody imports it."""

from tests.support.clients import CRASHED as CRASHED
from tests.support.clients import JOIN_CRASHED as JOIN_CRASHED
from tests.support.clients import JOINED as JOINED
from tests.support.clients import UNMATCHED as UNMATCHED
from tests.support.clients import V1 as V1
from tests.support.clients import V2 as V2
from tests.support.clients import MemoryClient
from tests.support.clients import RecordingCarrier as Road
from tests.support.clients import serve as serve
from tests.support.loop import in_thread as in_thread
from tests.support.loop import turn as turn

__all__ = ["Road", "Tab"]


class Tab(MemoryClient):
    """A client by its old name."""

    @property
    def road(self) -> Road:
        """The carrier by its old name."""
        return self.carrier

    def leave(self) -> None:
        """Go away."""
        self.hang_up()
