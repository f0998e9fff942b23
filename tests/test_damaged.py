"""Files that are damaged or missing are told by their name, with what to do; what can be made again is."""

from __future__ import annotations

import csv
import errno
import sqlite3
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from pydantic import ValidationError

from models.params import Model
from pipeline import train
from pipeline.core.params import UserError
from pipeline.core.stage import told
from pipeline.fitting.epochlog import EpochLog, read_log
from pipeline.fitting.settings import Train
from pipeline.tuning.curves import Curves
from pipeline.tuning.study import open_study
from pipeline.tuning.task import Report
from serving.inputs.spec import read_spec
from tests.conftest import digits, write_dataset
from tests.studies import NAME, settings


@pytest.mark.parametrize(
    ("name", "said"),
    [("folder", "is a folder; expected sqlite:///FILE"), ("text", "'.*text' cannot be used: file is not a database"),
     ("cut", "cannot be used: database disk image is malformed; put back a copy"), ("", "names no file"),
     ("text/studies.db", "the folder '.*text' cannot be made"), ("theirs", "holds tables of another program")],
)  # fmt: skip
def test_a_file_that_keeps_no_studies_is_told_by_its_name_and_left_as_it_is(
    name: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("no database\n" * 99)
    open_study(f"sqlite:///{tmp_path}/whole", NAME, settings())
    (tmp_path / "cut").write_bytes((tmp_path / "whole").read_bytes()[:9000])
    with closing(sqlite3.connect(tmp_path / "theirs")) as theirs:
        theirs.execute("CREATE TABLE alembic_version (version_num TEXT)")
        theirs.execute("INSERT INTO alembic_version VALUES ('7')")
        theirs.commit()
    before = {each: each.read_bytes() for each in (tmp_path / "text", tmp_path / "cut")}
    address = f"sqlite:///{tmp_path}/{name}" if name else "sqlite:///"
    with pytest.raises(UserError, match=said) as error:
        open_study(address, NAME, settings())
    assert str(error.value).startswith("tracking.studies")
    assert {each: each.read_bytes() for each in before} == before


def test_a_database_that_breaks_under_a_study_is_told(tmp_path: Path) -> None:
    study = open_study(f"sqlite:///{tmp_path}/studies.db", NAME, settings())
    (tmp_path / "studies.db").write_bytes(b"\xff" * 99_999)
    with pytest.raises(optuna.exceptions.StorageInternalError) as error:
        study.ask()
    assert (
        "a database file, of tracking.studies or tracking.uri, cannot be used any more: file is not a database"
        in (told(error.value) or "")
    )


def test_a_log_that_cannot_be_written_whole_keeps_what_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = EpochLog(tmp_path / "log.csv", lambda *_: None, 2)
    log(0, {"val_loss": 1.0, "val_score": 0.5})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(csv.DictWriter, "writerows", full)
    with pytest.raises(OSError, match="No space"):
        log(1, {"val_loss": 0.5, "val_score": 0.6})
    assert read_log(tmp_path / "log.csv") == [{"epoch": 0, "val_loss": 1.0, "val_score": 0.5}]


@pytest.mark.parametrize(
    "damage", [b"garbage\n", b'{"fold": 0, "epo\n', b"\xff\xfe\n", b'{"x": 1}\n', b"[]\n", b'{"fo']
)
def test_reports_are_read_up_to_a_damaged_line(damage: bytes, tmp_path: Path) -> None:
    curves = Curves(tmp_path)
    curves.open(3)
    for epoch in range(3):
        curves.add(3, Report(0, epoch, {"val_loss": 1.0}, 0.5, 0.0))
    whole = (tmp_path / "3.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "3.jsonl").write_bytes(b"".join([*whole[:2], damage, whole[2]]))
    curves.open(3)
    assert curves.told(3) == 2
    assert (tmp_path / "3.jsonl").read_bytes() == b"".join(whole[:2])


@pytest.mark.parametrize("left", [0, 100, 300])
def test_a_column_that_is_cut_is_told(left: int, tmp_path: Path) -> None:
    data = write_dataset(tmp_path, *digits(4, seed=0))
    whole = (tmp_path / "image.npy").read_bytes()
    assert len(whole) > 300
    (tmp_path / "image.npy").write_bytes(whole[:left])
    with pytest.raises(UserError, match=r"image\.npy is damaged \(.*'dvc checkout --force' brings back"):
        data.column("image")


@pytest.mark.parametrize("text", ["params: [", "- 1", "trial: 3", ""])
def test_a_damaged_choice_is_told(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "BEST", tmp_path / "best.yaml")
    (tmp_path / "best.yaml").write_text(text)
    with pytest.raises(UserError, match=r"best\.yaml is damaged; 'dvc repro -f -s tune' writes it again"):
        train.tuned(Model(), Train())


def test_an_output_of_an_earlier_stage_that_is_missing_or_cut_is_told(tmp_path: Path) -> None:
    missing = (
        told(FileNotFoundError(errno.ENOENT, "No such file or directory", "data/augment/spec.json")) or ""
    )
    assert missing.startswith(
        "no such file (data/augment/spec.json): the output of an earlier stage is missing;"
    )
    (tmp_path / "spec.json").write_text('{"modality": "ser')
    with pytest.raises(ValidationError) as error:
        read_spec(tmp_path)
    assert "the file of a DataSpec in data is damaged (Invalid JSON" in (told(error.value) or "")
