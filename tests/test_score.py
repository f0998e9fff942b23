"""`fairlead score`: every kind of input, answers equal to the server's, bad samples told, a kill gone on from."""

from __future__ import annotations

import csv
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
from click.testing import Result
from pyarrow import parquet
from typer.testing import CliRunner

from pipeline.cli import app
from serving.archive import build_archive
from serving.client import Client
from serving.endpoint import RequestError
from serving.inputs.image import encode_png
from serving.predictor import Predictor
from serving.torchserve import TorchServe
from tests.bundles import VERSION, write_bundle
from tests.conftest import ROOT, spec_of
from tests.live import settings_of
from tests.modalities import CHANNELS, TEXTS, series_spec, table_spec, text_spec

HEADER = ["key", "kind", "size, m", "old", "weight", "since", "colour", "spare"]
ROWS = [
    ["k1", "a", "1.5", "true", "2", "2020-01-01", "red", ""],
    ["k2", "b, c", "", "no", "-3e2", "2020-01-01T10:00:00", "", "x"],
    ["k3", 'said "d"', "NA", "", "7", "", "blue", ""],
    ["k4", "é\nf", "wide", "yes", "1", "soon", "red", ""],
    ["k5", "7.0", "0", "1", "1e39", "1999-12-31", "red", ""],
    ["k6", "7", "12", "0", "4", "1999-12-31", "red", "y"],
]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bundles")
    write_bundle(root / "table", table_spec(("no", "yes")))
    texts = text_spec(("bad", "good"))
    tokens = texts.input.model_copy(update={"name": "tokens", "dtype": "<i4"})
    write_bundle(root / "text", texts.model_copy(update={"columns": (tokens, *texts.columns[1:])}))
    write_bundle(root / "series", series_spec(targets=("far", "near")))
    write_bundle(root / "image", spec_of((1, 28, 28), "abcdefghij"))
    return root


def run(bundle: Path, given: Path, out: Path, *more: str) -> Result:
    words = ["score", str(given), "--out", str(out), "--bundle", str(bundle), "--workers", "1", *more]
    return CliRunner().invoke(app, words)


def scored(bundle: Path, given: Path, out: Path, *more: str) -> list[dict[str, Any]]:
    done = run(bundle, given, out, *more)
    assert done.exit_code == 0, done.output
    assert not out.with_name(out.name + ".parts").exists()
    return parquet.read_table(out).to_pylist()


def write_rows(path: Path, rows: list[list[str]] = ROWS, more: str = "") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([HEADER, *rows])
        file.write(more)
    return path


def as_answer(row: dict[str, Any]) -> dict[str, Any]:
    chances = {
        name.removeprefix("probability_"): value
        for name, value in row.items()
        if name.startswith("probability_")
    }
    return {"label": row["label"], "probabilities": chances, "model_version": row["model_version"]}


def same(row: dict[str, Any], answer: dict[str, Any]) -> None:
    mine = as_answer(row)
    assert mine["label"] == answer["label"]
    assert mine["probabilities"] == pytest.approx(answer["probabilities"], abs=1e-6)
    assert mine["model_version"] == answer["model_version"] == VERSION


@pytest.mark.slow
def test_every_row_is_answered_as_the_live_server_answers_it(bundles: Path, tmp_path: Path) -> None:
    rows = scored(
        bundles / "table", write_rows(tmp_path / "in.csv"), tmp_path / "out.parquet", "--keep", "key"
    )
    assert [row["key"] for row in rows] == [f"k{at}" for at in range(1, 7)]
    assert [row["row"] for row in rows] == list(range(1, 7))
    build_archive(bundles / "table", tmp_path / "small.mar", "small")
    server = TorchServe(tmp_path / "small.mar", settings_of(), tmp_path / "state")
    body = json.dumps(dict(zip(HEADER[1:-1], ROWS[0][1:-1], strict=True))).encode()
    server.start(body, "application/json")
    try:
        with Client.local(tmp_path / "state") as client:
            for row, cells in zip(rows, ROWS, strict=True):
                body = json.dumps(dict(zip(HEADER[1:-1], cells[1:-1], strict=True))).encode()
                if row["error"] is None:
                    same(row, client.predict(body, "application/json"))
                    continue
                with pytest.raises(RequestError) as refused:
                    client.predict(body, "application/json")
                assert refused.value.status == 400
                assert row["error"].partition(": ")[2] in str(refused.value)
                assert row["label"] is None
    finally:
        server.stop()
    assert [row["row"] for row in rows if row["error"]] == [4, 5]
    assert rows[3]["error"].startswith("in.csv:5: column 'size, m' holds 'wide'")
    assert rows[4]["error"].startswith("in.csv:7: column 'weight' holds '1e39'")


