"""Explanations of models that follow a known patch, column, stretch or word point there, and are bounded in time."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.inputs.image import encode_png
from serving.worker import explain, occluding
from serving.worker.messages import Request
from serving.worker.rows import SHARE
from serving.worker.worker import Worker
from tests.planted import CHANNEL, COLUMN, GRAPHS, PATCH, STEPS, WORD, picture, planted

ROW = b'{"age": 30, "income": 0.9, "member": true, "colour": "red"}'
TEXT = f"The food was very {WORD} , and good".lower()


@pytest.fixture(scope="module", autouse=True)
def captum() -> None:
    assert explain.loaded(300)


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Worker]:
    folder = tmp_path_factory.mktemp("planted")
    return {modality: Worker(planted(folder / modality, modality)) for modality in GRAPHS}


def ask(worker: Worker, body: bytes, target: str | None = None, status: int = 200) -> Any:
    headers = {} if target is None else {"x-explain-target": target}
    reply = worker.answer([Request("r1", body, headers, "explain")])[0]
    assert reply.status == status, reply.body
    told = json.loads(reply.body)
    assert told["request_id"] == "r1"
    return told


def steps(length: int = 60) -> np.ndarray:
    found = np.random.default_rng(0).normal(0, 0.3, (length, 2))
    found[STEPS, CHANNEL] = 1.5
    return found


def series(values: np.ndarray) -> bytes:
    return json.dumps({"series": values.tolist()}).encode()


@pytest.mark.parametrize("channels", [1, 3])
def test_the_patch_of_an_image(tmp_path: Path, channels: int) -> None:
    worker = Worker(planted(tmp_path, "image", channels=channels))
    told = ask(worker, encode_png(picture(channels=channels)))
    scores = np.array(told["attributions"])
    assert scores.shape == (28, 28)
    assert (told["target"], told["size"], told["block"]) == ("yes", [28, 28], 1)
    assert scores[PATCH].min() > 0.02
    outside = scores.copy()
    outside[1:13, 13:25] = 0  # windows that reach into the patch are 4 pixels wide
    assert np.abs(outside).max() == 0
    dark = np.array(ask(worker, encode_png(picture(bright=False, channels=channels)), "yes")["attributions"])
    assert dark[PATCH].max() < 0, "a dark patch speaks against yes"


def test_the_column_of_a_table(workers: dict[str, Worker]) -> None:
    told = ask(workers["table"], ROW)
    assert list(told["attributions"]) == ["age", COLUMN, "member", "colour"]
    assert told["attributions"][COLUMN] == pytest.approx(told["score"] - 0.018, abs=1e-3)
    assert {value for name, value in told["attributions"].items() if name != COLUMN} == {0.0}
    against = ask(workers["table"], ROW, "no")["attributions"]
    assert against[COLUMN] == pytest.approx(-told["attributions"][COLUMN], abs=1e-3)


def test_a_table_is_hidden_by_the_means_of_training_where_they_are_known(tmp_path: Path) -> None:
    folder = planted(tmp_path, "table")
    (folder / "transform.json").write_text('{"mean": [40.0, 0.9, 0.5]}')
    worker = Worker(folder)
    assert ask(worker, ROW)["attributions"][COLUMN] == pytest.approx(0, abs=1e-6)
    assert ask(worker, b"30,,true,red")["attributions"][COLUMN] > 0.9, "a missing income speaks for no"


def test_the_stretch_and_channel_of_a_series(workers: dict[str, Worker]) -> None:
    told = ask(workers["series"], series(steps()))
    scores = np.array(told["attributions"])
    assert scores.shape == (60, 2)
    assert told["channels"] == ["left", "right"]
    assert STEPS.start <= int(scores[:, CHANNEL].argmax()) < STEPS.stop
    assert np.abs(scores[:, 1 - CHANNEL]).max() == 0
    assert np.abs(scores[20:]).max() == 0
    gaps = steps()
    gaps[30:40] = np.nan
    text = series(gaps).replace(b"NaN", b"null")
    assert np.isfinite(np.array(ask(workers["series"], text)["attributions"])).all()


def test_the_word_of_a_text(workers: dict[str, Worker]) -> None:
    told = ask(workers["text"], TEXT.encode())["attributions"]
    assert [each["text"] for each in told] == TEXT.split()
    assert all(TEXT[each["start"] : each["end"]] == each["text"] for each in told)
    assert max(told, key=lambda each: each["score"])["text"] == WORD
    assert all(each["score"] == 0 for each in told if each["text"] != WORD)
    assert len(ask(workers["text"], f"{WORD} ".encode() * 500)["attributions"]) == 32, (
        "the words that are seen"
    )
    assert len(ask(workers["text"], b"?")["attributions"]) == 1


def test_values_and_scores_are_explained_too(tmp_path: Path) -> None:
    worker = Worker(planted(tmp_path, "table", "regression"))
    assert ask(worker, ROW)["target"] == "no", "the first target"
    assert ask(worker, ROW, "yes")["attributions"][COLUMN] > 0.9
    worker = Worker(planted(tmp_path / "anomaly", "image", "anomaly"))
    told = ask(worker, encode_png(picture()))
    assert told["target"] == "score"
    assert np.array(told["attributions"])[PATCH].max() < 0, "the first output falls with the patch"


def test_what_cannot_be_explained_is_refused(workers: dict[str, Worker]) -> None:
    table = workers["table"]
    assert "expected one of no, yes" in ask(table, ROW, "maybe", 400)["error"]
    assert "missing columns" in ask(table, b'{"age": 3}', None, 400)["error"]
    assert "one input is explained at a time; found 2" in ask(table, b"1,1,,\n1,1,,", None, 400)["error"]
    assert ask(table, json.dumps({"instances": [json.loads(ROW)], "target": "no"}).encode())["target"] == "no"
    body = json.dumps({"instances": [json.loads(ROW)], "target": 3}).encode()
    assert "'target' must be a string" in ask(table, body, None, 400)["error"]


def test_a_worker_that_still_loads_captum_asks_to_come_again(
    workers: dict[str, Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = threading.Event()
    loading = threading.Thread(target=stop.wait, daemon=True)
    loading.start()
    monkeypatch.setattr(explain, "_loading", lambda: loading)
    monkeypatch.setattr(workers["table"].predictor, "seconds", 0.1)
    (reply,) = workers["table"].answer([Request("r1", ROW, {}, "explain")])
    assert (reply.status, reply.headers) == (503, {"Retry-After": "2"})
    stop.set()
    loading.join()
    monkeypatch.undo()
    assert ask(workers["table"], ROW)["target"] == "yes"


def test_slow_models_are_explained_more_coarsely_and_in_time(
    workers: dict[str, Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = workers["image"].predictor
    quick, counted = predictor.outputs, []

    def slow(rows: Any, chunk: int | None = None) -> np.ndarray:
        counted.append(len(rows))
        time.sleep(0.02)
        return quick(rows, chunk)

    monkeypatch.setattr(predictor, "outputs", slow)
    monkeypatch.setattr(predictor, "seconds", 1.0 / SHARE)
    told = ask(workers["image"], encode_png(picture()))
    assert sum(counted) <= 55, "a second of answers at 20 ms"
    scores = np.array(told["attributions"])
    assert scores[PATCH].mean() > 3 * np.abs(scores).mean()
    monkeypatch.setattr(predictor, "seconds", 0.1 / SHARE)
    assert "too little time" in ask(workers["image"], encode_png(picture()), None, 400)["error"]


def test_explanations_that_find_no_time_in_their_batch_may_come_again(
    workers: dict[str, Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = workers["table"].predictor
    quick = predictor.outputs

    def slow(rows: Any, chunk: int | None = None) -> np.ndarray:
        time.sleep(0.02)
        return quick(rows, chunk)

    monkeypatch.setattr(predictor, "outputs", slow)
    monkeypatch.setattr(predictor, "seconds", 0.4 / SHARE)
    replies = workers["table"].answer([Request(str(at), ROW, {}, "explain") for at in range(8)])
    assert {reply.status for reply in replies} <= {200, 503}
    assert replies[0].status == 503, "an eighth of the time is too little"
    assert json.loads(replies[0].body)["error"] == "too many explanations at once; ask again"
    assert ask(workers["table"], ROW)["target"] == "yes"


@pytest.mark.parametrize("count", [1, 2, 3, 16, 17, 100, 4096])
@pytest.mark.parametrize("side", [1, 4, 28, 31, 224, 1024])
def test_windows_cover_every_place_in_no_more_steps_than_are_given(side: int, count: int) -> None:
    window, stride = occluding.sliding(side, count)
    steps = 1 + -(-(side - window) // stride)
    assert steps <= count
    assert 1 <= stride <= window <= side


def test_a_large_map_is_told_in_blocks() -> None:
    scores = np.zeros((300, 200))
    scores[:3, :3] = 1
    pooled = occluding._pooled(scores, 3)
    assert pooled.shape == (100, 67)
    assert (pooled[0, 0], pooled.sum()) == (1.0, 1.0)
