"""The chat on uWebSockets (C++), through socketify: ``python -m benchmarks.rivals.uwebsockets_chat PORT``."""

from __future__ import annotations

import json
import sys
from typing import Any

from socketify import App, AppListenOptions, CompressOptions, OpCode

app = App()


def on_message(ws: Any, text: str, opcode: OpCode) -> None:
    """Take what one client says."""
    message = json.loads(text)
    match message["event"]:
        case "join":
            ws.subscribe(message["room"])
            ws.send(json.dumps({"event": "joined"}), OpCode.TEXT)
        case "new_msg":
            said = json.dumps({"event": "new_msg", "payload": message["payload"]})
            app.publish(message["room"], said, OpCode.TEXT, True)
        case "echo":
            ws.send(json.dumps(message), OpCode.TEXT, True)


for path, compression in (("/chat", CompressOptions.DISABLED), ("/deflate", CompressOptions.SHARED_COMPRESSOR)):
    app.ws(
        path,
        {
            "compression": compression,
            "max_payload_length": 1 << 22,
            "max_backpressure": 1 << 24,
            "idle_timeout": 120,
            "message": on_message,
        },
    )

if __name__ == "__main__":
    app.listen(AppListenOptions(port=int(sys.argv[1]), host="127.0.0.1"))
    # App.run would ask asyncio's loop and this one in turn, without a rest. Nothing here needs asyncio.
    app.loop.uv_loop.run()
