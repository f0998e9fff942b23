"""optuna-dashboard over the stored studies: a real process, its API, and its page in a browser."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import optuna
import pytest

from docs.pictures import browser_page, chromium
from pipeline.core.params import UserError
from pipeline.dashboard import serve_dashboard
from pipeline.extras import DASHBOARD
from tests.project import ROOT
from tests.stores import free_port

pytestmark = [pytest.mark.slow, pytest.mark.skipif(DASHBOARD.absent, reason="needs the extra 'dashboard'")]
STUDIES = "sqlite:///.fairlead/studies.db"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a stored study of three trials, and one with two objectives."""
    folder = tmp_path_factory.mktemp("dashboard")
    (folder / "params.yaml").write_text(f"name: digits\nseed: 7\ntracking: {{studies: {STUDIES}}}\n")
    (folder / ".fairlead").mkdir()
    storage = f"sqlite:///{folder}/.fairlead/studies.db"
    study = optuna.create_study(study_name="digits-abc", storage=storage)
    study.optimize(lambda trial: trial.suggest_float("train.lr", 0.1, 1.0), 3)
    return folder


@pytest.fixture(scope="module")
def address(project: Path) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "dashboard"], cwd=project, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("optuna-dashboard on http://127.0.0.1:"), process.stderr and process.stderr.read()
    yield line.split()[2]
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0


def test_the_studies_and_their_trials_are_shown(address: str) -> None:
    studies = httpx.get(f"{address}/api/studies").json()["study_summaries"]
    assert [each["study_name"] for each in studies] == ["digits-abc"]
    detail = httpx.get(f"{address}/api/studies/{studies[0]['study_id']}").json()
    assert [trial["state"] for trial in detail["trials"]] == ["Complete"] * 3
    assert [each["name"] for each in detail["trials"][0]["params"]] == ["train.lr"]


def test_a_page_of_another_site_cannot_have_it_asked(address: str) -> None:
    assert httpx.get(f"{address}/api/studies", headers={"Host": "evil.example"}).status_code == 403
    port = address.rpartition(":")[2]
    assert httpx.get(f"http://localhost:{port}/api/studies").status_code == 200


@pytest.mark.skipif(chromium() is None, reason="needs Chromium")
def test_a_browser_shows_the_study(address: str) -> None:
    with browser_page(1300, 900) as page:
        page.goto(f"{address}/dashboard")
        page.get_by_text("digits-abc").first.wait_for(timeout=60_000)


def test_what_cannot_be_shown_is_told(
    address: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    with pytest.raises(UserError, match=r"port \d+ is in use; stop what holds it"):
        serve_dashboard(int(address.rpartition(":")[2]))
    (tmp_path / "params.yaml").write_text((project / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no study is stored yet in sqlite:///.*'make repro'"):
        serve_dashboard(free_port())
    assert not (tmp_path / ".fairlead").exists(), "looking makes nothing"
