"""Stage `ingest` on a machine that refuses: permissions, full and read-only disks, little memory."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import ingest
from pipeline.core.dataset import Dataset
from tests.conftest import run_stage, write_image_folder
from tests.staged import contents, peak, refused, use_images

OUTPUT = Path("data/ingest")


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