def test_rows_that_cannot_be_read_stay_in_their_place(bundles: Path, tmp_path: Path) -> None:
    given = write_rows(tmp_path / "in.csv", ROWS[:1], "too,few\n\nk8,a,1,1,1,,red,\n")
    with given.open("ab") as file:
        file.write(b'k9,\xe9,1,1,1,,red,\nk10,a,1,1,1,,red,\nk11,"a,1\n')
    rows = scored(bundles / "table", given, tmp_path / "out.parquet", "--keep=key,spare", "--keep", "kind")
    assert [row["key"] for row in rows] == ["k1", None, "k8", None, "k10", None]
    told = ["", "in.csv:3: 2 cells; expected 8", "", "in.csv:6: not UTF-8", "", "in.csv:8: not valid CSV"]
    for row, reason in zip(rows, told, strict=True):
        assert (row["error"] or "").startswith(reason)
        assert bool(reason) == bool(row["error"])
        assert (row["label"] is None) == bool(reason)


def test_parquet_and_compressed_csv_give_what_csv_gives(bundles: Path, tmp_path: Path) -> None:
    plain = scored(bundles / "table", write_rows(tmp_path / "in.csv"), tmp_path / "a.parquet")
    with gzip.open(tmp_path / "in.csv.gz", "wb") as file:
        file.write((tmp_path / "in.csv").read_bytes())
    assert scored(bundles / "table", tmp_path / "in.csv.gz", tmp_path / "b.parquet") == plain
    columns = dict(zip(HEADER, zip(*ROWS, strict=True), strict=True))
    table = pa.table({name: list(cells) for name, cells in columns.items()})
    parquet.write_table(table, tmp_path / "in.parquet", row_group_size=4)
    again = scored(bundles / "table", tmp_path / "in.parquet", tmp_path / "c.parquet")
    for row in (*plain, *again):
        row["error"] = (row["error"] or "").partition(": ")[2]
    assert again == plain
    typed = pa.table({
        "kind": pa.array(["a", "7", None]).dictionary_encode(), "size, m": [1.5, 2.0, None],
        "old": [True, False, None], "weight": pa.array([3, 4, None], pa.int32()),
        "since": [date(2020, 1, 1), None, date(1970, 1, 1)], "colour": ["red", "red", None],
    })  # fmt: skip
    parquet.write_table(typed, tmp_path / "typed.parquet")
    rows = scored(
        bundles / "table", tmp_path / "typed.parquet", tmp_path / "d.parquet", "--keep", "kind,weight,since"
    )
    bodies = [json.dumps({**row, "since": str(row["since"] or "")}).encode() for row in typed.to_pylist()]
    for row, answer in zip(rows, Predictor(bundles / "table").answer(bodies), strict=True):
        assert isinstance(answer, dict)
        same(row, answer)
    assert [row["weight"] for row in rows] == [3, 4, None]
    assert rows[0]["since"] == date(2020, 1, 1)


def test_texts_and_lines_of_json(bundles: Path, tmp_path: Path) -> None:
    texts = [*TEXTS, "", "a" * 200_000]
    with (tmp_path / "in.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text"], *([text] for text in texts)])
    (tmp_path / "in.jsonl").write_text("\n".join(json.dumps({"text": text}) + "\n" for text in texts))
    rows = scored(bundles / "text", tmp_path / "in.csv", tmp_path / "a.parquet")
    lines = scored(bundles / "text", tmp_path / "in.jsonl", tmp_path / "b.parquet")
    answers = Predictor(bundles / "text").answer([{"text": text} for text in texts])
    for some in (rows, lines):
        for row, answer in zip(some, answers, strict=True):
            if isinstance(answer, dict):
                same(row, answer)
            else:
                assert row["error"].endswith(str(answer))
    assert [bool(row["error"]) for row in lines] == [False] * len(TEXTS) + [True, True]


