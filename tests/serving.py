"""Versions of a model as the store and the registry keep them, without the road that makes them."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from pipeline import registry, tracking
from serving.archive import build_archive
from serving.inputs.spec import Transform, write_json
from serving.predictor import Predictor
from serving.state import sha256
from tests.live import PNG


def another(bundle: Path, folder: Path, version: str, name: str = "digits") -> Path:
    """The archive of a bundle that calls itself another version, with all that lies beside it in the store."""
    folder.mkdir(parents=True)
    shutil.copytree(bundle, folder / "bundle")
    write_json(folder / "bundle" / "bundle.json", {"version": version})
    write_json(folder / "bundle" / "transform.json", Transform())
    expected = Predictor(bundle).answer([PNG])[0]
    assert isinstance(expected, dict)
    golden = [{"file": "0.png", "content_type": "image/png", **expected}]
    write_json(folder / "bundle" / "golden" / "golden.json", {"requests": golden})
    archive = folder / f"{name}.mar"
    build_archive(folder / "bundle", archive, name)
    write_json(folder / "receipt.json", {"archive_sha256": sha256(archive)})
    return archive


def broken(archive: Path, folder: Path, **changes: str) -> Path:
    """The same version with other files inside its archive, by their stem, and a receipt that says so."""
    shutil.copytree(archive.parent, folder)
    found = folder / archive.name
    with zipfile.ZipFile(archive) as good, zipfile.ZipFile(found, "w") as bad:
        for name in good.namelist():
            bad.writestr(name, changes.get(Path(name).stem, good.read(name)))
    write_json(folder / "receipt.json", {"archive_sha256": sha256(found)})
    return found


def archived(name: str, archive: Path) -> str:
    """A file of an archive."""
    with zipfile.ZipFile(archive) as packed:
        return packed.read(name).decode()


def registered(archive: Path, version: str, verdict: str = "promoted") -> str:
    """An archive and its bundle in the registry, as `export` and `promote` leave them; gives its number."""
    run = tracking.start(f"train-{version}", {})
    digest = sha256(archive)
    run.files(archive, registry.archive_place(digest))
    blessed = verdict == "promoted"
    source = tracking.log_model(run, archive.parent / "bundle") if blessed else f"runs:/{run.id}/model"
    tags = {"verdict": verdict, "reason": "as the test says", "model_version": version}
    number = registry.register(archive.stem, source, run, {**tags, "archive_sha256": digest})
    if blessed:
        registry.crown(archive.stem, number)
    return number
