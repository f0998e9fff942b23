"""Raw requests made of canonical rows: decoded as a server does, they are the same rows, to the last bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.bodies import BODIES, requests_for
from pipeline.core.dataset import Dataset
from pipeline.transforms import FITS
from serving.inputs.decode import decoder
from serving.inputs.spec import Modality
from serving.inputs.text import decode_text
from tests.conftest import digits, spec_of
from tests.modalities import (
    TEXTS,
    series_rows,
    series_spec,
    table_rows,
    table_spec,
    text_rows,
    text_spec,
    write,
)  # fmt: skip

NOWHERE = Path("nowhere")


def extreme_rows() -> np.ndarray:
    """Rows at the ends of what float32 holds."""
    info = np.finfo(np.float32)
    rows = table_rows(9, 5)
    rows[:, 0] = [info.max, info.min, info.tiny, 1e-45, -0.0, 0.1, 1 / 3, 16_777_216, np.nan]
    return rows


def test_every_modality_has_bodies() -> None:
    assert set(BODIES) == set(Modality.__args__)  # type: ignore[attr-defined]


@pytest.mark.parametrize("channels", [1, 3])
def test_images(channels: int) -> None:
    images = digits(8, 0)[0].repeat(channels, axis=1)
    images[:, -1] //= 2
    spec = spec_of(images.shape[1:], "ab")
    decode, kinds = decoder(spec, NOWHERE), set()
    for number, image in enumerate(images):
        body, kind = BODIES["image"](image, number, spec)
        np.testing.assert_array_equal(decode(body), image)
        kinds.add(kind)
    assert kinds == {"image/png", "application/json"}


@pytest.mark.parametrize("rows", [table_rows(200, 4), extreme_rows()], ids=["usual", "extreme"])
def test_rows_of_a_table(rows: np.ndarray) -> None:
    spec = table_spec("ab")
    decode, kinds = decoder(spec, NOWHERE), set()
    for number, row in enumerate(rows):
        body, kind = BODIES["table"](row, number, spec)
        found = decode(body)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, row)
        np.testing.assert_array_equal(np.signbit(found), np.signbit(row))
        kinds.add(kind)
    assert kinds == {"text/csv", "application/json"}


def test_what_no_number_of_the_row_can_hold_is_refused() -> None:
    """It would be infinite in the row, and the model's answer no number."""
    spec = table_spec("ab")
    content = json.loads(BODIES["table"](table_rows(2, 0)[1], 1, spec)[0])
    for huge in (1e39, -1e39, 10**400, "1e39"):
        with pytest.raises(ValueError, match=r"'weight' holds .*; expected a finite number"):
            decoder(spec, NOWHERE)(json.dumps(content | {"weight": huge}).encode())


def test_series() -> None:
    rows, spec = series_rows(50, 4), series_spec("ab")
    assert np.isnan(rows.values).any()
    decode = decoder(spec, NOWHERE)
    for number in range(50):
        body, kind = BODIES["series"](rows[number], number, spec)
        assert kind == "application/json"
        np.testing.assert_array_equal(decode(body), rows[number])


@pytest.mark.parametrize("text", TEXTS)
def test_texts_in_both_forms(text: str) -> None:
    spec = text_spec("ab")
    raw = np.frombuffer(text.encode(), np.uint8)
    for number in range(2):
        body, _ = BODIES["text"](raw, number, spec)
        assert decode_text(body, spec) == text


def test_the_test_splits_texts_are_looked_up_where_they_came_in(tmp_path: Path) -> None:
    """The split holds tokens; what is sent is the text, and its tokens are the split's."""
    texts = [f"{text} {number}" for number, text in enumerate(TEXTS * 4)]
    raw = write(tmp_path / "ingest", text_spec("ab"), text_rows(texts), np.arange(len(texts)) % 2)
    fitted = FITS["text"](raw, np.arange(len(texts)) % 3 > 0, tmp_path)
    chunk = fitted.encode(next(raw.chunks()))
    kept = np.random.default_rng(0).permutation(len(texts))[:10]
    test = write(tmp_path / "test", fitted.spec, chunk["tokens"][kept], chunk["label"][kept])
    np.save(tmp_path / "test" / "id.npy", chunk["id"][kept])  # a text's id is that of its bytes
    decode = decoder(fitted.spec, tmp_path)
    bodies = list(requests_for(Dataset(tmp_path / "test"), tmp_path / "ingest", 6))
    assert len(bodies) == 6
    for at, (body, _) in enumerate(bodies):
        assert decode_text(body, fitted.spec) == texts[kept[at]]
        np.testing.assert_array_equal(decode(body), test.inputs[at])


def test_the_first_of_the_test_are_asked_and_no_more_than_there_are(tmp_path: Path) -> None:
    rows = table_rows(5, 8)
    test = write(tmp_path, table_spec((), "xy"), rows, np.zeros((5, 2), np.float32))
    assert len(list(requests_for(test, NOWHERE, 99))) == 5
    decode = decoder(test.spec, NOWHERE)
    found = np.stack([decode(body) for body, _ in requests_for(test, NOWHERE, 3)])
    np.testing.assert_array_equal(found, rows[:3])
