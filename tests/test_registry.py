"""The registry on both stores: history is kept as the alias moves, and only what was certified is given out."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pipeline import mlflow_store, registry, tracking
from pipeline.core.params import UserError
from pipeline.registry import Champion
from pipeline.tracking import Run, log_model

RECEIPT = {"reason": "better", "verdict": "promoted", "model_version": "abc", "archive_sha256": ""}
pytestmark = pytest.mark.slow


def logged(run: Run, folder: Path) -> str:
    """A bundle as the MLflow model of a run, as `export` logs it; gives the model's URI."""
    (folder / "bundle" / "golden").mkdir(parents=True)
    (folder / "bundle" / "spec.json").write_text(run.id)
    (folder / "bundle" / "golden" / "golden.json").write_text("{}")
    return log_model(run, folder / "bundle")


def test_history_is_kept_as_the_alias_moves(
    store: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert registry.champion("digits") is None
    runs = [tracking.start(f"train-{number}", {}) for number in range(2)]
    sources = [logged(run, tmp_path / run.id) for run in runs]
    assert capfd.readouterr().out == "", "MLflow's own notes would stand between a stage's lines"
    first = registry.register("digits", sources[0], runs[0], {**RECEIPT, "model_version": "v1"})
    assert registry.champion("digits") is None, "a registered version is no champion yet"
    registry.crown("digits", first)
    expected = Champion("digits", first, "v1", runs[0].id, sources[0], "")
    assert registry.champion("digits") == expected
    before = mlflow_store.client().get_model_version("digits", first)

    second = registry.register("digits", sources[1], runs[1], {**RECEIPT, "verdict": "rejected"})
    assert int(second) == int(first) + 1
    assert registry.champion("digits") == expected, "a rejected version changes nothing"
    registry.crown("digits", second)
    champion = registry.champion("digits")
    assert champion is not None
    assert (champion.number, champion.run_id) == (second, runs[1].id)
    after = mlflow_store.client().get_model_version("digits", first)
    for kept in ("tags", "source", "run_id", "description", "creation_timestamp", "last_updated_timestamp"):
        assert getattr(after, kept) == getattr(before, kept), kept
    assert after.tags == {**RECEIPT, "model_version": "v1"}
    assert after.aliases == []
    for version, run in ((expected, runs[0]), (champion, runs[1])):
        bundle = registry.download_bundle(version, tmp_path / f"got-{version.number}")
        assert (bundle / "spec.json").read_text() == run.id
        assert (bundle / "golden" / "golden.json").exists()


def test_an_archive_that_is_not_the_certified_one_is_not_kept(store: str, tmp_path: Path) -> None:
    archive = tmp_path / "mar" / "numbers.mar"
    archive.parent.mkdir()
    archive.write_bytes(b"certified")
    run = tracking.start("shipped", {})
    digest = hashlib.sha256(b"certified").hexdigest()
    run.files(archive, registry.archive_place(digest))
    archive.write_bytes(b"exported anew")
    run.files(archive, registry.archive_place(hashlib.sha256(b"exported anew").hexdigest()))
    version = Champion("numbers", "3", "abc", run.id, "", digest)
    assert registry.download_archive(version, tmp_path / "good").read_bytes() == b"certified"
    forged = Champion("numbers", "3", "abc", run.id, "", digest[:12] + "0" * 52)
    with pytest.raises(UserError) as told:
        registry.download_archive(forged, tmp_path / "bad")
    assert str(told.value).startswith(
        f"the archive of numbers version 3 has SHA-256 {digest[:12]}..., its receipt"
    )
    assert [path for path in (tmp_path / "bad").rglob("*") if path.is_file()] == []


def test_what_the_store_does_not_hold_is_told(store: str, tmp_path: Path) -> None:
    run = tracking.start("empty", {})
    missing = Champion("nothing", "1", "abc", run.id, f"runs:/{run.id}/nothing", "")
    with pytest.raises(UserError, match=r"artifacts/bundle cannot be fetched from the MLflow store"):
        registry.download_bundle(missing, tmp_path / "none")
    with pytest.raises(UserError, match=r"archive/.*nothing.mar cannot be fetched"):
        registry.download_archive(missing, tmp_path / "none")
