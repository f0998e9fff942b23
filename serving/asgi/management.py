"""What runs in the second server and how it is changed: `serving.management`'s calls, on files of its scratch."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from serving.archive import ArchiveError, read_manifest
from serving.asgi.run import WANTED, WORKERS, Table, read_table, write_whole
from serving.endpoint import read_endpoint
from serving.management import READY, Management, ManagementError, Registered
from serving.settings import ServerSettings
from serving.state import Models


def read_wanted(scratch: Path) -> Models:
    """What the master is to run."""
    return Models.model_validate_json((scratch / WANTED).read_bytes())


def write_wanted(scratch: Path, models: Models) -> None:
    """Tell the master what to run."""
    write_whole(scratch / WANTED, models.model_dump(mode="json"))


class OnnxManagement(Management):
    """The management of the second server whose state folder this is.

    Raises:
        RequestError: the folder describes no server.
    """

    def __init__(self, folder: Path, timeout: float = 30.0) -> None:
        self._scratch, self._timeout = read_endpoint(folder).scratch, timeout

    def names(self) -> list[str]:
        """Every model's name."""
        return list(read_wanted(self._scratch).models)

    def versions(self, name: str) -> dict[str, Registered]:
        """Every version of a model; none where the model is not known."""
        served = read_wanted(self._scratch).models.get(name)
        return {version: self._registered(name, version) for version in (served.versions if served else ())}

    def version(self, name: str, version: str) -> Registered | None:
        """One version of a model; None where it is not known.

        Raises:
            ManagementError: a worker could not load it.
        """
        served = read_wanted(self._scratch).models.get(name)
        if served is None or version not in served.versions:
            return None
        for each in self._workers().values():
            if reason := each.get(name, {}).get("failed", {}).get(version):
                raise ManagementError(f"it cannot be loaded: {reason}")
        return self._registered(name, version)

    def default(self, name: str) -> str | None:
        """The version that answers where none is named; None where the model is not known."""
        served = read_wanted(self._scratch).models.get(name)
        return served.default if served else None

    def register(self, archive: str, settings: ServerSettings) -> None:
        """Begin to load an archive, by its name in the server's store; the first version of a model is its default."""
        path = (self._scratch / "store" / archive).resolve()
        try:
            name, version = read_manifest(path)
        except ArchiveError as error:
            raise ManagementError(str(error)) from None
        wanted = read_wanted(self._scratch)
        add = wanted.beside if name in wanted.models else wanted.serving
        write_wanted(self._scratch, add(name, version, path))

    def scale(self, name: str, version: str, workers: int) -> None:
        """Refused: every process holds every version."""
        raise ManagementError("the second server has the same workers for every version")

    def set_default(self, name: str, version: str) -> None:
        """Let requests that name no version go to this one; returns once every worker does."""
        wanted = read_wanted(self._scratch)
        if name not in wanted.models or version not in wanted.models[name].versions:
            raise ManagementError(f"there is no version {version} of {name}")
        write_wanted(self._scratch, wanted.serving(name, version, wanted.models[name].versions[version]))
        self._until(lambda worker: worker.get(name, {}).get("default") == version, "become the default")

    def unregister(self, name: str, version: str) -> None:
        """Take a version away; what it was given it still answers. A model goes with its last version."""
        wanted = read_wanted(self._scratch)
        if name in wanted.models and wanted.models[name].default == version:
            if len(wanted.models[name].versions) > 1:
                raise ManagementError(f"version {version} of {name} is the default")
            left = {each: served for each, served in wanted.models.items() if each != name}
            write_wanted(self._scratch, Models(models=left))
        elif name in wanted.models:
            write_wanted(self._scratch, wanted.without(name, version))
        self._until(lambda worker: version not in worker.get(name, {}).get("versions", ()), "go")

    def close(self) -> None:
        """Nothing is held."""

    def _workers(self) -> dict[str, Table]:
        return read_table(self._scratch / WORKERS)

    def _registered(self, name: str, version: str) -> Registered:
        found = {pid: each.get(name, {}).get("versions", {}) for pid, each in self._workers().items()}
        workers = [
            {"id": pid, "pid": pid, "status": READY if version in held else "LOADING"}
            for pid, held in found.items()
        ]
        waiting = sum(held.get(version, 0) for held in found.values())
        return Registered.model_validate(
            {"modelName": name, "modelVersion": version, "workers": workers, "minWorkers": len(workers),
             "jobQueueStatus": {"pendingRequests": waiting}}
        )  # fmt: skip

    def _until(self, done: Callable[[Table], bool], what: str) -> None:
        deadline = time.monotonic() + self._timeout
        while not all(done(each) for each in self._workers().values()):
            if time.monotonic() > deadline:
                raise ManagementError(f"a version did not {what} within {self._timeout:g} s")
            time.sleep(0.05)
