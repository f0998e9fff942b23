"""Where a model comes from: the commit, what was changed in it, `dvc.lock`, the machine and its packages.

A run keeps these, so that `fairlead trace` can tell and `fairlead replay` can do again. Changes that are not committed
are kept as a patch: of tracked files, and of new ones among the code.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

CODE = ("pipeline", "models", "serving")
KEPT = (":!dvc.lock", ":!params.yaml")  # the run has them whole
PATCH, ENVIRONMENT, BEST = "origin/changes.patch", "origin/environment.txt", "origin/best.yaml"
LARGEST = 20 << 20  # bytes of a patch that is kept


@cache
def lineage() -> dict[str, str]:
    """Tags that lead back to the code and data: git commit, whether it was modified and how, SHA-256 of `dvc.lock`.

    `dvc.lock` and `params.yaml` are no modifications: DVC writes the first as it runs, and the run has both whole.
    """
    lock = Path("dvc.lock")
    changes = patch()
    tags = {
        "mlflow.source.git.commit": _git("rev-parse", "HEAD").decode().strip() or "none",
        "git.modified": str(bool(changes)).lower(),
        "dvc.lock.sha256": hashlib.sha256(lock.read_bytes()).hexdigest() if lock.exists() else "none",
    }
    if changes:
        tags["git.patch.sha256"] = hashlib.sha256(changes).hexdigest()
    return tags


def patch() -> bytes:
    """What differs from the commit, for `git apply`; made in an index of its own, so the user's stays as it is."""
    objects = _git("rev-parse", "--path-format=absolute", "--git-path", "objects").decode().strip()
    if not objects or not _git("rev-parse", "--verify", "-q", "HEAD"):
        return b""
    with TemporaryDirectory() as scratch:
        own = {"GIT_INDEX_FILE": f"{scratch}/index", "GIT_OBJECT_DIRECTORY": scratch,
               "GIT_ALTERNATE_OBJECT_DIRECTORIES": objects}  # fmt: skip
        _git("read-tree", "HEAD", **own)
        _git("add", "-u", "--", ".", *KEPT, **own)
        _git("add", "--", *(folder for folder in CODE if Path(folder).is_dir()), **own)
        return _git("diff", "--cached", "--binary", "HEAD", **own)


def _git(*words: str, **more: str) -> bytes:
    done = subprocess.run(["git", *words], capture_output=True, check=False, env={**os.environ, **more})
    return done.stdout if done.returncode == 0 else b""


def machine() -> str:
    """What the last bits of a training depend on: processor, cores, device, and the libraries that compute."""
    import torch

    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = (line for line in info.read_text().splitlines() if line.startswith("model name"))
        model = next(lines, f": {model}").partition(":")[2].strip()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    libraries = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "numpy", "pillow"))
    return (
        f"{platform.system()} {platform.machine()}, {model}, {torch.backends.cpu.get_cpu_capability()}, "
        f"{cores} cores, {device}, {libraries}"
    )


def digests(**files: Path) -> dict[str, str]:
    """Tags with the SHA-256 of files that a run keeps."""
    return {f"{name}.sha256": hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


def packages() -> list[str]:
    """The installed packages as `name==version`."""
    return sorted({f"{each.metadata['Name']}=={each.version}" for each in metadata.distributions()})


@contextmanager
def kept(best: Path) -> Iterator[Path]:
    """A folder of what a run keeps besides `params.yaml`: the patch, the packages, what `tune` found."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch, "origin")
        folder.mkdir()
        changes = patch()
        if changes and len(changes) <= LARGEST:
            (folder / Path(PATCH).name).write_bytes(changes)
        (folder / Path(ENVIRONMENT).name).write_text("\n".join(packages()) + "\n")
        (folder / Path(BEST).name).write_bytes(best.read_bytes())
        yield folder
