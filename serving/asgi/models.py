"""The models that one worker process holds: it follows a table, loads what is new and drops what is gone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from serving.asgi.batching import Batcher
from serving.asgi.body import Refused
from serving.asgi.run import Table, read_table
from serving.inputs.spec import DataSpec
from serving.settings import ServerSettings
from serving.worker.messages import Reply, Request
from serving.worker.worker import Worker

log = logging.getLogger(__name__)
FIRST = 120.0  # seconds that an explanation may take before it is stuck: the first one imports torch


@dataclass(frozen=True)
class Loaded:
    """A model's version in memory; explanations, which take many forward passes, hold up no prediction."""

    worker: Worker
    quick: Batcher
    slow: Batcher

    async def ask(self, request: Request) -> Reply:
        """The reply to one request.

        Raises:
            Refused: the queue is full or the model too slow.
        """
        return await (self.slow if request.kind == "explain" else self.quick).ask(request)


class Models:
    """What this process serves.

    Args:
        table: file that says what to serve; its bundles are unpacked.
        settings: batch size, queue, time limit.
        state: the server's state folder, for the workers.
        hung: called where a model is stuck.
    """

    def __init__(
        self, table: Path, settings: ServerSettings, state: Path | None, hung: Callable[[], None]
    ) -> None:
        self.table, self.settings, self.state, self._hung = table, settings, state, hung
        self._loaded: dict[tuple[str, str], Loaded] = {}
        self._defaults: dict[str, str] = {}
        self._failed: dict[tuple[str, str], str] = {}
        self._stamp = 0

    def find(self, name: str, version: str | None = None) -> Loaded:
        """A model by name, in its default version or another.

        Raises:
            Refused: 404, there is none.
        """
        if name not in self._defaults:
            raise Refused(404, f"Model not found: {name}")
        found = self._loaded.get((name, version or self._defaults[name]))
        if found is None:
            raise Refused(404, f"Model version: {version} does not exist for model: {name}")
        return found

    def described(self) -> Table:
        """What is loaded, by name: the default version, how many wait for each, and why another cannot be loaded."""
        return {
            name: {
                "default": default,
                "versions": {
                    version: len(loaded.quick) + len(loaded.slow)
                    for (of, version), loaded in self._loaded.items()
                    if of == name
                },
                "failed": {version: reason for (of, version), reason in self._failed.items() if of == name},
            }
            for name, default in self._defaults.items()
        }

    def specs(self) -> dict[str, dict[str, DataSpec]]:
        """The specification of every version by name, a model's default first."""
        return {
            name: {
                version: self._loaded[name, version].worker.predictor.spec
                for version in sorted(model["versions"], key=lambda each: each != model["default"])
            }
            for name, model in self.described().items()
        }

    async def refresh(self) -> None:
        """Load what the table names and is not here, only then change defaults, and drop what it names no more.

        What cannot be loaded is logged and left out, except at the start, where it is an error. A request that an
        earlier version holds is still answered by it.
        """
        stamp = self.table.stat().st_mtime_ns
        if stamp == self._stamp:
            return
        first, self._stamp, table = not self._stamp, stamp, read_table(self.table)
        wanted = {
            (name, version): Path(bundle)
            for name, model in table.items()
            for version, bundle in model["versions"].items()
        }
        for key in wanted.keys() - self._loaded.keys() - self._failed.keys():
            try:
                self._loaded[key] = await asyncio.to_thread(self._load, key[0], wanted[key])
            except Exception as error:
                if first:
                    raise
                self._failed[key] = f"{type(error).__name__}: {error}"[:1000]
                log.exception("model %s, version %s, cannot be loaded", *key)
        self._defaults = self._in_force(table)
        self._failed = {key: reason for key, reason in self._failed.items() if key in wanted}
        for key in self._loaded.keys() - wanted.keys() - self._defaults.items():
            gone = self._loaded.pop(key)
            if gone.worker.observer:
                gone.worker.observer.unloaded(key[1])
            await asyncio.gather(gone.quick.drained(), gone.slow.drained())

    def _in_force(self, table: Table) -> dict[str, str]:
        """The default of each model; where a new one cannot be loaded, the earlier goes on."""
        found = {}
        for name, model in table.items():
            for version in (model["default"], self._defaults.get(name, "")):
                if (name, version) in self._loaded:
                    found[name] = version
                    break
        return found

    def _load(self, name: str, bundle: Path) -> Loaded:
        settings, worker = self.settings, Worker(bundle, threads=1, state=self.state, name=name)
        room = max(1, settings.queue_size // settings.workers)
        limits = (room, float(settings.response_timeout), self._hung)
        return Loaded(
            worker,
            Batcher(worker.answer, settings.batch_size, *limits),
            Batcher(worker.own, 1, *limits, FIRST),
        )
