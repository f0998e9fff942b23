"""`fairlead trace`: from a version or an answer to run, commit, data, parameters and metrics."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

from pipeline import history
from pipeline.cli import app
from pipeline.trace import HISTORY, REQUESTS
from serving.worker.record import RequestLog
from tests.recipes import standing_in
from tests.road import Road

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def mine(road: Road, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Road]:
    copy = road.copy(tmp_path_factory.mktemp("trace") / "road")
    with standing_in(copy.folder, "sqlite:///mlflow.db"):
        yield copy


def traced(word: str) -> dict:
    done = CliRunner().invoke(app, ["trace", word, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.output)


def test_a_version_leads_to_all_that_made_it(mine: Road) -> None:
    receipt, first = mine.json("data/promote/receipt.json"), mine.json("first.json")
    version = receipt["model_version"]
    facts = traced(version)
    assert facts == traced("1") == traced("champion") == traced(version[:6])
    assert facts["registry"][-1]["version"] == "1"
    assert facts["registry"][-1]["verdict"] == "promoted"
    assert facts["registry"][-1]["aliases"] == ["champion"]
    assert facts["run"]["id"] == first["run_id"]
    assert facts["run"]["address"].endswith(f"/runs/{first['run_id']}?workflowType=machine_learning")
    head = mine.run("git", "rev-list", "--max-parents=0", "HEAD").stdout.strip()
    assert facts["code"] == {"commit": head, "modified": False, "patch": None}
    assert len(facts["dvc_lock_sha256"]["at promotion"]) == 64
    assert facts["data"]["source"] == "mnist"
    assert facts["data"]["digest"] == first["data"]
    assert {part["part"] for part in facts["data"]["parts"]} == {"training", "validation"}
    assert facts["parameters"]["train"]["max_epochs"] == 2
    metrics = mine.json("data/evaluate/metrics.json")
    assert facts["metrics"]["accuracy"] == metrics["accuracy"]
    assert all(each["same"] for each in facts["certified"]["comparisons"])
    assert facts["archive"]["sha256"] == receipt["archive_sha256"]
    text = CliRunner().invoke(app, ["trace", "champion"]).output
    for part in (
        version,
        head,
        first["run_id"],
        receipt["archive_sha256"],
        receipt["reason"],
        "max_epochs 2",
    ):
        assert part in text


def test_an_answer_leads_to_its_version(mine: Road) -> None:
    version = mine.json("data/promote/receipt.json")["model_version"]
    REQUESTS.mkdir(parents=True, exist_ok=True)
    line = {"at": 1.7e9, "model": "mnist", "version": version, "ms": 2.5}
    line["requests"] = [["a-1", 200, "7"], ["a-2", 400, None]]
    gone = {**line, "version": "000000000000", "requests": [["b-1", 200, "1"]]}
    (REQUESTS / "1.jsonl").write_text(f"{json.dumps(line)}\n{json.dumps(gone)}\n" + json.dumps(line)[:40])
    (REQUESTS / "2-17.jsonl").write_text(
        json.dumps({**line, "at": 1.6e9, "requests": [["a-1", 500, None]]}) + "\n"
    )
    assert history.FILE == HISTORY
    history.record("deploy", "mnist", None, version)
    history.record("deploy", "mnist", None, "000000000000")
    facts = traced("a-1")
    assert [(each["status"], each["answer"]) for each in facts["requests"]] == [(500, None), (200, "7")]
    assert facts["requests"][1]["at"] == "2023-11-14T22:13:20.000+00:00"
    assert facts["model_version"] == version
    served = [(each["action"], each["to"]) for each in facts["history"]]  # other tests of this road serve too
    assert served[-1] == ("deploy", version)
    assert "000000000000" not in {to for _, to in served}
    log = RequestLog(REQUESTS.parent, 1 << 20)
    log.add("predict", "mnist", version, 0.0025, [("c-1", 200, "7"), ("c-2", 200, "3")])
    log.flush()
    answered = traced("c-2")["requests"]
    assert [(each["status"], each["answer"], each["batch_ms"]) for each in answered] == [(200, "3", 2.5)]
    lost = CliRunner().invoke(app, ["trace", "b-1"])
    assert lost.exit_code == 0
    assert "has no version '000000000000'" in lost.output
    assert "status 200" in lost.output


def test_what_is_not_known_is_told(mine: Road) -> None:
    for word in ("77", "nobody", "3f", "a-"):
        done = CliRunner().invoke(app, ["trace", word])
        assert done.exit_code == 1
        assert f"'mnist' has no version '{word}'; it has 1 (" in done.output
        assert "no request of this id is in the log" in done.output
        assert "Traceback" not in done.output
