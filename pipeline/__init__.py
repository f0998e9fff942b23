"""Fairlead's stages: from data to a promoted model, one module a stage."""

import os
import sys
from types import TracebackType

# Waiting OpenMP threads that spin make training 10 to 20 times slower beside any other busy process.
# Read when torch is loaded, so it is set before any stage can load it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _told(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Ctrl-C while a stage still loads its libraries, for seconds: a word instead of a traceback."""
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write("interrupted; earlier outputs are intact, and 'dvc repro' goes on from here\n")
    else:
        sys.__excepthook__(kind, error, trace)


if any(word.startswith("pipeline.") for word in sys.orig_argv):  # run as `python -m pipeline.<stage>`
    sys.excepthook = _told
