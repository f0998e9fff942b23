"""`compute.compile`: the compiled network ran, its weights bear their plain names, and ragged batches compile once."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from models.served import Served
from pipeline.core.params import UserError
from pipeline.fitting import compiling
from pipeline.fitting.doctor import Doctor
from pipeline.fitting.fit import Job, Train, fit
from serving.inputs.spec import Transform
from tests.conftest import digits, write_dataset
from tests.conftest import spec_of as digits_spec
from tests.samples import params_of, spec_of, transform_of
from tests.small import CPU, blobs, table_job
from tests.test_job import written

pytestmark = pytest.mark.usefixtures("one_thread", "small_trunk")
COMPILED = CPU.model_copy(update={"compile": True})


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """No graph of another test; without what comes after the graph, which takes long and is tried once."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    monkeypatch.setattr(compiling, "BACKEND", "eager")


def graphs() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def both(job: Job, tolerance: float, **given: Any) -> Served:
    """Fit it plainly and compiled, to the same weights of the same names; gives the latter's network."""
    plain = fit(job, [], **given)
    assert graphs() == 0
    found = fit(dataclasses.replace(job, compute=COMPILED), [], **given)
    assert graphs() > 0, "the compiled network ran"
    assert plain.state_dict().keys() == found.state_dict().keys()
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], tensor, rtol=tolerance, atol=tolerance, msg=name)
    return found


def test_a_network_of_machine_code_trains_as_the_plain_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the very compiler; checkpoints are those of the plain network, which goes on from them, and it exports."""
    monkeypatch.setattr(compiling, "BACKEND", "inductor")
    monkeypatch.setattr("torch._inductor.config.compile_threads", 1)
    model = {"normalisation": "layer", "activation": "tanh", "depth": 0}
    given = {"max_epochs": 2, "batch_size": 50, "ema": 0.5, "warmup": 0}
    job = table_job(tmp_path, blobs(100, 0), blobs(50, 1), given, model)
    served = both(job, 1e-4)
    assert not compiling.compiled(served.net)
    inputs = (torch.zeros(3, 4),)
    assert torch.equal(torch.export.export(served, inputs).module()(*inputs), served(*inputs))

    class Cut(Exception):
        pass

    def cut(epoch: int, metrics: dict[str, float]) -> None:
        raise Cut

    with pytest.raises(Cut):
        fit(dataclasses.replace(job, compute=COMPILED), [cut], tmp_path / "state")
    whole, resumed = fit(job, [], tmp_path / "whole"), fit(job, [], tmp_path / "state")
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor, rtol=1e-4, atol=1e-4, msg=name)


def test_batches_of_ever_other_lengths_compile_no_more_after_the_first_epochs(tmp_path: Path) -> None:
    data = written(tmp_path, "text", 150, 1)
    train = Train.model_validate({"max_epochs": 4, "batch_size": 2, "patience": 0})
    transform = transform_of(spec_of("text"))
    model = params_of("transformer", normalisation="layer", depth=1)
    job = Job(model, train, data.spec, transform, tmp_path, tmp_path, 1, COMPILED)
    seen: list[int] = []
    fit(job, [lambda epoch, metrics: seen.append(graphs())])
    assert 0 < seen[0] <= 8
    assert seen[1:] == [seen[0]] * 3


def test_what_trains_without_a_target_is_compiled_too(tmp_path: Path) -> None:
    write_dataset(tmp_path, *digits(64, 1))
    spec = digits_spec((1, 28, 28), tuple("0123456789")).model_copy(update={"task": "anomaly"})
    train, transform = Train(max_epochs=1, batch_size=32, patience=0), Transform(mean=(60.0,), std=(80.0,))
    both(Job(params_of("autoencoder"), train, spec, transform, tmp_path, tmp_path, 1, CPU), 1e-3)


def test_the_doctor_sees_the_layers_of_a_compiled_network(tmp_path: Path) -> None:
    job = table_job(tmp_path, blobs(100, 0), blobs(50, 1), {"max_epochs": 10})
    looks = []
    for compute in (CPU, COMPILED):
        doctor = Doctor()
        fit(dataclasses.replace(job, compute=compute), [], callbacks=[doctor])
        looks.append(doctor.looks)
    with_looks = graphs()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    fit(dataclasses.replace(job, compute=COMPILED), [])
    assert with_looks == graphs() > 0, "a look compiles nothing"
    assert len(looks[0]) == len(looks[1]) > 3
    for plain, compiled in zip(*looks, strict=True):
        assert plain["means"].keys() == compiled["means"].keys() != set()
        assert compiled["norm"] == pytest.approx(plain["norm"], rel=0.01)


def test_a_machine_without_a_compiler_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = table_job(tmp_path, blobs(40, 0), blobs(40, 1), {})
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "no-such-compiler"))
    torch._inductor.cpp_builder.cpp_compiler_search.cache_clear()
    with pytest.raises(
        UserError, match=r"compute\.compile needs a C\+\+ compiler.*or set compute\.compile: false"
    ):
        fit(dataclasses.replace(job, compute=COMPILED), [])
