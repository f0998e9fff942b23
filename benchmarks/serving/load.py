"""A load generator of one process and one thread: closed loop, and open loop with latency from the intended time.

It keeps HTTP/1.1 connections alive under `select.epoll` and reads no more of an answer than its status and its
length, since on a small machine it shares the cores with the server that it measures. A closed loop sends the next
request of a connection when the last was answered. An open loop sends at times drawn beforehand, whatever the server
does: a request that finds every connection busy waits here, and that wait is part of its latency.
"""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import cycle
from urllib.parse import urlsplit

import numpy as np

READ = 1 << 16
PATIENCE = 5.0  # seconds for what is still unanswered when the time is up


@dataclass
class Load:
    """What a run of load saw.

    Args:
        seconds: from the first request to the last answer.
        latencies: seconds of each answer with status 200; of a request without an answer, what it waited so far.
        errors: how many requests got no good answer, by reason.
        cpu_seconds: the generator's own.
    """

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    cpu_seconds: float = 0.0
    answered: int = 0

    def fail(self, why: str) -> None:
        """Count a request without a good answer."""
        self.errors[why] = self.errors.get(why, 0) + 1


def request(url: str, body: bytes, headers: dict[str, str]) -> bytes:
    """A POST request as it goes over the wire."""
    parts = urlsplit(url)
    lines = [f"POST {parts.path or '/'} HTTP/1.1", f"Host: {parts.netloc}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def status_of(answer: bytes | bytearray) -> int | None:
    """The status of an HTTP answer once all of it is here; None before that."""
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = bytes(answer[:end]).lower()
    at = head.find(b"\r\ncontent-length:")
    if at < 0:  # chunked: the last chunk is empty
        whole = answer.endswith(b"0\r\n\r\n") and len(answer) > end + 4
    else:
        whole = len(answer) >= end + 4 + int(head[at + 17 :].split(b"\r\n", 1)[0])
    return int(head[9:12]) if whole else None


def arrivals(rate: float, seconds: float, seed: int) -> np.ndarray:
    """Times (N,) of a Poisson process with `rate` a second, in seconds from its start."""
    draw = np.random.default_rng(seed)
    gaps = draw.exponential(1 / rate, int(rate * seconds + 6 * (rate * seconds) ** 0.5 + 10))
    times = np.cumsum(gaps)
    return times[times < seconds]


class Connection:
    """A connection that is kept alive, with one request under way at most."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address, self.began = address, 0.0
        self.open()

    def open(self) -> None:
        """Connect, anew after a failure."""
        self.socket = socket.create_connection(self.address, timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.answer = bytearray()

    def send(self, raw: bytes, began: float) -> None:
        """Send a request whose latency counts from `began`."""
        self.began, self.answer = began, bytearray()
        self.socket.sendall(raw)

    def receive(self) -> int | None:
        """What has come; the answer's status once it is whole, and 0 where the server closed."""
        try:
            piece = self.socket.recv(READ)
        except OSError:
            piece = b""
        self.answer += piece
        return status_of(self.answer) if piece else 0


class Generator:
    """Connections to one server, and the requests that they send in turn.

    Args:
        url: where to post to.
        requests: raw requests, made by `request`.
        connections: how many connections to hold.
    """

    def __init__(self, url: str, requests: list[bytes], connections: int) -> None:
        parts = urlsplit(url)
        address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self.requests = cycle(requests)
        self.poll = select.epoll()
        self.open: dict[int, Connection] = {}
        for _ in range(connections):
            self._watch(Connection(address))

    def closed(self, seconds: float) -> Load:
        """Every connection sends its next request as soon as the last was answered, for `seconds`."""
        until = time.perf_counter() + seconds
        return self._drive(lambda now: now if now < until else None, lambda: None, until)

    def opened(self, times: np.ndarray) -> Load:
        """A request at each of `times` (N,), in seconds from now, by the first connection that is free."""
        began = time.perf_counter()
        due = deque((times + began).tolist())

        def plan(now: float) -> float | None:
            return due.popleft() if due and due[0] <= now else None

        load = self._drive(plan, lambda: due[0] if due else None, began + float(times[-1]))
        for intended in due:
            load.latencies.append(time.perf_counter() - intended)
            load.fail("never sent")
        return load

    def close(self) -> None:
        """Close every connection."""
        for connection in self.open.values():
            connection.socket.close()
        self.poll.close()

    def _watch(self, connection: Connection) -> None:
        self.open[connection.socket.fileno()] = connection
        self.poll.register(connection.socket, select.EPOLLIN)

    def _drive(
        self, plan: Callable[[float], float | None], following: Callable[[], float | None], until: float
    ) -> Load:
        """Send whatever `plan(now)` gives an intended time for, until `until`, and wait for the answers.

        `following` gives the time of the next request where that is known.
        """
        load, free, busy = Load(), deque(self.open.values()), set[Connection]()
        cpu, began = time.process_time(), time.perf_counter()
        while (now := time.perf_counter()) < until + PATIENCE:
            while free and (intended := plan(now)) is not None:
                connection = free.popleft()
                try:
                    connection.send(next(self.requests), intended)
                    busy.add(connection)
                except OSError:  # the server closed it while it was idle
                    load.fail("closed")
                    self._again(connection)
                    free.append(connection)
            due = following() if free else None
            if not busy and due is None:
                break
            self._answers(load, free, busy, min(due or until + PATIENCE, until + PATIENCE) - now)
        load.seconds, load.cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
        for connection in busy:
            load.latencies.append(time.perf_counter() - connection.began)
            load.fail("no answer in time")
            self._again(connection)
        return load

    def _answers(self, load: Load, free: deque[Connection], busy: set[Connection], wait: float) -> None:
        """Take what has come; waits by `select` on the epoll itself, whose own limit is no finer than 1 ms."""
        select.select([self.poll], [], [], max(wait, 0))
        for number, _ in self.poll.poll(0):
            connection = self.open[number]
            status = connection.receive()
            if status is None:
                continue
            if connection in busy:
                busy.discard(connection)
                free.append(connection)
                if status == 200:
                    load.answered += 1
                    load.latencies.append(time.perf_counter() - connection.began)
                else:
                    load.fail(f"status {status}" if status else "closed")
            if not status:
                self._again(connection)

    def _again(self, connection: Connection) -> None:
        self.poll.unregister(connection.socket)
        del self.open[connection.socket.fileno()]
        connection.socket.close()
        connection.open()
        self._watch(connection)
