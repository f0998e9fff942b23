"""What no server can beat: the bare answer in one process; and what the load generator can do at most."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.serving.load import Generator, request
from benchmarks.serving.sides import free_port
from serving.inputs.ragged import gather
from serving.predictor import Predictor

REPEATS = 5


def ceiling(seconds: float) -> dict[str, float]:
    """The load generator against a responder that reads nothing and always says the same, at 32 connections."""
    port = free_port()
    responder = subprocess.Popen([sys.executable, "-m", "benchmarks.serving.responder", str(port)])
    try:
        url = f"http://127.0.0.1:{port}/"
        generator = _connected(url)
        load = generator.closed(seconds)
        generator.close()
    finally:
        responder.kill()
        responder.wait()
    return {
        "requests a second": load.answered / load.seconds,
        "generator's CPU ms a request": 1000 * load.cpu_seconds / max(load.answered, 1),
    }


def _connected(url: str) -> Generator:
    for _ in range(100):
        try:
            return Generator(url, [request(url, b"x" * 300, {"Content-Type": "image/png"})], 32)
        except ConnectionRefusedError:
            time.sleep(0.05)
    raise RuntimeError("the responder does not listen")


def bare(bundle: Path, pngs: list[bytes]) -> dict[str, float]:
    """Microseconds a PNG in one thread, without any server: decoded, and run by ONNX Runtime, one and 32 at once."""
    predictor = Predictor(bundle)
    spec = predictor.spec
    arrays = [predictor.decode(png) for png in pngs]
    batch = gather(arrays[:32], spec.input)

    def each(work: Callable[[], object], count: int) -> float:
        return 1e6 * statistics.median(_seconds(work) for _ in range(REPEATS)) / count

    return {
        "decode": each(lambda: [predictor.decode(png) for png in pngs], len(pngs)),
        "forward, batch of 1": each(
            lambda: [predictor.outputs(array[None]) for array in arrays], len(arrays)
        ),
        "forward, batch of 32": each(lambda: predictor.outputs(batch), 32),
        "answer, batch of 1": each(lambda: [predictor.answer([png]) for png in pngs], len(pngs)),
        "answer, batch of 32": each(lambda: predictor.answer(pngs[:32]), 32),
    }


def _seconds(work: Callable[[], object]) -> float:
    work()
    began = time.perf_counter()
    for _ in range(10):
        work()
    return (time.perf_counter() - began) / 10
