"""How frames travel: mounts, handshakes, WebSockets, long polling."""
