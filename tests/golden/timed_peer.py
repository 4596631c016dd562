"""The peer with a clock that a request advances: ``python -m tests.golden.timed_peer PORT``."""

from __future__ import annotations

import sys

from flask import request

from flask_phoenix.testing import Clock
from flask_phoenix.testing.settling import settle
from tests.golden.peer import create_app, phoenix  # it patches the standard library

if __name__ == "__main__":
    app = create_app()
    with Clock() as clock:

        @app.get("/clock")
        def advance() -> str:
            """Do all that is to be done, then let time pass until something is due; return the time.

            The parameter ``until`` is the last moment up to which it may pass.
            """
            settle()
            left = float(request.args["until"]) - clock.elapsed
            if clock.next is None or clock.next > left:
                clock.advance(max(left, 0.0))
            else:
                clock.advance_to_next()
            return repr(clock.elapsed)

        phoenix.run(app, port=int(sys.argv[1]), log=None)
