"""Answers every request with the same bytes, unread: what the load generator can do at most is measured against it."""

from __future__ import annotations

import select
import socket
import sys

ANSWER = b'HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\n{"label": "zero"}'


def main() -> None:
    """Serve on the port that is named, until ended."""
    listening = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=256)
    poll, clients = select.epoll(), {listening.fileno(): listening}
    poll.register(listening, select.EPOLLIN)
    while True:
        for number, _ in poll.poll():
            client = clients[number]
            if client is listening:
                fresh, _ = listening.accept()
                fresh.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                clients[fresh.fileno()] = fresh
                poll.register(fresh, select.EPOLLIN)
            elif client.recv(1 << 16):
                client.send(ANSWER)
            else:
                del clients[number]
                client.close()


if __name__ == "__main__":
    main()
