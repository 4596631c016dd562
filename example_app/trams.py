"""The trams, in a process of their own, that tell where they are: ``python -m example_app.trams``.

This is no server, and nobody is connected to it. It knows the way to the workers from ``PHOENIX_PUBSUB_URL``, as they
do, and broadcasts to whoever has joined a line's topic there.
"""

from __future__ import annotations

import logging
import random
import time
from contextlib import suppress

import click

from example_app.city import LINES
from flask_phoenix import Broadcaster, NotPublished

log = logging.getLogger(__name__)

#: Seconds between two broadcasts of each line; the page draws what lies between.
TICK = 0.4

#: What is told of a tram: its number, x, y and heading.
Told = tuple[int, float, float, float]


class Fleet:
    """So many trams, spread over all lines."""

    def __init__(self, count: int) -> None:
        share = count / sum(line.period for line in LINES.values())
        chance = random.Random(8)  # the same fleet each time
        self._starts = {
            number: [(each + chance.uniform(-0.3, 0.3)) / share for each in range(round(line.period * share))]
            for number, line in LINES.items()
        }

    def told(self, line: int, now: float) -> list[Told]:
        """What is told of a line's trams.

        It follows from the time alone, so that trams go on, and do not jump, when this process is started again.
        """
        places = [LINES[line].place(now + start) for start in self._starts[line]]
        return [
            (line * 1000 + index, round(x, 1), round(y, 1), round(heading))
            for index, (x, y, heading) in enumerate(places)
        ]


def tell(broadcaster: Broadcaster, fleet: Fleet, now: float) -> None:
    """Broadcast where the trams are: one message for each line, so that a page hears the lines that it shows.

    :raises NotPublished: nobody has taken it.
    """
    for line in LINES:
        broadcaster.broadcast(f"map:{line}", "positions", {"at": round(now * 1000), "trams": fleet.told(line, now)})


def run(broadcaster: Broadcaster, fleet: Fleet) -> None:
    """Broadcast at each tick, for ever."""
    heard = False
    while True:
        try:
            tell(broadcaster, fleet, time.time())
            heard = True
        except NotPublished as error:
            # A position is worth nothing a moment later, so what is lost is not sent again. Before the first client
            # comes no worker listens yet, and that is no trouble.
            if heard:
                log.warning("nobody hears the trams: %s", error)
            heard = False
        time.sleep(TICK - time.time() % TICK)


@click.command()
@click.option("--trams", default=300, show_default=True, help="How many.")
def main(trams: int) -> None:
    """Let trams run through the example's map."""
    with suppress(KeyboardInterrupt), Broadcaster() as broadcaster:
        run(broadcaster, Fleet(trams))


if __name__ == "__main__":
    main()
