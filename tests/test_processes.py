"""Several processes: each takes its share of the order of one, none waits in vain, metrics are those of all."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import distributed, multiprocessing

from pipeline.fitting.batches import Batches, Sampling
from pipeline.fitting.fit import Job, assemble
from tests.small import blobs, table_job

WORLD = 2
CPU = torch.device("cpu")


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def in_two(work: Callable[..., None], *args: Any) -> None:
    """Run `work(rank, port, *args)` in two processes."""
    multiprocessing.spawn(work, (free_port(), *args), nprocs=WORLD)


def joined(rank: int, port: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distributed.init_process_group("gloo", rank=rank, world_size=WORLD)


def targets_of(batches: Batches) -> list[np.ndarray]:
    return [inputs[:, 0].numpy() for inputs, _ in batches]


def walk(rank: int, port: int, folder: Path) -> None:
    """Note the batches of two epochs, for each sampling and for validation."""
    joined(rank, port)
    for name in ("none", "over", "under", "val"):
        batches = made(folder, name)
        for epoch in range(2):
            batches.set_epoch(epoch)
            found = targets_of(batches)
            assert len(found) == len(batches)
            np.savez(folder / f"{name}-{epoch}-{rank}.npz", *found)
    distributed.destroy_process_group()


def made(folder: Path, name: str) -> Batches:
    if name == "val":
        return Batches(folder / "val", 8, CPU)
    sampling: Sampling = name  # type: ignore[assignment]
    return Batches(folder / "train", 8, CPU, shuffle_seed=5, sampling=sampling)


def test_the_shares_of_two_processes_are_the_order_of_one(tmp_path: Path) -> None:
    table_job(tmp_path, blobs(75, 0, share=0.2), blobs(49, 1), {})
    in_two(walk, tmp_path)
    for name in ("none", "over", "under", "val"):
        for epoch in range(2):
            shares = []
            for rank in range(WORLD):
                with np.load(tmp_path / f"{name}-{epoch}-{rank}.npz") as held:
                    shares.append([held[key] for key in held.files])
            assert len(shares[0]) == len(shares[1]), "a process would wait for ever"
            one = made(tmp_path, name)
            one.set_epoch(epoch)
            rows = one._inputs.take(one.order())[:, 0].numpy()
            first, second = (np.concatenate(share) for share in shares)
            if name == "val":
                assert sorted([*first, *second]) == sorted(rows), "none twice, none left out"
                continue
            np.testing.assert_array_equal(first, rows[::2][: len(first)])
            again = np.append(rows, rows[: len(rows) % 2])[1::2]
            np.testing.assert_array_equal(second, again[: len(second)])
            assert len(rows) - len(first) - len(second) <= WORLD, "a last batch of one sample is left out"


def fitted(rank: int, port: int, job: Job, folder: Path) -> None:
    """Validate through Lightning's own DDP; note the metrics of this process."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank),
                   "NODE_RANK": "0", "WORLD_SIZE": str(WORLD)}  # fmt: skip
    torch.set_num_threads(1)
    torch.manual_seed(0)
    task, train, val = assemble(job)
    trainer = pl.Trainer(
        accelerator="cpu", devices=WORLD, strategy="ddp", max_epochs=1, logger=False, use_distributed_sampler=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(task, train, val)
    weights = torch.cat([value.flatten() for value in task.state_dict().values()])
    names = ("train_loss", "val_loss", "val_score")
    torch.save(([float(trainer.callback_metrics[name]) for name in names], weights), folder / f"{rank}.pt")


@pytest.mark.slow
def test_lightning_s_processes_log_what_one_process_finds(tmp_path: Path) -> None:
    train, val = ((rows, rows[:, :1] + rows[:, 1:2]) for rows, _ in (blobs(120, 0), blobs(49, 1)))
    job = table_job(tmp_path, train, val, {}, {"normalisation": "layer"})
    in_two(fitted, job, tmp_path)
    (metrics, weights), (others, same) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(WORLD))
    assert metrics == others
    torch.testing.assert_close(weights, same, rtol=0, atol=0)
    alone, _, batches = assemble(job)
    alone.load_state_dict(dict(zip(alone.state_dict(), split_like(weights, alone), strict=True)))
    alone.eval()
    found: dict[str, float] = {}
    alone.log = lambda name, value: found.update({name: float(value)})  # type: ignore[method-assign, assignment]
    with torch.no_grad():
        for at, batch in enumerate(batches):
            alone.validation_step(batch, at)
    alone.on_validation_epoch_end()
    assert metrics[1:] == pytest.approx([found["val_loss"], found["val_score"]], rel=1e-5)


def split_like(weights: torch.Tensor, task: torch.nn.Module) -> list[torch.Tensor]:
    """A flat vector of weights in the shapes of a task's state."""
    shapes = [value.shape for value in task.state_dict().values()]
    parts = weights.split([shape.numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
