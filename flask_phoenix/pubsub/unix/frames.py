"""What the workers of one host say to each other, as bytes."""

from __future__ import annotations

import struct

#: The kinds of frame. HELLO: my name is (the topic). SUBSCRIBE, UNSUBSCRIBE: let me have what you publish on this
#: topic, or no more. SYNC: answer with SYNCED and the same data once all before this is done. PUBLISH: published on
#: this topic.
HELLO, SUBSCRIBE, UNSUBSCRIBE, SYNC, SYNCED, PUBLISH = range(6)

#: A kind, a topic and data.
PeerFrame = tuple[int, str, bytes]

#: What each frame begins with: its kind, and the sizes of its topic and its data.
HEADER = struct.Struct("!BII")


def encode_frame(kind: int, topic: str = "", data: bytes = b"") -> bytes:
    """Write a frame."""
    name = topic.encode("utf-8", "surrogatepass")
    return b"".join((HEADER.pack(kind, len(name), len(data)), name, data))


class FrameDecoder:
    """Reads frames out of a stream."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[PeerFrame]:
        """Take more of the stream; return the frames that are whole now."""
        buffer, frames, start = self._buffer, [], 0
        buffer += data
        size = len(buffer)
        with memoryview(buffer) as view:
            while start + HEADER.size <= size:
                kind, topic_size, data_size = HEADER.unpack_from(view, start)
                middle = start + HEADER.size + topic_size
                end = middle + data_size
                if end > size:
                    break
                topic = str(view[middle - topic_size : middle], "utf-8", "surrogatepass")
                frames.append((kind, topic, bytes(view[middle:end])))
                start = end
        del buffer[:start]
        return frames
