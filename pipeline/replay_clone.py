"""The project as it was when a version was made: a scratch clone with its commit, parameters and data."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml

from pipeline.core.params import UserError
from pipeline.core.stage import LOCK, STATE
from pipeline.origin import CODE

SCRATCH = STATE / "replay"
STAGES = ("ingest", "validate", "prepare", "augment", "tune", "train", "evaluate")
OURS = {"uri": "sqlite:///mlflow.db", "artifacts": "mlartifacts", "studies": "sqlite:///.fairlead/studies.db"}
UNLIMITED = 100_000  # minutes: the largest that `tune.minutes` takes
SHOWN = 5  # paths in a message


@contextmanager
def scratch(keep: Callable[[], bool]) -> Iterator[Path]:
    """A folder that is gone afterwards unless it is to be kept; those of killed replays are removed."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    for left in SCRATCH.iterdir():
        if left.name.isdigit() and not psutil.pid_exists(int(left.name)):
            shutil.rmtree(left, ignore_errors=True)
    folder = (SCRATCH / str(os.getpid())).resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if keep():
        folder.rename(folder.with_name(f"kept-{folder.name}"))
    else:
        shutil.rmtree(folder, ignore_errors=True)


def git(*words: str, where: Path | None = None, given: bytes | None = None) -> str:
    """Run git.

    Raises:
        UserError: it failed.
    """
    done = subprocess.run(["git", *words], cwd=where, input=given, capture_output=True, check=False)
    if done.returncode:
        told = done.stderr.decode(errors="replace").strip() or str(done.returncode)
        raise UserError(f"git {words[0]} failed: {told}")
    return done.stdout.decode().strip()


def clone(commit: str, patch: bytes, folder: Path) -> Path:
    """The project at a commit with a patch, below `folder`.

    Raises:
        UserError: the repository has no such commit, or the patch does not fit.
    """
    top, prefix = git("rev-parse", "--show-toplevel"), git("rev-parse", "--show-prefix")
    try:
        git("cat-file", "-e", f"{commit}^{{commit}}")
    except UserError:
        raise UserError(f"commit {commit} is not in this repository; fetch it first") from None
    git("clone", "-q", "--shared", "--no-checkout", top, str(folder / "clone"))
    git("checkout", "-q", "--detach", commit, where=folder / "clone")
    if patch:
        git("apply", "--whitespace=nowarn", "-", where=folder / "clone", given=patch)
    return folder / "clone" / prefix


def write_params(project: Path, text: str, best: Mapping[str, Any], search: bool) -> None:
    """The run's parameters; its runs and studies go to the clone. A search has the recorded trials and no clock."""
    params = yaml.safe_load(text)
    params["tracking"] = {**(params.get("tracking") or {}), **OURS}
    if search and best.get("trials"):
        params["tune"] = {**params["tune"], "trials": best["trials"], "minutes": UNLIMITED}
    given = raw_path(params)
    if not given.is_absolute() and Path(os.path.normpath(given)).parts[:1] == ("..",):
        params["data"]["path"] = str(given.resolve())
    (project / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def raw_path(params: Mapping[str, Any]) -> Path:
    """Where the raw data are."""
    return Path((params.get("data") or {}).get("path", "data/raw"))


def lay_raw_data(project: Path) -> None:
    """The project's own raw files at the same place of the clone, as links where the file system can."""
    path = raw_path(yaml.safe_load((project / "params.yaml").read_text()))
    if path.is_absolute() or not path.exists():
        return
    there = project / path
    if path.is_file():
        there.parent.mkdir(parents=True, exist_ok=True)
        there.unlink(missing_ok=True)
        _linked(str(path), str(there))
        return
    shutil.rmtree(there, ignore_errors=True)
    shutil.copytree(path, there, copy_function=_linked)


def _linked(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target


def command(project: Path, *words: str, quiet: bool = False) -> str:
    """Run Python on the clone's code and stores, in a session that ends with us; give what it printed when quiet.

    Raises:
        UserError: it failed.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "DVC_"))}
    own = {"PYTHONPATH": str(project), "MLFLOW_TRACKING_URI": OURS["uri"],
           "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"}  # fmt: skip
    pipe = subprocess.PIPE if quiet else None
    process = subprocess.Popen(
        [sys.executable, *words], cwd=project, env={**kept, **own}, stdout=pipe, stderr=pipe, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        out, told = process.communicate()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    if process.returncode:
        more = f": {told.strip()[-1000:]}" if told else ""
        raise UserError(f"'python {' '.join(words[:6])}' failed in the clone{more}")
    return out or ""


def differences(project: Path, stages: list[str]) -> set[str]:
    """What `dvc.lock` records otherwise than the clone has it, outputs of stages aside."""
    found = json.loads(command(project, "-m", "dvc", "status", "--json", *stages, quiet=True) or "{}")
    changed = {path for entries in found.values() for entry in entries if isinstance(entry, dict)
               for path in entry.get("changed deps", {})}  # fmt: skip
    made = tuple(f"data/{stage}/" for stage in STAGES)
    return {path for path in changed if not f"{path}/".startswith(made)}


def lay_data(project: Path, lock: str, report: Callable[[str], None]) -> list[str]:
    """Lay the data that the replay begins with; give the stages to run, without `tune`.

    Raises:
        UserError: the data are nowhere.
    """
    stages = [stage for stage in STAGES if stage != "tune"]
    lay_raw_data(project)
    if not lock:
        report("the run kept no dvc.lock, so the raw data are taken as they are now, unchecked")
        return stages
    (project / LOCK).write_text(lock)
    changed = sorted(differences(project, stages))
    code = [path for path in changed if path.split("/")[0] in CODE]
    raw = [path for path in changed if path not in code]
    if code:  # as where a later commit ran a stage again, with the same outputs
        report(f"dvc.lock records other code than the commit has: {shown(code)}")
    if not raw:
        return stages
    report(f"the raw data ({shown(raw)}) are not those of the version; taking what ingest made of them")
    cache = command(Path.cwd(), "-m", "dvc", "cache", "dir", quiet=True).strip()
    own = Path(".dvc/config.local")  # names remotes that are not in git
    if own.exists():
        shutil.copy(own, project / own)
    command(
        project, "-m", "dvc", "remote", "add", "--local", "replay", str(Path(cache).resolve()), quiet=True
    )
    for remote in (("-r", "replay"), ()):
        with contextlib.suppress(UserError):
            command(project, "-m", "dvc", "pull", *remote, "data/ingest", quiet=True)
            return stages[1:]
    raise UserError(
        "data/ingest is neither in DVC's cache nor in its remote: the data of this version are gone"
    )


def shown(paths: list[str]) -> str:
    """The first of some paths."""
    return ", ".join(paths[:SHOWN]) + (", ..." if len(paths) > SHOWN else "")
