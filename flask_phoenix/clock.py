"""The time as everything here reads it: a test puts another one in its place (``flask_phoenix.testing.Clock``).

What is due later waits with a timer of gevent's event loop, which such a test replaces as well. Waits of less than
five milliseconds are turns of that loop, and no time.
"""

from __future__ import annotations

import time as system

#: Returns seconds of a clock that never jumps.
monotonic = system.monotonic
#: Returns seconds of Unix time.
time = system.time
