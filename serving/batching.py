"""Batches of what waits already: one call of TorchServe 0.12.0 is another, so that a lone client waits for nobody.

TorchServe's `Model.pollBatch` takes a request and then waits up to `maxBatchDelay` for each further one, in whole
milliseconds and at least one: more than all the rest of a small model's answer takes. No setting makes it take what
is in the queue and go (a delay of 0 is read as 100 from a file, and over the management side it gives batches of two).
The call that does so, `queue.poll()`, stands in the same class, where a continuous batch is filled up.

So that class is copied with the one call for the other, into an archive that Java reads before TorchServe's own. The
installed package is not touched, and a class that we do not know byte for byte is not used.
"""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

CLASS = "org/pytorch/serve/wlm/Model.class"
KNOWN = "7c5523f1fe77fe79aa32665469e17725e70518692abcf4987989ef72f10d4cff"  # SHA-256 in torchserve 0.12.0
WAITS = bytes.fromhex("1606 b201f2 b601f8")  # queue.poll(maxDelay, TimeUnit.MILLISECONDS)
TAKES = bytes.fromhex("0000 000000 b6021a")  # queue.poll(), of the same length
ENDLESS = 1000  # ms for `maxBatchDelay`, which still counts the milliseconds that taking a batch took


def write_class(server: Path, fresh: Path) -> bool:
    """Write `fresh`, an archive with the changed class of TorchServe's archive `server`; False if that is unknown."""
    with zipfile.ZipFile(server) as packed:
        found = packed.read(CLASS)
    if hashlib.sha256(found).hexdigest() != KNOWN:
        return False
    with zipfile.ZipFile(fresh, "w") as packed:
        packed.writestr(CLASS, found.replace(WAITS, TAKES))
    return True
