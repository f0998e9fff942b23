"""Files that are wrong, of every kind of data that is read from rows: one voice, the place, nothing read by halves."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from pipeline.core.params import UserError
from pipeline.ingest import Ingest, ingest
from pipeline.sources import Data, open_source
from tests.conftest import run_stage, set_params
from tests.staged import contents, refused
from tests.tables import source as table_of
from tests.walks import HEAD

STEPS = range(24)
ROWS: dict[str, dict[str, list[Any]]] = {  # the columns of a file that is right
    "table": {"x": list(STEPS), "y": ["a", "b"] * 12},
    "text": {"text": [f"tea {at}" for at in STEPS], "y": ["a", "b"] * 12},
    "series": {"id": [f"s{at // 4}" for at in STEPS], "t": [at % 4 for at in STEPS], "x": list(STEPS),
               "y": ["ab"[at // 4 % 2] for at in STEPS]},
    "forecast": {"id": [f"s{at // 12}" for at in STEPS], "t": [at % 12 for at in STEPS], "x": list(STEPS)},
}  # fmt: skip
MORE: dict[str, dict[str, Any]] = {
    "series": {"time": "t"},
    "forecast": {"time": "t", "window": 3, "horizon": 1},
}
KINDS = list(ROWS)


def data(kind: str, path: Path, **more: Any) -> Data:
    return Data.model_validate({"source": kind, "path": str(path), **MORE.get(kind, {}), **more})


def text_of(columns: dict[str, list[Any]]) -> str:
    rows = zip(*columns.values(), strict=True)
    return ",".join(columns) + "\n" + "".join(",".join(map(str, row)) + "\n" for row in rows)


def told(kind: str, path: Path, raw: str | bytes, **more: Any) -> str:
    """What the whole of ingest says of a file."""
    path.write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    return said(data(kind, path, **more), path.parent / "out")


def said(settings: Data, out: Path) -> str:
    with pytest.raises(UserError) as error:
        ingest(open_source(settings), Ingest(), out)
    return str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mark_of_byte_order_line_ends_and_compression_change_nothing(kind: str, tmp_path: Path) -> None:
    text = text_of(ROWS[kind])
    forms = {
        "d.csv": text.encode(), "bom.csv": text.encode("utf-8-sig"), "dos.csv": text.replace("\n", "\r\n").encode(),
        "blank.csv": ("\n" + text).encode(), "d.csv.gz": gzip.compress(text.encode()),
    }  # fmt: skip
    found = set()
    for name, raw in forms.items():
        (tmp_path / name).write_bytes(raw)
        ingest(open_source(data(kind, tmp_path / name)), Ingest(), tmp_path / "out")
        found.add((tmp_path / "out" / "id.npy").read_bytes())
    assert len(found) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_cannot_be_read_is_named_with_its_line(kind: str, tmp_path: Path) -> None:
    path, text, count = tmp_path / "d.csv", text_of(ROWS[kind]), len(ROWS[kind])
    second = text.encode().replace(b"\n", b"\n\xe9", 1)
    for raw, message in {
        text.encode("utf-16"): "d.csv is UTF-16; expected UTF-8",
        second: "d.csv:2: byte 1 of the line, 0xe9, is not UTF-8 (Latin-1 perhaps)",
        text.replace(",", ";").encode(): "d.csv:1: the header is separated by ';'; expected commas",
        text.replace("\n", "\r").encode(): "d.csv:1: not valid CSV: a carriage return within a line",
        b"": "d.csv is empty; expected a header line and rows",
        (text + "1\n").encode(): f"d.csv:26: 1 cells; expected {count}",
        (text + "1,2,3,4,5,6\n").encode(): f"d.csv:26: 6 cells; expected {count}",
        (text + '"never closed,1\n').encode(): "d.csv:26: not valid CSV: unexpected end of data",
        text.replace(next(iter(ROWS[kind])), list(ROWS[kind])[-1], 1).encode(): "d.csv:1: the column names",
    }.items():
        assert message in told(kind, path, raw)
    if kind != "forecast":
        assert "d.csv holds no rows that can be used" in told(kind, path, text.partition("\n")[0] + "\n")


@pytest.mark.parametrize("kind", KINDS)
def test_a_parquet_file_that_is_damaged_or_of_other_types_is_named(kind: str, tmp_path: Path) -> None:
    path, whole = tmp_path / "d.parquet", pa.table(ROWS[kind])
    parquet.write_table(whole, path, compression="none")
    raw = path.read_bytes()
    assert "d.parquet is no Parquet file or is damaged" in told(kind, path, b"x,y\n1,2\n")
    assert "d.parquet is no Parquet file or is damaged" in told(kind, path, raw[:-30])
    assert "d.parquet is damaged" in told(kind, path, raw[:4] + b"\xff" * 60 + raw[64:])
    name = "text" if kind == "text" else "x"
    parquet.write_table(whole.set_column(whole.column_names.index(name), name, [[[1]] * len(whole)]), path)
    assert f"d.parquet: column '{name}' holds list" in said(data(kind, path), tmp_path / "out")


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_section_names_must_be_there_once(kind: str, tmp_path: Path) -> None:
    text, path = text_of(ROWS[kind]), tmp_path / "d.csv"
    assert "data.target" in (message := told(kind, path, text, target=["nope"]))
    assert "'nope'" in message
    name = "x" if kind in ("table", "forecast") else "y"
    assert f"data.target names '{name}' twice" in told(kind, path, text, target=[name, name])
    taken = {"table": "y", "text": "text", "series": "id", "forecast": "t"}[kind]
    more = {"drop": ["y"]} if kind == "table" else {}
    assert "data.target" in (message := told(kind, path, text, target=[taken], **more))
    assert taken in message


@pytest.mark.parametrize("kind", ["series", "forecast"])
def test_steps_that_are_wrong_are_told_with_their_line(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    for column, value, message in (
        ("x", "many", "d.csv:5: column 'x' holds 'many'; expected a number"),
        ("x", "inf", "infinite" if kind == "series" else "holds inf; expected a finite number"),
        ("t", "2", "lines 4 and 5 have the same time"),
        ("t", "", "d.csv:5: the time is missing"),
        ("t", "soon", "d.csv:5: the time is 'soon'"),
        ("t", "2024-01-01T00:00:00Z", "d.csv:5: the time is '2024-01-01T00:00:00Z'"),
        ("t", "inf", "d.csv:5: the time is inf; expected a finite number"),
        ("id", "", "names no series"),
    ):
        columns = {name: list(cells) for name, cells in ROWS[kind].items()}
        columns[column][3] = value
        assert message in told(kind, path, text_of(columns)), (column, value)
        if column != "x" and value:  # lines count as an editor counts them, not rows
            shifted = text_of(columns).replace("\n", "\n\n", 1)
            assert message.replace("4 and 5", "5 and 6").replace(":5", ":6") in told(kind, path, shifted)
    columns = {name: list(cells) for name, cells in ROWS[kind].items()} | {"t": [7, 7, *STEPS[2:]]}
    parquet.write_table(pa.table(columns), tmp_path / "d.parquet")
    assert "rows 1 and 2 have the same time" in said(data(kind, tmp_path / "d.parquet"), tmp_path / "out")


def test_series_that_say_nothing_are_told(tmp_path: Path) -> None:
    columns = {**ROWS["series"], "x": ["", "NA", "", "?", *STEPS[4:]]}
    assert "d.csv:s0: the series holds nothing: all 4 steps" in told(
        "series", tmp_path / "d.csv", text_of(columns)
    )
    columns = {**ROWS["series"], "id": ["lone", *ROWS["series"]["id"][1:]]}
    assert "d.csv:lone: the series has 1 steps; expected 2" in told(
        "series", tmp_path / "d.csv", text_of(columns)
    )
    assert "d.ts holds no series below the line '@data'" in told("series", tmp_path / "d.ts", HEAD, time="")
    assert "d.ts is UTF-16" in told("series", tmp_path / "d.ts", HEAD.encode("utf-16"), time="")


def test_a_forecast_of_nothing_and_keys_that_do_nothing_are_refused(tmp_path: Path) -> None:
    text, path = text_of(ROWS["forecast"]), tmp_path / "d.csv"
    for more, message in (
        ({"horizon": 0}, "data.horizon is 0"),
        ({"task": "classification"}, "data.task: a forecast is a regression"),
        ({"group": "id"}, "data.group: a forecast is split by time alone"),
        ({"drop": ["x"]}, "no column left to be a channel"),
        ({"window": 99}, "no series has 99 + 1 steps"),
    ):
        assert message in told("forecast", path, text, **more)
    (tmp_path / "raw").mkdir()
    for name in "ab":
        (tmp_path / "raw" / f"{name}.csv").write_text(text)
    assert "the series 's0' lies in a.csv and in b.csv" in said(
        data("forecast", tmp_path / "raw"), tmp_path / "out"
    )
    settings = data("forecast", tmp_path / "raw", series_id="shop", drop=["id"])
    assert "data.series_id: 'shop' is no column, so all rows are one series" in said(
        settings, tmp_path / "out"
    )


@pytest.mark.parametrize("kind", ["table", "text", "series"])
def test_targets_of_mixed_types_or_of_one_value_are_told(kind: str, tmp_path: Path) -> None:
    size = 2 if kind == "series" else 1
    rows = [at // size for at in range(60)]
    columns = {
        "table": {"x": rows}, "text": {"text": [f"tea {at}" for at in rows]},
        "series": {"id": [f"s{at}" for at in rows], "t": list(range(60)), "x": rows},
    }[kind]  # fmt: skip
    for odd, message in (
        ("oops", "data.target: column 'y' holds numbers and 'oops'"),
        ("inf", "'inf'; expected a finite number"),
    ):
        mixed = {**columns, "y": [odd if at == 5 else at for at in rows]}
        assert message in told(kind, tmp_path / "d.csv", text_of(mixed))
    for cell in ("a", ""):
        assert "data.target: " in told(kind, tmp_path / "d.csv", text_of({**columns, "y": [cell] * 60}))


def test_a_time_that_is_none_is_told_by_the_cell_that_is_wrong(tmp_path: Path) -> None:
    found = table_of(tmp_path, "x,t,y\n1,2024-01-01,a\n2,2024-99-01,b\n", time="t")
    with pytest.raises(UserError, match=r"data.time: column 't' holds '2024-99-01' at rows.csv:3"):
        _ = found.spec


@pytest.mark.slow
def test_a_refused_file_leaves_the_earlier_output_as_it_was(project: Path) -> None:
    set_params(project, {"data.source": "text", "data.path": "raw.csv"})
    (project / "raw.csv").write_text(text_of(ROWS["text"]))
    assert run_stage("ingest", project).returncode == 0
    before = contents(project / "data")
    (project / "raw.csv").write_text(text_of(ROWS["text"]) + ",a\n1,2,3\n")
    message = refused(run_stage("ingest", project))
    assert "raw.csv:26: the text is empty" in message
    assert "raw.csv:27: 3 cells; expected 2" in message
    assert contents(project / "data") == before
