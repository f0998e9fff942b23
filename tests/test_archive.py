"""The TorchServe archive: the same bytes for the same bundle, what the server needs and no more."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path

import pytest

from serving.archive import PACKAGE, ArchiveError, build_archive, read_manifest
from serving.inputs.spec import write_json


def test_the_archive_depends_on_the_bundle_alone(bundle: Path, tmp_path: Path) -> None:
    again = shutil.copytree(bundle, tmp_path / "elsewhere", copy_function=shutil.copyfile)
    os.utime(again / "spec.json", (0, 0))
    (again / "spec.json").chmod(0o600)
    for folder, name in ((bundle, "a.mar"), (again, "b.mar")):
        build_archive(folder, tmp_path / name, "digits")
    assert (tmp_path / "a.mar").read_bytes() == (tmp_path / "b.mar").read_bytes()
    write_json(again / "bundle.json", {"version": "another"})
    build_archive(again, tmp_path / "b.mar", "digits")
    assert (tmp_path / "a.mar").read_bytes() != (tmp_path / "b.mar").read_bytes()
    assert read_manifest(tmp_path / "b.mar") == ("digits", "another")


def test_the_archive_holds_what_the_server_needs_and_no_more(archive: Path) -> None:
    inputs = ("body", "decode", "generation", "image", "ragged", "series", "spec", "table", "text")
    code = {"serving/__init__.py", "serving/predictor.py", "serving/inputs/__init__.py"}
    code |= {f"serving/inputs/{name}.py" for name in inputs}
    code |= {f"serving/{file}" for file in PACKAGE if file.startswith("worker/")}
    model = {"bundle/bundle.json", "bundle/model.onnx", "bundle/spec.json"}
    found = set(zipfile.ZipFile(archive).namelist()) - {"bundle/model.onnx.data"}
    assert found == {"MAR-INF/MANIFEST.json", "handler.py"} | code | model


@pytest.mark.parametrize("missing", ["bundle.json", "spec.json", "model.onnx"])
def test_an_incomplete_bundle_is_refused(bundle: Path, tmp_path: Path, missing: str) -> None:
    copy = shutil.copytree(bundle, tmp_path / "copy")
    (copy / missing).unlink()
    with pytest.raises(ArchiveError, match=missing):
        build_archive(copy, tmp_path / "x.mar", "digits")
    assert not list(tmp_path.glob("*.mar"))
