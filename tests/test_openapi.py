"""The endpoint's description: valid OpenAPI, and true of what decoders take and models give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import schemathesis
from typer.testing import CliRunner

from pipeline.bodies import BODIES
from pipeline.cli import app
from serving.inputs.spec import Column, DataSpec, write_json
from serving.openapi import document
from serving.predictor import Predictor
from serving.schemas import schemas
from tests.bundles import write_bundle
from tests.conftest import spec_of
from tests.modalities import series_rows, series_spec, table_rows, table_spec, text_spec

TOKENS = Column(name="tokens", role="input", dtype="<i4", ragged=True)  # as a served text model has them
SPECS: dict[str, DataSpec] = {
    "image": spec_of((1, 6, 5), "ab"),
    "photo": spec_of((3, 6, 5), "ab"),
    "table": table_spec("ab"),
    "table of values": table_spec((), "xy"),
    "series": series_spec("ab"),
    "text": text_spec("ab").model_copy(update={"columns": (TOKENS, text_spec("ab").target)}),
    "generation": spec_of((1, 6, 5), "ab").model_copy(update={"task": "generation"}),
    "anomaly": table_spec("ab").model_copy(update={"task": "anomaly", "classes": ()}),
}


def rows_of(spec: DataSpec) -> list[np.ndarray]:
    if spec.modality == "image":
        return list(np.random.default_rng(0).integers(0, 256, (8, *spec.input_shape)).astype(np.uint8))
    made = {"table": table_rows(8, 1), "series": series_rows(8, 1)}[spec.modality]
    return [made[at] for at in range(len(made))]


def whole(name: str) -> dict[str, Any]:
    return document({"model": {"1": SPECS[name], "2": SPECS[name]}, "other-one": {"3": SPECS[name]}})


def checks(told: dict[str, Any], part: str) -> jsonschema.Draft202012Validator:
    """A validator of one of the document's schemas."""
    return jsonschema.Draft202012Validator(
        {"$ref": f"#/components/schemas/{part}", "components": told["components"]}
    )


@pytest.mark.parametrize("name", SPECS)
def test_the_document_is_valid_openapi(name: str) -> None:
    told = json.loads(json.dumps(whole(name)))
    schemathesis.openapi.from_dict(told).validate()
    assert set(told["paths"]) == {
        "/ping", *(f"/{what}/{place}" for what in ("predictions", "explanations")
                   for place in ("model", "model/1", "model/2", "other-one", "other-one/3")),
    }  # fmt: skip
    operations = [each for path in told["paths"].values() for each in path.values()]
    assert len({each["operationId"] for each in operations}) == len(operations) == 11
    assert told["security"] == [{"token": []}]
    for each in operations:
        assert set(each["responses"]) >= {"200", "400", "401", "503"}
    for schema in told["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    broken = json.loads(json.dumps(told).replace('"in": "header"', '"in": "nowhere"'))
    with pytest.raises(Exception, match="nowhere"):
        schemathesis.openapi.from_dict(broken).validate()


@pytest.mark.parametrize("name", ["image", "photo", "table", "table of values", "series"])
def test_bodies_that_are_decoded_fit_the_schema_and_answers_too(name: str, tmp_path: Path) -> None:
    spec = SPECS[name]
    predictor, told = Predictor(write_bundle(tmp_path / "bundle", spec)), whole(name)
    asked, answered = checks(told, "model-1-request"), checks(told, "model-1-answer")
    seen = 0
    for number, row in enumerate(rows_of(spec)):
        body, kind = BODIES[spec.modality](row, number, spec)
        if kind == "application/json":
            asked.validate(json.loads(body))
            checks(told, "model-1-rows").validate({"instances": [json.loads(body)]})
            seen += 1
        answer = predictor.answer([body], ["id"])[0]
        answered.validate(answer)
        with pytest.raises(jsonschema.ValidationError):
            answered.validate({**answer, "model_version": 3})
    assert seen >= 2
    with pytest.raises(jsonschema.ValidationError):
        asked.validate({"something": 1})


def test_what_the_schema_refuses_the_decoders_refuse(tmp_path: Path) -> None:
    """The bounds of the schema are those of the decoders."""
    for name, wrong in {
        "image": ({"pixels": [[256] * 5] * 6}, {"pixels": [[0] * 4] * 6}, {"image": 3}, {}),
        "table": (
            {**good("table"), "weight": 1e39},
            {**good("table"), "x": 1},
            {**good("table"), "old": 7.5},
        ),
        "series": ({"series": [[1, 2, 3]] * 3}, {"series": [[1, 2]]}, {"series": [[1e39, 2]] * 3}),
        "text": ({"text": " "}, {"text": 3}, {"text": "x" * 100_001}),
    }.items():
        predictor = Predictor(write_bundle(tmp_path / name, SPECS[name]))
        checks(whole(name), "model-1-request").validate(good(name))
        assert isinstance(predictor.answer([json.dumps(good(name)).encode()])[0], dict)
        for body in wrong:
            with pytest.raises(jsonschema.ValidationError):
                checks(whole(name), "model-1-request").validate(body)
            assert isinstance(predictor.answer([json.dumps(body).encode()])[0], ValueError), body


def good(name: str) -> dict[str, Any]:
    row = {"kind": None, "size, m": 1, "old": True, "weight": -2.5, "since": "2024-05-06", "colour": "red"}
    return {
        "image": {"pixels": [[255] * 5] * 6}, "table": row, "series": {"series": [[1, None]] * 3},
        "text": {"text": "few words"},
    }[name]  # fmt: skip


def test_what_is_generated_and_what_is_an_anomaly() -> None:
    made = schemas(SPECS["generation"])["request"]
    jsonschema.Draft202012Validator(made).validate({"label": "a", "seed": 5})
    for wrong in ({"label": "c"}, {"label": "a", "seed": 2**24}, {"seed": 1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.Draft202012Validator(made).validate(wrong)
    told = schemas(SPECS["anomaly"])["answer"]["properties"]
    assert {"anomaly", "score", "embedding", "model_version", "request_id"} == set(told)


def test_the_command_prints_the_bundle_s_document(project: Path) -> None:
    bundle = project / "data/export/bundle"
    done = CliRunner().invoke(app, ["openapi"])
    assert done.exit_code == 1
    assert "dvc repro export" in done.output
    bundle.mkdir(parents=True)
    write_json(bundle / "openapi.json", whole("table"))
    done = CliRunner().invoke(app, ["openapi"])
    assert json.loads(done.output) == json.loads(json.dumps(whole("table")))
