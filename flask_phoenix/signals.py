"""Signals: what a process tells its operators, as Flask's signals do. Without a receiver they cost nothing.

Each is sent with the app, in its context; docs/reference/telemetry.md lists what comes with them.
"""

from __future__ import annotations

from blinker import Namespace

_signals = Namespace()

#: A client was let in, and its frames are carried.
socket_connected = _signals.signal("socket-connected")
#: A client was refused at the door.
socket_refused = _signals.signal("socket-refused")
#: A client's connection has ended, from whichever side.
socket_disconnected = _signals.signal("socket-disconnected")
#: A client has joined a topic.
channel_joined = _signals.signal("channel-joined")
#: A join was refused.
channel_refused = _signals.signal("channel-refused")
#: A channel, or its join, has ended by accident.
channel_crashed = _signals.signal("channel-crashed")
#: A channel that was joined has ended, for whichever reason.
channel_terminated = _signals.signal("channel-terminated")
#: An event of a client was handled, or its handler crashed.
handled_in = _signals.signal("handled-in")
#: A broadcast goes to the subscribers of this process.
broadcast_sent = _signals.signal("broadcast-sent")
#: A client goes without a broadcast, which its transport or its vsn cannot carry.
broadcast_missed = _signals.signal("broadcast-missed")
#: A client reads too slowly, and is closed.
slow_client = _signals.signal("slow-client")
#: A bound was reached.
limit_reached = _signals.signal("limit-reached")
#: This process lets its clients go.
drain_begun = _signals.signal("drain-begun")
#: All of them have gone.
drain_done = _signals.signal("drain-done")
#: Another node is known from now on.
node_joined = _signals.signal("node-joined")
#: Another node has ended.
node_gone = _signals.signal("node-gone")
#: The way to other nodes is lost, or a part of it.
adapter_lost = _signals.signal("adapter-lost")
#: The way to other nodes is there again.
adapter_back = _signals.signal("adapter-back")
