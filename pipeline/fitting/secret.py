"""The secret that a private training draws from: what is drawn, and with it the guarantee, is worth what is not known.

Who knows the seed of the noise can take the noise away, and who knows which samples were drawn gains what drawing them
hides. So neither comes from `seed`, which is published in `params.yaml`, but from the operating system. The secret lies
beside the checkpoints while they are needed, so that a training that was killed goes on with the same draws, and is
destroyed as the training ends: nobody can repeat it, and that is the point.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

import numpy as np
import torch

BYTES = 32
DRAWS = 4  # added up for each value of noise, so that what floats can hold tells nothing of what lies beneath


class Secret:
    """Random bytes, and generators that follow from them; equal purposes and steps draw alike."""

    def __init__(self, folder: Path | None) -> None:
        """Read the secret of a folder, or make one; without a folder it lives as long as the process."""
        self._path = folder / "secret" if folder else None
        self._bytes = self._read() or os.urandom(BYTES)
        if self._path and not self._path.exists():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fresh = self._path.with_suffix(".new")
            with contextlib.suppress(FileNotFoundError):
                fresh.unlink()
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(self._bytes)
            fresh.replace(self._path)

    def _read(self) -> bytes | None:
        if self._path is None or not self._path.exists():
            return None
        found = self._path.read_bytes()
        if len(found) == BYTES:
            return found
        self._path.unlink()
        return None

    def generator(self, purpose: str, *at: int) -> np.random.Generator:
        """A generator for one purpose at one step; 128 bits of the secret reach it, where torch's seed keeps 32."""
        key = hashlib.blake2b(repr((purpose, at)).encode(), key=self._bytes, digest_size=16).digest()
        return np.random.Generator(np.random.Philox(key=int.from_bytes(key)))

    def noise(self, step: int) -> Noise:
        """The noise of one step."""
        return Noise(self.generator("noise", step))

    def seed(self, step: int) -> int:
        """What torch draws from in a step: dropout and random transforms."""
        return int(self.generator("torch", step).integers(2**63))

    def forget(self) -> None:
        """Destroy the secret: what was drawn can be drawn by nobody again."""
        self._bytes = b""
        if self._path:
            self._path.unlink(missing_ok=True)


class Noise:
    """Standard normal values, the sum of several draws: Holohan and Braghin, "Secure Random Sampling" (2021)."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator

    def __call__(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Values of a shape, float32."""
        total = sum(self._generator.standard_normal(shape, np.float32) for _ in range(DRAWS))
        return torch.from_numpy(np.asarray(total, np.float32) / np.float32(DRAWS**0.5))