def test_series_of_long_tables_and_ts_files(bundles: Path, tmp_path: Path) -> None:
    left, right = CHANNELS
    steps = ["b,2,3,4,x", "b,1,1,2,x", "a,1,5,,y", "a,2,6,7,y", "c,1,1,oops,z", "c,2,1,1,z", "d,1,1,1,w"]
    (tmp_path / "in.csv").write_text("\n".join([f"id,when,{left},{right},town", *steps]))
    out = tmp_path / "a.parquet"
    rows = scored(bundles / "series", tmp_path / "in.csv", out, "--time", "when", "--keep", "town")
    bodies = [b"[[1,2],[3,4]]", b"[[5,null],[6,7]]"]
    answers = Predictor(bundles / "series").answer(bodies)
    assert [(row["series"], row["town"]) for row in rows] == [("b", "x"), ("a", "y"), ("c", "z"), ("d", "w")]
    for row, answer in zip(rows[:2], answers, strict=True):
        assert isinstance(answer, dict)
        assert {"far": row["value_far"], "near": row["value_near"]} == pytest.approx(
            answer["values"], abs=1e-6
        )
    assert rows[2]["error"].startswith(f"in.csv:6: in.csv:6: column '{right}' holds 'oops'")
    assert "has 1 steps; expected 2" in rows[3]["error"]
    for label in (":walk", ""):
        head = f"@problemName p\n@univariate false\n@classLabel {'true walk run' if label else 'false'}\n"
        (tmp_path / "in.ts").write_text(
            f"{head}@data\n1,3:2,4{label}\n\n5,6:?,7{label}\n1,2{label}\n1,x:2,3{label}\n"
        )
        told = scored(bundles / "series", tmp_path / "in.ts", tmp_path / "b.parquet")
        for row, answer in zip(told[:2], answers, strict=True):
            assert {"far": row["value_far"], "near": row["value_near"]} == pytest.approx(
                answer["values"], abs=1e-6
            )  # type: ignore[index]
        assert [row["error"] is None for row in told] == [True, True, False, False]
    (tmp_path / "in.csv").write_text(f"id,{left},{right}\na,1,1\nb,2,2\na,3,3\n")
    done = run(bundles / "series", tmp_path / "in.csv", tmp_path / "c.parquet")
    assert done.exit_code == 1
    assert "not adjacent: 'a' begins anew at in.csv:4" in done.output


def test_a_folder_of_images_and_of_requests(bundles: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 1, 28, 28)).astype(np.uint8)
    folder = tmp_path / "in"
    (folder / "deep" / "er").mkdir(parents=True)
    bodies = [encode_png(each) for each in pixels[:2]]
    (folder / "b.png").write_bytes(bodies[0])
    (folder / "deep" / "er" / "a.PNG").write_bytes(bodies[1])
    (folder / "deep" / "z.json").write_text(json.dumps({"pixels": pixels[2, 0].tolist()}))
    (folder / "deep" / "cut.jpg").write_bytes(bodies[0][:50])
    (folder / "notes.md").write_text("no request")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "gone.png").symlink_to(tmp_path / "nowhere")
    done = run(bundles / "image", folder, tmp_path / "out.csv")
    assert done.exit_code == 0, done.output
    assert "1 files are of no kind that this model takes" in done.output
    assert "3 of 5 scored" in done.output
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    deep = ["deep/cut.jpg", "deep/z.json", "deep/er/a.PNG"]
    assert [row["file"] for row in rows] == ["b.png", "gone.png", *deep]
    rows.remove(lost := rows[1])
    assert lost["error"] == "gone.png: cannot be read: No such file or directory"
    answers = Predictor(bundles / "image").answer(
        [bodies[0], (folder / "deep" / "z.json").read_bytes(), bodies[1]]
    )
    for row, answer in zip([rows[0], *rows[2:]], answers, strict=True):
        assert isinstance(answer, dict)
        assert row["label"] == answer["label"]
        assert float(row["probability_c"]) == pytest.approx(answer["probabilities"]["c"], abs=1e-6)
    assert rows[1]["error"].startswith("deep/cut.jpg: the image")
    single = scored(bundles / "image", folder / "b.png", tmp_path / "one.parquet")
    assert [row["label"] for row in single] == [rows[0]["label"]]


def test_what_is_done_is_not_done_twice_and_nothing_of_others_is_lost(bundles: Path, tmp_path: Path) -> None:
    given, out = write_rows(tmp_path / "in.csv"), tmp_path / "out.parquet"
    assert "4 of 6 scored" in run(bundles / "table", given, out).output
    before = out.stat().st_mtime_ns
    assert "already" in run(bundles / "table", given, out).output
    assert out.stat().st_mtime_ns == before
    assert "already" not in run(bundles / "table", given, out, "--keep", "key").output
    newer = write_bundle(tmp_path / "newer", table_spec(("no", "yes")), "aaaabbbbcccc")
    rows = scored(newer, given, out)
    assert {row["model_version"] for row in rows} == {"aaaabbbbcccc"}
    write_rows(given, ROWS[:2])
    assert len(scored(newer, given, out)) == 2
    out.write_text("mine")
    refused = run(newer, given, out)
    assert refused.exit_code == 1
    assert "is not what this command wrote" in refused.output
    assert out.read_text() == "mine"
    assert len(scored(newer, given, out, "--force")) == 2


