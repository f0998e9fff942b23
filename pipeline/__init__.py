"""Fairlead's stages: from data to a promoted model, one module a stage."""

import gc
import sys
from types import TracebackType


def _told(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Ctrl-C while a stage still loads its libraries, for seconds: a word instead of a traceback."""
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write("interrupted; earlier outputs are intact, and 'dvc repro' goes on from here\n")
    else:
        sys.__excepthook__(kind, error, trace)


if any(word.startswith("pipeline.") for word in sys.orig_argv):  # run as `python -m pipeline.<stage>`
    sys.excepthook = _told
    gc.set_threshold(100_000, 20, 100)  # importing frees nothing: looking for garbage took a sixth of it
