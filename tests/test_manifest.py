"""Images that a manifest lists, with labels, given splits and groups."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
from PIL import Image

from pipeline.core.dataset import Dataset
from pipeline.core.params import UserError
from pipeline.ingest import Ingest, ingest
from pipeline.sources import Data, open_source
from tests.conftest import digits

HEADER = "path,label,split,patient\n"


def write(folder: Path, count: int = 12) -> tuple[np.ndarray, str]:
    """Images below `pictures/`, and the manifest's text: three a group, splits in turn."""
    images, labels = digits(count, 0, 3)
    (folder / "pictures").mkdir(parents=True)
    lines = [HEADER]
    for at, (image, label) in enumerate(zip(images, labels, strict=True)):
        Image.fromarray(image[0]).save(folder / "pictures" / f"{at}.png")
        lines.append(f"pictures/{at}.png,kind {label},{('train', 'val', 'test')[at % 3]},p{at // 3}\n")
    (folder / "manifest.csv").write_text("".join(lines))
    return images, "".join(lines)


def data_of(folder: Path, **more: object) -> Data:
    return Data.model_validate(
        {"source": "images", "path": str(folder), "split": "split", "group": "patient", **more}
    )


@pytest.mark.parametrize("chunk", [5, 512])
def test_labels_splits_and_groups_are_read(tmp_path: Path, chunk: int) -> None:
    images, _ = write(tmp_path / "raw")
    source = open_source(data_of(tmp_path / "raw"))
    assert ingest(source, Ingest(chunk=chunk), tmp_path / "out") == 12
    found = Dataset(tmp_path / "out")
    assert found.spec.classes == ("kind 0", "kind 1", "kind 2")
    assert np.array_equal(found.inputs, images)
    assert found.targets.tolist() == [0, 1, 2] * 4
    assert np.array(found.column("split")).tolist() == [0, 1, 2] * 4
    assert np.array(found.column("group")).tolist() == [at // 3 for at in range(12)]
    assert source.left_out() == []


def test_parquet_reads_as_csv_does(tmp_path: Path) -> None:
    write(tmp_path / "raw")
    table = pyarrow.csv.read_csv(tmp_path / "raw" / "manifest.csv")
    (tmp_path / "raw" / "manifest.csv").unlink()
    pyarrow.parquet.write_table(table, tmp_path / "raw" / "manifest.parquet")
    source = open_source(data_of(tmp_path / "raw"))
    assert len(source) == 12
    ingest(source, Ingest(), tmp_path / "out")
    assert np.array(Dataset(tmp_path / "out").column("split")).tolist() == [0, 1, 2] * 4


def test_without_split_and_group_they_are_no_columns(tmp_path: Path) -> None:
    write(tmp_path / "raw")
    spec = open_source(data_of(tmp_path / "raw", split="", group="")).spec
    assert [column.name for column in spec.columns] == ["image", "label", "id"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("../out.png,kind 0,train,p0\n", "manifest.csv:14: '../out.png' leads out of"),
        ("pictures/0.png,kind 0,train,p0\n", "manifest.csv:14: 'pictures/0.png' is listed a second time"),
        ("pictures/0.png,,train,p0\n", "manifest.csv:14: the label is empty"),
        (
            "pictures/99.png,kind 0,trian,p0\n",
            "manifest.csv:14: the split is 'trian'; expected one of train, val",
        ),
        ("pictures/99.png,kind 0\n", "manifest.csv:14: 2 cells; expected 4"),
    ],
)
def test_a_wrong_line_is_told_with_its_number(tmp_path: Path, line: str, told: str) -> None:
    _, text = write(tmp_path / "raw")
    (tmp_path / "raw" / "manifest.csv").write_text(text + line)
    with pytest.raises(UserError) as error:
        open_source(data_of(tmp_path / "raw"))
    assert told in str(error.value)


def test_labels_that_cannot_be_told_apart_and_keys_that_do_nothing_are_refused(tmp_path: Path) -> None:
    _, text = write(tmp_path / "raw")
    manifest = tmp_path / "raw" / "manifest.csv"
    for changed, more, told in (
        (text.replace("kind 1", "kind 0").replace("kind 2", "kind 0"), {}, "has 1 classes; expected two"),
        (text.replace("kind 1", "Kind 0"), {}, "the classes 'Kind 0' and 'kind 0' differ in case only"),
        (text, {"target": ["label", "path"]}, "data.target names 2 columns; images have one label"),
        (text, {"task": "regression"}, "data.task: images are told into classes"),
        (text, {"normal": ["kind 0"]}, "data.normal is of use to data.task 'anomaly' alone"),
    ):
        manifest.write_text(changed)
        with pytest.raises(UserError) as error:
            open_source(data_of(tmp_path / "raw", **more))
        assert told in str(error.value)
    manifest.unlink()
    with pytest.raises(UserError, match=r"data.group names a column, and there is no manifest.csv"):
        open_source(data_of(tmp_path / "raw", split=""))


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (
            HEADER.replace("label", "path").encode(),
            "manifest.csv:1: the column names ['path'] are there twice",
        ),
        (HEADER.encode("utf-16"), "manifest.csv is UTF-16"),
        (
            HEADER.encode() + b"pictures/0.png,caf\xe9,train,p0\n",
            "manifest.csv:2: byte 19 of the line, 0xe9, is not UTF-8",
        ),
        (HEADER.replace(",", ";").encode(), "the header is separated by ';'; expected commas"),
        (b"", "manifest.csv is empty"),
        (HEADER.encode(), "manifest.csv lists no images"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_told(tmp_path: Path, raw: bytes, told: str) -> None:
    write(tmp_path / "raw")
    (tmp_path / "raw" / "manifest.csv").write_bytes(raw)
    with pytest.raises(UserError) as error:
        open_source(data_of(tmp_path / "raw"))
    assert told in str(error.value)


def test_a_missing_column_is_told_with_the_nearest(tmp_path: Path) -> None:
    write(tmp_path / "raw")
    with pytest.raises(UserError, match="no column 'patients' for the group; did you mean 'patient'"):
        open_source(data_of(tmp_path / "raw", group="patients"))


def test_an_image_that_is_listed_and_not_there_is_told_with_the_others(tmp_path: Path) -> None:
    _, text = write(tmp_path / "raw")
    (tmp_path / "raw" / "pictures" / "3.png").write_text("no image")
    (tmp_path / "raw" / "manifest.csv").write_text(text + "pictures/99.png,kind 0,train,p0\n")
    with pytest.raises(UserError) as error:
        ingest(open_source(data_of(tmp_path / "raw")), Ingest(), tmp_path / "out")
    assert "2 of 13 samples cannot be used" in str(error.value)
    assert "pictures/3.png: not a PNG or JPEG" in str(error.value)
    assert "pictures/99.png: cannot be read: No such file" in str(error.value)
