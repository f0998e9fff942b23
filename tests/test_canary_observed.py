"""What the workers wrote becomes criteria: counted once, joined with labels, damaged lines left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.canary_labels import LABELS, add_labels, missed, read_feedback
from pipeline.canary_observed import Margins, Observations
from pipeline.canary_statistics import decide, rates
from pipeline.core.params import UserError

MARGINS = Margins(alpha=0.05, errors=0.02, latency=0.25, quality=0.05)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "canary" / "5a17"
    found.mkdir(parents=True)
    return found


def write(
    folder: Path, arm: str, requests: list[list[Any]], ms: float | None = 1.0, at: float = 0.0, **more: Any
) -> None:
    step = ["p", len(requests), ms] if ms is not None else None
    line = {"at": at, "arm": arm, "version": "x", "step": step, "requests": requests, **more}
    with (folder / "1.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def seen(folder: Path) -> Observations:
    found = Observations(folder)
    found.read()
    return found


def test_a_request_counts_once_and_only_whole_lines_do(folder: Path) -> None:
    write(folder, "challenger", [["a", "ok", "1"], ["b", "failed: timeout", None], ["c", "refused", None]])
    write(folder, "challenger", [["b", "ok", "1"], ["d", "lost: status 400", None]], ms=None)
    with (folder / "1.jsonl").open("a") as file:
        file.write('{"at": 1, "arm": "chall\n{"at": 2')  # a full disk, then a write under way
    found = seen(folder)
    assert found.arms["challenger"].counts() == {"ok": 1, "failed": 1, "refused": 1, "lost": 1}
    assert found.arms["challenger"].faults() == {"timeout": 1}
    with (folder / "1.jsonl").open("a") as file:
        file.write(', "arm": "control", "version": "x", "step": null, "requests": [["e", "ok", "1"]]}\n')
    found.read()
    assert found.arms["control"].counts() == {"ok": 1}


def test_copies_that_were_dropped_are_added_over_the_workers(folder: Path) -> None:
    write(folder, "challenger", [["a", "ok", "1"]], dropped=3)
    write(folder, "challenger", [["b", "ok", "1"]], dropped=8)
    (folder / "1.jsonl").rename(folder / "2.jsonl")
    write(folder, "challenger", [["c", "ok", "1"]], dropped=5)
    assert seen(folder).dropped == 13


def by_name(found: Observations, margins: Margins = MARGINS) -> dict[str, Any]:
    return {each.name: each for each in found.criteria(margins)}


def test_errors_and_latency_of_two_arms(folder: Path) -> None:
    draw = np.random.default_rng(0)
    for at in range(400):
        rows = int(draw.integers(1, 4))
        for arm, factor in (("control", 1.0), ("challenger", 1.0)):
            requests = [[f"{arm}{at}-{row}", "ok", "1"] for row in range(rows)]
            write(folder, arm, requests, ms=factor * rows * float(draw.lognormal(2, 0.1)), at=at / 5)
    found = by_name(seen(folder))
    assert list(found) == ["errors", "latency"], "without labels, nothing is said of quality"
    assert found["errors"].verdict == "fine"
    assert found["latency"].verdict == "fine"
    assert found["latency"].value == pytest.approx(0, abs=0.1)
    for at in range(400, 800):
        write(
            folder, "challenger", [[f"late{at}", "ok", "1"]], ms=3 * float(draw.lognormal(2, 0.1)), at=at / 5
        )
    assert by_name(seen(folder))["latency"].verdict == "harm"
    write(folder, "challenger", [[f"x{at}", "failed: timeout", None] for at in range(60)], ms=None)
    assert by_name(seen(folder))["errors"].verdict == "harm"


def test_a_harm_must_be_surer_as_there_are_three_to_look_for(folder: Path) -> None:
    write(folder, "control", [[f"a{at}", "ok", "1"] for at in range(300)])
    write(folder, "challenger", [[f"b{at}", "failed: x" if at < 9 else "ok", "1"] for at in range(300)])
    errors = by_name(seen(folder))["errors"]
    assert errors.low == rates((0, 300), (9, 300), MARGINS.alpha / 3)[1]
    assert errors.high == rates((0, 300), (9, 300), MARGINS.alpha)[2]


def test_a_pass_of_more_rows_may_take_longer(folder: Path) -> None:
    """A challenger whose passes are larger than the control's, each row as fast: no harm."""
    draw = np.random.default_rng(0)
    for at in range(600):
        for arm, sizes in (("control", (1, 1, 4)), ("challenger", (1, 4, 4))):
            rows = int(draw.choice(sizes))
            requests = [[f"{arm}{at}-{row}", "ok", "1"] for row in range(rows)]
            write(folder, arm, requests, ms=10 * rows * float(draw.lognormal(0, 0.05)), at=at / 5)
    assert by_name(seen(folder))["latency"].verdict == "fine"


def test_passes_of_one_moment_count_once(folder: Path) -> None:
    for at in range(50):
        write(folder, "control", [[f"{at}", "ok", "1"]], at=7.0 + at / 1000)
    assert len(seen(folder).milliseconds("control")) == 1


