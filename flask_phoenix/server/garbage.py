"""Python's garbage collector, which looks in parts: what outlived one look is left out of those that follow."""

from __future__ import annotations

import gc

#: How many objects come to stay, at least, before all are looked at again.
NEW_OBJECTS = 500_000

#: The generation that Python's collector looks at together with all others.
OLDEST = 2


class PartialCollector:
    """Has Python's garbage collector look at what is new alone, and at everything once as much again has come to stay.

    By itself it looks at all that lives whenever that has grown by a quarter, in one piece, in which nobody is served:
    a tenth of a second with 10,000 clients. Here, what outlived a look is frozen (:func:`gc.freeze`), which is to say
    left out. Most objects go without the collector, frozen or not; those that refer to each other in a circle, and
    became garbage after they were frozen, stay until everything is looked at again.
    """

    def __init__(self) -> None:
        #: How many objects were left by the last look at all, and how many have come to stay since, about.
        self._known = self._new = 0
        self._thorough = False

    def start(self) -> None:
        """Begin, without what lives already: what an app has loaded stays."""
        gc.collect()
        gc.freeze()
        self._known = gc.get_freeze_count()
        gc.callbacks.append(self._collected)

    def stop(self) -> None:
        """Let Python's collector do as it does by itself."""
        if self._collected in gc.callbacks:  # else somebody has cleared them
            gc.callbacks.remove(self._collected)
        gc.unfreeze()

    def _collected(self, phase: str, info: dict[str, int]) -> None:
        if phase != "stop" or info["generation"] != OLDEST:
            return
        survivors = len(gc.get_objects(OLDEST))
        gc.freeze()
        if self._thorough:
            self._known, self._new, self._thorough = survivors, 0, False
            return
        self._new += survivors
        limit = max(self._known, NEW_OBJECTS)
        if self._new > limit:
            self._new = gc.get_freeze_count() - self._known  # some of them have gone; this takes a while
            if self._new > limit:
                self._thorough = True
                gc.unfreeze()


def collect_in_parts() -> None:
    """Have Python's collector look in parts from now on, for as long as this process lives.

    ``phoenix.run`` and ``flask run`` do that by themselves. Under gunicorn, call it in ``post_worker_init``.
    """
    PartialCollector().start()
