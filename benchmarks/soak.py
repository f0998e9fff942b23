"""Breaks a served model in every way in turn under constant load: what clients notice, and for how long.

`python -m benchmarks soak` does each once, in about five minutes; `--minutes N` goes round until N minutes are over.
Half of the clients try once, the other half as our client does by default. Ctrl-C ends everything that was started.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import breaking
from serving.archive import build_archive
from serving.client import Client
from serving.endpoint import RequestError
from serving.inputs.image import encode_png
from serving.inputs.spec import Column, DataSpec, ImageInput, write_json
from serving.process import free_ports, stop
from serving.settings import ServerSettings
from serving.state import of_archive, write_models
from serving.supervisor import Plan, supervise

CLIENTS, RATE = 4, 20.0  # of each kind, and how many requests a second each of them sends
CALM, LONGEST = 3.0, 120.0  # seconds without a failure that end a fault, and after which it is given up
SLOW = 1.0  # seconds; an answer that took longer belongs to the fault
GRAPH = """<ir_version: 8, opset_import: ["" : 17]>
soak (uint8[N, 1, 28, 28] image) => (float[N, 10] out) {
  x = Cast <to = 1> (image)
  full = Constant <value = float {255.0}> ()
  s = Div (x, full)
  shape = Constant <value = int64[2] {0, 784}> ()
  f = Reshape (s, shape)
  starts = Constant <value = int64[1] {100}> ()
  ends = Constant <value = int64[1] {110}> ()
  axes = Constant <value = int64[1] {1}> ()
  ten = Slice (f, starts, ends, axes)
  out = Softmax <axis = 1> (ten)
}"""
PNG = encode_png(np.random.default_rng(0).integers(0, 256, (1, 28, 28)).astype(np.uint8))


class Asked(NamedTuple):
    """One request of the load."""

    began: float
    ended: float
    retried: bool
    error: str | None


class Load:
    """Clients that ask at a steady pace, some of them once and some with retries."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._done = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(retries,)) for retries in (0, 3) for _ in range(CLIENTS)
        ]
        self._open: dict[int, float] = {}  # by thread, when the request that waits for its answer was sent
        self.asked: list[Asked] = []

    def _ask(self, retries: int) -> None:
        client = Client.local(self._folder, retries=retries)
        due = time.monotonic()
        while not self._done.wait(max(0.0, due - time.monotonic())):
            due = max(due + 1 / RATE, time.monotonic() - 1)
            began = self._open[threading.get_ident()] = time.monotonic()
            error = None
            try:
                client.predict(PNG)
            except RequestError as failure:
                error = str(failure)
                with contextlib.suppress(RequestError):
                    client = Client.local(self._folder, retries=retries)  # with the token of today
            del self._open[threading.get_ident()]
            self.asked.append(Asked(began, time.monotonic(), retries > 0, error))

    def noticed(self, since: float) -> float:
        """When a request last failed or was slow, which is now while one still waits; 0 where none did."""
        now = time.monotonic()
        if any(now - began > SLOW for began in list(self._open.values())):
            return now
        ends = (
            each.ended
            for each in reversed(list(self.asked))
            if each.ended >= since and (each.error or each.ended - each.began > SLOW)
        )
        return next(ends, 0.0)

    def __enter__(self) -> Load:
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for each in self._threads:
            each.join()


def bundle(folder: Path) -> Path:
    """The archive of a small model as it lies in the store, beside its bundle with a golden request."""
    import onnx
    from onnx.parser import parse_model

    place = folder / "bundle"
    (place / "golden").mkdir(parents=True)
    onnx.save(parse_model(GRAPH), place / "model.onnx")
    columns = (
        Column(name="image", role="input", dtype="|u1", shape=(1, 28, 28)),
        Column(name="label", role="target", dtype="<i8"),
    )
    spec = DataSpec(
        modality="image",
        task="classification",
        source="soak",
        columns=columns,
        classes=tuple("0123456789"),
        image=ImageInput(),
    )
    write_json(place / "spec.json", spec)
    write_json(place / "bundle.json", {"version": "soak"})
    (place / "golden/0.png").write_bytes(PNG)
    golden = {"requests": [{"file": "0.png", "content_type": "image/png"}]}
    write_json(place / "golden/golden.json", golden)
    build_archive(place, folder / "soak.mar", "soak")
    return folder / "soak.mar"


