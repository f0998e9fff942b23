"""Micro-batching without a delay: what waits while one forward pass runs is answered by the next."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from serving.asgi.body import Refused
from serving.worker.messages import Reply, Request, refused

log = logging.getLogger(__name__)
Answers = Callable[[Sequence[Request]], list[Reply]]


class Batcher:
    """Requests to one model, answered in its own thread so that the event loop stays free.

    Args:
        answer: gives the replies of a batch.
        most: requests of one batch, at most.
        room: requests that may wait; more are refused.
        seconds: longest time from a request to its reply.
        hung: called where a batch takes longer than `patience`: its thread cannot be ended, only its process.
        patience: seconds, as long as `seconds` unless it is given.
    """

    def __init__(
        self,
        answer: Answers,
        most: int,
        room: int,
        seconds: float,
        hung: Callable[[], None],
        patience: float | None = None,
    ) -> None:
        self._answer, self._hung, self._patience = answer, hung, patience or seconds
        self.most, self.room, self.seconds = most, room, seconds
        self._waiting: deque[tuple[Request, asyncio.Future[Reply]]] = deque()
        self._thread = ThreadPoolExecutor(1, "forward")
        self._work: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    async def ask(self, request: Request) -> Reply:
        """The reply to one request.

        Raises:
            Refused: 503 where too many wait, 504 where no reply came in time.
        """
        if len(self._waiting) >= self.room:
            reason = f"the queue is full: {self.room} requests wait"
            raise Refused(503, reason, {"retry-after": "1"})
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Reply] = loop.create_future()
        self._waiting.append((request, reply))
        if self._work is None or self._work.done():
            self._work = loop.create_task(self._answer_all())
        late = loop.call_later(self.seconds, reply.cancel)
        try:
            return await reply
        except asyncio.CancelledError:
            if not reply.cancelled() or loop.time() < late.when():
                raise  # the server itself is ending
            raise Refused(504, f"no answer within {self.seconds:g} s") from None
        finally:
            late.cancel()

    async def drained(self) -> None:
        """Return once nothing waits and nothing is computed; the thread ends."""
        while self._work is not None and not self._work.done():
            await asyncio.wait([self._work])
        self._thread.shutdown(wait=False)

    async def _answer_all(self) -> None:
        while batch := self._next():
            requests = [request for request, _ in batch]
            for (_, waiting), reply in zip(batch, await self._replies(requests), strict=True):
                if not waiting.done():
                    waiting.set_result(reply)

    def _next(self) -> list[tuple[Request, asyncio.Future[Reply]]]:
        """The next batch, without those whose time is over."""
        batch: list[tuple[Request, asyncio.Future[Reply]]] = []
        while self._waiting and len(batch) < self.most:
            request, reply = self._waiting.popleft()
            if not reply.done():
                batch.append((request, reply))
        return batch

    async def _replies(self, requests: list[Request]) -> list[Reply]:
        computed = asyncio.get_running_loop().run_in_executor(self._thread, self._answer, requests)
        done, _ = await asyncio.wait([computed], timeout=self._patience)
        if not done:
            log.error("a batch of %d took longer than %g s: this process ends", len(requests), self._patience)
            self._hung()
            await asyncio.wait([computed])
        try:
            return computed.result()
        except Exception:
            log.exception("a batch of %d failed", len(requests))
            return [refused(500, "the model failed; the server's log says why", each) for each in requests]
