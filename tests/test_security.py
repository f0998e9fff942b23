"""What docs/security.md promises of names, archives and tokens, and that all it names is tested."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from serving.archive import MANIFEST, ArchiveError, build_archive, read_manifest
from serving.endpoint import RequestError
from serving.state import check_archive, of_archive
from serving.tokens import rotate

ROOT = Path(__file__).parents[1]


# --- names and archives


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".hidden", "a b", "a\n", "/etc/x", "a\\b", "ü"])
def test_a_name_that_leads_elsewhere_is_refused(bundle: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ArchiveError, match="may hold letters"):
        build_archive(bundle, tmp_path / "a.mar", name)
    for model in ({"modelName": name, "modelVersion": "1"}, {"modelName": "m", "modelVersion": name}):
        path = tmp_path / "b.mar"
        with zipfile.ZipFile(path, "w") as packed:
            packed.writestr(MANIFEST, json.dumps({"model": model}))
        with pytest.raises(ArchiveError, match="may stand there"):
            read_manifest(path)


def test_a_link_in_a_bundle_is_refused(planted: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (planted / "notes.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(ArchiveError, match="no links to others"):
        build_archive(planted, tmp_path / "a.mar", "m")


def test_an_archive_that_was_changed_after_it_was_certified_is_refused(stored: Path, tmp_path: Path) -> None:
    place = tmp_path / "store"
    shutil.copytree(stored.parent, place)
    (place / "receipt.json").write_text(json.dumps({"archive_sha256": "0" * 64}))
    with pytest.raises(ValueError, match="not what was certified"):
        check_archive(*of_archive(stored).every()[0][:2], place / stored.name)


def test_tokens_of_no_server_cannot_be_changed(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no server"):
        rotate(tmp_path)


# --- what the document says


def test_every_test_that_the_document_names_exists() -> None:
    text = (ROOT / "docs/security.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", text))
    written = "\n".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    files = {path.stem for path in (ROOT / "tests").glob("test_*.py")}
    assert len(named) >= 15
    assert not {name for name in named if f"def {name}(" not in written and name not in files}
    for advisory in ("CVE-2023-43654", "CVE-2022-1471", "CVE-2023-48299", "CVE-2024-35198", "CVE-2024-35199"):
        assert advisory in text


def test_the_audit_is_wired() -> None:
    """The advisories themselves are on the network; that the tool runs and the target calls it is not."""
    done = subprocess.run(
        [sys.executable, "-m", "pip_audit", "--version"], capture_output=True, text=True, env={**os.environ}
    )
    assert done.returncode == 0, done.stderr
    assert "pip-audit" in done.stdout
    asked = subprocess.run(["make", "-n", "audit"], cwd=ROOT, capture_output=True, text=True)
    assert "pip_audit" in asked.stdout, asked.stderr
