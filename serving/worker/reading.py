"""Reads what Java sends in few calls: TorchServe's worker asks the system for each field and each length by itself."""

from __future__ import annotations

import sys
from typing import Protocol

AT_ONCE = 1 << 16  # bytes


class Connection(Protocol):
    """What is read from."""

    def recv(self, size: int, /) -> bytes:
        """Up to `size` bytes; none when the other side has closed."""


class ReadAhead:
    """Takes the place of `_retrieve_buffer` in TorchServe's protocol, whose worker has one connection in its life."""

    def __init__(self) -> None:
        self._held = bytearray()

    def __call__(self, connection: Connection, length: int) -> bytearray:
        """The next `length` bytes; the process ends where Java has closed, as TorchServe's own does."""
        while len(self._held) < length:
            piece = connection.recv(max(AT_ONCE, length - len(self._held)))
            if not piece:
                sys.exit(0)
            self._held += piece
        found = self._held[:length]
        del self._held[:length]
        return found


def read_ahead() -> None:
    """Let this worker read so from now on; between two messages, as nothing of the next is there before the answer."""
    from ts.protocol import otf_message_handler

    otf_message_handler._retrieve_buffer = ReadAhead()