def test_strict_stops_and_writes_nothing(bundles: Path, tmp_path: Path) -> None:
    given, out = write_rows(tmp_path / "in.csv"), tmp_path / "out.csv"
    done = run(bundles / "table", given, out, "--strict")
    assert done.exit_code == 1
    assert "error: in.csv:5: column 'size, m' holds 'wide'" in done.output
    assert not out.exists()


@pytest.mark.parametrize(
    ("text", "more", "reason"),
    [
        ("", (), "is empty"),
        ("kind;weight\n", (), "separated by ';'"),
        ("kind,weight\na,1\n", (), "the model takes the columns"),
        (",".join(f'"{name}"' for name in HEADER) + "\n", (), "holds nothing to score"),
        (None, ("--keep", "none"), "--keep: the column 'none'"),
        (None, ("--keep", "label"), "--keep: the column 'label'"),
        (None, ("--engine", "spark"), "expected local or ray"),
        (None, ("--address", "x"), "add --engine ray"),
        (None, ("--version", "3"), "give one"),
    ],
)
def test_bad_input_is_told_in_one_line(
    bundles: Path, tmp_path: Path, text: str | None, more: tuple[str, ...], reason: str
) -> None:
    given = write_rows(tmp_path / "in.csv")
    if text is not None:
        given.write_text(text)
    done = run(bundles / "table", given, tmp_path / "out.csv", *more)
    assert done.exit_code == 1
    assert reason in done.output
    assert "Traceback" not in done.output
    assert not (tmp_path / "out.csv.parts").exists()


def test_places_that_cannot_be_used_are_refused(bundles: Path, tmp_path: Path) -> None:
    given = write_rows(tmp_path / "in.csv")
    (tmp_path / "folder.csv").mkdir()
    for path, out, reason in [
        (tmp_path / "gone.csv", "out.csv", "does not exist"),
        (given, "out.txt", "must end in .parquet or .csv"),
        (given, "in.csv", "is the input itself"),
        (given, "no/out.csv", "does not exist"),
        (given, "folder.csv", "is a folder"),
        (tmp_path, "out.csv", "lies inside the input"),
        (ROOT / "README.md", "out.csv", "of no kind that this model (table) takes"),
        (tmp_path / "folder.csv", "../out.csv", "holds no file that this model takes"),
    ]:
        done = run(bundles / "table", path, tmp_path / out)
        assert done.exit_code == 1
        assert reason in done.output, done.output


def many(path: Path, rows: int) -> Path:
    with path.open("w") as file:
        file.write('key,kind,"size, m",old,weight,since,colour\n')
        file.writelines(f"k{at},a,{at % 97},1,{at % 31},2020-01-01,red\n" for at in range(rows))
    return path


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(bundles: Path, tmp_path: Path) -> None:
    given, rows = many(tmp_path / "in.csv", 50_000), 50_000
    command = [sys.executable, "-m", "pipeline.cli", "score", str(given), "--bundle", str(bundles / "table"),
               "--keep", "key", "--workers", "2", "--out"]  # fmt: skip
    about: dict[str, Any] = {"env": {**os.environ, "PYTHONPATH": str(ROOT)}, "cwd": tmp_path, "text": True}
    subprocess.run([*command, "whole.parquet"], check=True, capture_output=True, **about)
    process = subprocess.Popen([*command, "out.parquet"], stderr=subprocess.PIPE, **about)
    parts, deadline = tmp_path / "out.parquet.parts", time.monotonic() + 60
    while len(list(parts.glob("0*[0-9].parquet"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "out.parquet").exists()
    assert psutil.wait_procs(workers, 10)[1] == []
    again = subprocess.run([*command, "out.parquet"], check=True, capture_output=True, **about)
    assert "going on: " in again.stderr
    assert f"{rows:,} of {rows:,} scored" in again.stdout
    assert (tmp_path / "out.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    found = parquet.read_table(tmp_path / "out.parquet")
    assert found["key"].to_pylist() == [f"k{at}" for at in range(rows)]
    assert not parts.exists()