def test_quality_of_a_canary_and_of_a_shadow(folder: Path) -> None:
    draw = np.random.default_rng(0)
    truth = {f"{at}": str(draw.integers(0, 3)) for at in range(900)}
    for at, (name, label) in enumerate(truth.items()):
        said = {
            arm: label if draw.random() > wrong else "9"
            for arm, wrong in (("control", 0.05), ("challenger", 0.3))
        }
        for arm in said if at % 3 else ("control",):
            write(folder, arm, [[name, "ok", said[arm]]])
    assert len(by_name(seen(folder))) == 2
    add_labels(folder.parents[1], [{"id": name, "label": label} for name, label in truth.items()])
    add_labels(folder.parents[1], [{"id": "unknown", "label": "1"}])
    found = seen(folder)
    assert found.labelled() == {"control": 900, "challenger": 600}
    assert found.agreement()[1] == 600
    assert by_name(found)["quality"].verdict == "harm"
    assert by_name(found)["quality"].value == pytest.approx(0.25, abs=0.05), "of the pairs"


def test_quality_of_numbers_is_their_absolute_error(folder: Path) -> None:
    draw = np.random.default_rng(0)
    truth = {f"{at}": float(draw.normal()) for at in range(800)}
    for at, (name, value) in enumerate(truth.items()):
        arm = ("control", "challenger")[at % 2]
        off = draw.normal() * (1.0 if arm == "control" else 1.5)
        write(folder, arm, [[name, "ok", {"y": value + off}]])
    add_labels(folder.parents[1], [{"id": name, "label": f"{value}"} for name, value in truth.items()])
    quality = by_name(seen(folder))["quality"]
    assert quality.value == pytest.approx(0.5, abs=0.15), "half as much again, as a share of the champion's"
    assert quality.verdict == "harm"


@pytest.mark.parametrize(
    ("said", "label", "miss"),
    [
        ("3", "3", False),
        ("3", "4", True),
        (True, "anomaly", False),
        (True, "0", True),
        (False, "perhaps", None),
        ({"y": 2.0}, "3.5", 1.5),
        ({"y": 2.0}, "much", None),
        ({"y": 2.0}, "nan", None),
        ({"a": 1.0, "b": 2.0}, {"a": "2", "b": "2"}, 0.5),
        ({"a": 1.0, "b": 2.0}, "2", None),
        (None, "3", None),
    ],
)
def test_how_far_an_answer_is_off(said: Any, label: Any, miss: float | bool | None) -> None:
    assert missed(said, label) == miss
    assert type(missed(said, label)) is type(miss)


def test_feedback_is_read_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text('\ufeffrequest_id,label\na,3\nb,"x,y"\n', encoding="utf-8")
    assert read_feedback(file) == [{"id": "a", "label": "3"}, {"id": "b", "label": "x,y"}]
    file.write_text("request_id,height,width\na,3,4\n")
    assert read_feedback(file) == [{"id": "a", "label": {"height": "3", "width": "4"}}]
    add_labels(tmp_path, read_feedback(file))
    assert len((tmp_path / "canary" / LABELS).read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "found nothing"),
        (b"id,label\na,1\n", "request_id and label"),
        (b"request_id\na\n", "request_id and label"),
        (b"request_id,label\na,1\nb\n", "line 3"),
        (b"request_id,label\na,1,2\n", "line 2"),
        (b"request_id,label\n,1\n", "line 2"),
        (b"request_id,label\n\xff,1\n", "no CSV in UTF-8"),
        (b'request_id,label\n"a,1\n', "no CSV"),
    ],
)
def test_what_is_no_feedback_is_said(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "labels.csv"
    file.write_bytes(content)
    with pytest.raises(UserError, match=reason):
        read_feedback(file)
    with pytest.raises(UserError, match="No such file"):
        read_feedback(tmp_path / "nothing.csv")


# --- whole trials, simulated


def simulated(draw: np.random.Generator, errors: float, slower: float, wrong: float) -> str:
    """How a trial of 2,000 requests an arm, looked at 10 times, ends beside a champion with 0.002, 1 and 0.1."""
    found = Observations(Path("nowhere"))
    arms = (("control", 0.002, 1.0, 0.1), ("challenger", errors, slower, wrong))
    for look in range(10):
        for arm, failing, factor, missing in arms:
            for at in range(200):
                name = f"{arm}{look}-{at}"
                found.labels[name] = "1"
                fails, errs = draw.random(2) < (failing, missing)
                requests = [[name, "failed: x" if fails else "ok", None if fails else "0" if errs else "1"]]
                step = ("p", 1, 20 * factor * float(draw.lognormal(0, 0.2)))
                found._take(
                    Path("x"), {"at": look * 200 + at, "arm": arm, "step": step, "requests": requests}
                )
        decision, _ = decide(found.criteria(Margins(quality=0.1)), enough=look >= 2)
        if decision != "go on":
            return decision
    return "go on"


@pytest.mark.parametrize(
    ("errors", "slower", "wrong", "expected"),
    [
        (0.002, 1.0, 0.1, "promote"),
        (0.002, 0.8, 0.05, "promote"),
        (0.05, 1.0, 0.1, "roll back"),
        (0.002, 2.0, 0.1, "roll back"),
        (0.002, 1.0, 0.3, "roll back"),
    ],
    ids=["as good", "better", "fails", "slow", "wrong"],
)
def test_trials_end_as_they_should(errors: float, slower: float, wrong: float, expected: str) -> None:
    draw = np.random.default_rng(5)
    ends = [simulated(draw, errors, slower, wrong) for _ in range(10)]
    assert ends.count(expected) >= 9, ends
    assert not (expected == "promote" and "roll back" in ends)
