"""What is shipped of every family: graphs that answer as the network does, for any batch and length, and no pickle."""

from __future__ import annotations

import io
import pickle
import pickletools
import zipfile
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
import torch

from models.layers import NORMALISATIONS
from models.served import load, save
from pipeline.export import export_graphs
from serving.inputs.ragged import Ragged
from serving.predictor import BACKENDS, Predictor
from tests.samples import CLASSES, PAIRS, params_of, rows_of, spec_of, trained, transform_of, write_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread", "small_trunk")
# Each network with one of the normalisations; tracing takes seconds a layer, so LSTM stands for
# all recurrent networks where layers are stacked and read both ways.
CASES = [(*pair, norm) for pair, norm in zip(PAIRS, cycle(NORMALISATIONS), strict=False)]
BATCHES = ((1, 1), (1, 40), (2, 7), (2, 2), (17, 1), (17, 40))  # samples and steps


def pickled(raw: bytes) -> bool:
    """True where bytes are a pickle of any protocol, or an archive that holds one."""
    if zipfile.is_zipfile(io.BytesIO(raw)):
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            return any(name.endswith(".pkl") or pickled(archive.read(name)) for name in archive.namelist())
    try:
        end = max(at or 0 for _, _, at in pickletools.genops(raw))  # weights may begin as a pickle
        return end == len(raw) - 1
    except ValueError:
        return False


def test_a_pickle_would_be_found() -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickled(pickle.dumps({"weight": [1.0, print]}, protocol))
    buffer = io.BytesIO()
    torch.save({"weight": torch.zeros(3)}, buffer)
    assert pickled(buffer.getvalue())
    assert not pickled(b'{"mean": 3}')


@pytest.mark.slow
@pytest.mark.parametrize(("family", "modality", "norm"), CASES)
def test_exported_it_gives_equal_answers_and_holds_no_pickle(
    family: str, modality: str, norm: str, tmp_path: Path
) -> None:
    spec = spec_of(modality)
    depth = 2 if modality == "image" or (modality == "series" and family not in ("rnn", "gru")) else 1
    params = params_of(
        family, activation="silu", dropout=0.5, normalisation=norm, depth=depth, bidirectional=depth == 2
    )
    served = trained(params, spec)
    save(served, params, spec, transform_of(spec), tmp_path)
    if modality == "text":
        write_tokenizer(tmp_path)
    export_graphs(load(tmp_path), spec.input, tmp_path)
    predictors = {name: Predictor(tmp_path, name) for name in BACKENDS}
    for count, steps in BATCHES:
        inputs = rows_of(spec, count, steps)
        with torch.inference_mode():
            expected = served(inputs).numpy()
        for name, predictor in predictors.items():
            found = predictor.outputs(inputs.numpy())
            assert found.shape == (count, len(CLASSES))
            assert found.dtype == np.float32
            near = 1e-5 if family == "transfer" else 2e-6  # which is the deepest by far
            np.testing.assert_allclose(found, expected, atol=near, err_msg=f"{name} {count} {steps}")
    check_chunks(predictors["onnx"], rows_of(spec, 17, 9).numpy())
    files = {path.name for path in tmp_path.iterdir()} - {"tokenizer.json"}
    shipped = {"model.onnx", "model.pt2", "weights.safetensors", "model.json", "spec.json", "transform.json"}
    assert files == shipped
    assert not [path.name for path in tmp_path.iterdir() if pickled(path.read_bytes())]


def check_chunks(predictor: Predictor, rows: np.ndarray) -> None:
    """In chunks, and as ragged rows, the answers are those of one padded batch; none ask for none."""
    together = predictor.outputs(rows)
    assert predictor.outputs(rows[:0]).shape == (0, len(CLASSES))
    np.testing.assert_allclose(predictor.outputs(rows, chunk=3), together, atol=2e-6)
    if predictor.spec.input.ragged:
        column = predictor.spec.input
        cut = [row[: 9 - at % 9] for at, row in enumerate(rows)]
        found = predictor.outputs(Ragged.of(cut, column.dtype, column.shape), chunk=5)
        np.testing.assert_allclose(found, together, atol=2e-6)