@contextlib.contextmanager
def served() -> Iterator[Path]:
    """The state folder of a server that is kept up, and is gone afterwards, whatever happens."""
    root = Path(tempfile.mkdtemp(prefix="fairlead-soak-"))
    state = root / "state"
    try:
        write_models(state, of_archive(bundle(root / "store")))
        settings = ServerSettings(workers=2, response_timeout=5, queue_size=20, **free_ports())
        supervise(state, Plan(settings=settings), print)
        yield state
    finally:
        stop(state)
        shutil.rmtree(root, ignore_errors=True)


def suffer(state: Path, load: Load, fault: breaking.Fault) -> dict[str, Any]:
    """Let a fault happen, wait until nobody notices it any more, and say what they noticed."""
    began = time.monotonic()
    fault(state)
    undone = time.monotonic()
    whole: float | None = None
    while time.monotonic() - began < LONGEST:
        if whole is None and len(breaking.workers(state)) == 2:
            whole = time.monotonic()
        if whole and time.monotonic() - max(whole, undone, load.noticed(began)) > CALM:
            break
        time.sleep(0.1)
    asked = [each for each in list(load.asked) if each.ended >= began]
    raw = [each for each in asked if not each.retried]
    again = [each for each in asked if each.retried]
    return {
        "requests": len(asked),
        "failed, tried once": sum(each.error is not None for each in raw),
        "failed, with retries": sum(each.error is not None for each in again),
        "slowest, tried once, s": round(max(each.ended - each.began for each in raw), 2),
        "slowest, with retries, s": round(max(each.ended - each.began for each in again), 2),
        "unnoticed after, s": round(max(0.0, load.noticed(began) - began), 2),
        "two workers after, s": round(whole - began, 2) if whole else None,
        "errors": sorted({each.error[:100] for each in asked if each.error}),
    }


def run(minutes: float = 0.0) -> dict[str, Any]:
    """Every fault in turn, again and again until the minutes are over; the last round counts to its end."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    until = time.monotonic() + 60 * minutes
    figures: dict[str, Any] = {}
    with served() as state, Load(state) as load:
        time.sleep(CALM)
        print(
            "  requests, failed (tried once, with retries), slowest (the same), unnoticed after, whole after, s"
        )
        rounds = 0
        while rounds == 0 or time.monotonic() < until:
            rounds += 1
            for name, fault in breaking.FAULTS.items():
                found = suffer(state, load, fault)
                figures[name] = merged(figures.get(name), found)
                _show(name, found)
        figures["all"] = {
            "rounds": rounds,
            "requests": len(load.asked),
            "failed, tried once": sum(each.error is not None for each in load.asked if not each.retried),
            "failed, with retries": sum(each.error is not None for each in load.asked if each.retried),
        }
    return figures


def merged(before: dict[str, Any] | None, found: dict[str, Any]) -> dict[str, Any]:
    """Figures of several rounds: counts add up, and of times the longest is kept."""
    if before is None:
        return found
    fresh: dict[str, Any] = {"errors": sorted({*before["errors"], *found["errors"]})}
    for key in found.keys() - {"errors"}:
        pair = (before[key], found[key])
        fresh[key] = None if None in pair else max(pair) if key.endswith(", s") else sum(pair)
    return {key: fresh[key] for key in found}


def _show(name: str, found: dict[str, Any]) -> None:
    values = [value for key, value in found.items() if key != "errors"]
    print(f"  {name:28}", *(f"{'-' if value is None else value:>9}" for value in values), flush=True)
    for error in found["errors"]:
        print(f"  {'':28}   {error}")
