"""Something small that is done every few seconds beside the work, on a thread that ends with it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


@contextmanager
def pulse(beat: Callable[[], object], seconds: float, name: str) -> Iterator[None]:
    """Call `beat` every so many seconds while the block runs; one that fails is left out, as the work will tell."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(seconds):
            with suppress(Exception):
                beat()

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
