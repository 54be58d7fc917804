"""An HTTP/2 client that sends what no gRPC library would: no message, a part of a message, invalid headers."""

import socket
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 4, 6, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
INITIAL_WINDOW = 4


def literal(name: bytes, value: bytes) -> bytes:
    """A header field without indexing (RFC 7541, 6.2.2). Its name and value must be shorter than 127 bytes."""
    assert len(name) < 127 and len(value) < 127
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def envelope(message: bytes, size: int | None = None) -> bytes:
    """A message with gRPC's prefix. size: the number of bytes that the prefix announces; by default the true one."""
    return b"\0" + struct.pack(">I", len(message) if size is None else size) + message


class RawConnection:
    """One connection. It sends no more than the server's flow-control windows allow.

    frames: the frames that have arrived, as (kind, flags, stream, payload). window: the bytes that the server may send
    on each stream.
    """

    def __init__(self, port: int, window: int = 1 << 20) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.settimeout(20)
        self.frames: list[tuple[int, int, int, bytes]] = []
        self._buffer = b""
        self._initial = 65535
        self._windows: dict[int, int] = {0: 65535}
        self.socket.sendall(PREFACE)
        self._frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW, window))

    def call(self, stream: int, path: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        """Begins a call. stream: an odd number, larger than those of earlier calls."""
        block = literal(b":method", b"POST") + literal(b":scheme", b"http") + literal(b":path", path.encode())
        block += literal(b":authority", b"localhost") + literal(b"te", b"trailers")
        block += literal(b"content-type", b"application/grpc")
        for name, value in headers:
            block += literal(name, value)
        self._windows[stream] = self._initial
        self._frame(HEADERS, END_HEADERS, stream, block)

    def send(self, stream: int, data: bytes, end: bool = False) -> int:
        """Sends data on a stream. Returns the number of bytes that were sent.

        These are fewer than all if the server's flow-control window is used up and the server then sends nothing for
        0.2 s. end: whether the last byte ends the stream.
        """
        sent = 0
        while sent < len(data):
            room = min(self._windows[0], self._windows[stream], 16384, len(data) - sent)
            if not room:
                if not self.receive(0.2):
                    return sent
                continue
            last = end and sent + room == len(data)
            self._frame(DATA, END_STREAM if last else 0, stream, data[sent : sent + room])
            self._windows[0] -= room
            self._windows[stream] -= room
            sent += room
        if end and not data:
            self._frame(DATA, END_STREAM, stream, b"")
        return sent

    def receive(self, timeout: float) -> bool:
        """Reads from the socket once.

        Returns False if nothing arrives within `timeout` seconds or the connection ended.
        """
        self.socket.settimeout(timeout)
        try:
            data = self.socket.recv(1 << 16)
        except (TimeoutError, ConnectionError):
            return False
        finally:
            self.socket.settimeout(20)
        self._buffer += data
        while len(self._buffer) >= 9:
            size = int.from_bytes(self._buffer[:3], "big")
            if len(self._buffer) < 9 + size:
                break
            kind, flags, stream = self._buffer[3], self._buffer[4], int.from_bytes(self._buffer[5:9], "big")
            self._take(kind, flags, stream, self._buffer[9 : 9 + size])
            self._buffer = self._buffer[9 + size :]
        return bool(data)

    def trailers(self, stream: int) -> bytes:
        """Waits for the header block that ends a stream, and returns its bytes.

        gRPC's server writes short values without Huffman codes, so a test can search the bytes for a text.
        """
        while True:
            for kind, flags, of, payload in self.frames:
                if kind == HEADERS and of == stream and flags & END_STREAM:
                    return payload
            assert self.receive(20), "no trailers"

    def close(self) -> None:
        self.socket.close()

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        self.frames.append((kind, flags, stream, payload))
        if kind == SETTINGS and not flags & ACK:
            for at in range(0, len(payload), 6):
                name, value = struct.unpack(">HI", payload[at : at + 6])
                if name == INITIAL_WINDOW:
                    for open_stream in self._windows:
                        if open_stream:
                            self._windows[open_stream] += value - self._initial
                    self._initial = value
            self._frame(SETTINGS, ACK, 0, b"")
        elif kind == PING and not flags & ACK:
            self._frame(PING, ACK, 0, payload)
        elif kind == WINDOW_UPDATE:
            self._windows[stream] = self._windows.get(stream, 0) + int.from_bytes(payload, "big")

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        self.socket.sendall(
            struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload
        )
