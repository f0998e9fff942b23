"""The group of processes that train one model together: who this one is, and what Lightning is told of it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from pytorch_lightning.plugins.environments import (  # type: ignore[attr-defined]
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import distributed

from models.together import locals_here, place
from pipeline.core.dataset import Dataset
from pipeline.core.params import UserError
from pipeline.fitting.compute import Compute
from pipeline.fitting.settings import Job

PATIENCE = timedelta(hours=2)  # that processes wait for each other, as when one alone computes features


@dataclass(frozen=True)
class Place:
    """One process of a group: its number of all, and of those on its machine.

    Args:
        local: its number on its machine, which is that of its GPU; there are `locals` of them.
        node: the number of its machine.
    """

    rank: int
    world: int
    local: int
    locals: int
    node: int = 0

    def environment(self) -> dict[str, str]:
        """What torchrun would tell the process."""
        return {
            "RANK": str(self.rank), "WORLD_SIZE": str(self.world), "LOCAL_RANK": str(self.local),
            "LOCAL_WORLD_SIZE": str(self.locals), "GROUP_RANK": str(self.node),
        }  # fmt: skip


@contextmanager
def joined(place: Place, device: torch.device, **meeting: Any) -> Iterator[None]:
    """Belong to a group, gloo on CPUs and NCCL on GPUs; a group that exists already is taken as it is.

    `meeting` says where the processes meet, as `init_process_group` takes it: `init_method` or `store`.
    """
    os.environ |= place.environment()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    ours = not distributed.is_initialized()
    if ours:
        backend = "nccl" if device.type == "cuda" else "gloo"
        distributed.init_process_group(
            backend, rank=place.rank, world_size=place.world, timeout=PATIENCE, **meeting
        )
    try:
        yield
    finally:
        if ours:
            distributed.destroy_process_group()


def launched() -> Place | None:
    """This process's place where torchrun, or srun, started several; it knows where they meet, too."""
    given = os.environ
    if "TORCHELASTIC_RUN_ID" in given and int(given["WORLD_SIZE"]) > 1:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK")
        return Place(*(int(given[name]) for name in names))
    if int(given.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        slurm = SLURMEnvironment()
        given |= {"MASTER_ADDR": slurm.main_address, "MASTER_PORT": str(slurm.main_port)}
        names = (
            "SLURM_PROCID",
            "SLURM_STEP_NUM_TASKS",
            "SLURM_LOCALID",
            "SLURM_STEP_NUM_NODES",
            "SLURM_NODEID",
        )
        rank, world, local, nodes, node = (int(given[name]) for name in names)
        if world % nodes:
            raise UserError(f"srun started {world} processes on {nodes} machines; give each machine as many")
        return Place(rank, world, local, world // nodes, node)
    return None


def check(job: Job, world: int, here: int) -> None:
    """Refuse what so many processes, of which so many are on this machine, cannot train together.

    Raises:
        UserError: there are too few samples or GPUs.
    """
    told = f"{world} processes train together (compute.processes)"
    for name, folder in (("training", job.train_folder), ("validation", job.val_folder)):
        if (rows := len(Dataset(folder))) < world:
            raise UserError(f"{told}, and there are {rows} {name} samples ({folder}): each needs one")
    gpus = torch.cuda.device_count() if job.compute.accelerator != "cpu" else 0
    if 0 < gpus < here:
        raise UserError(f"{told}, {here} of them here, and there are {gpus} GPUs: each needs one")


def loopback() -> None:
    """Let processes of one machine talk by its loopback device, not by a network."""
    names = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    if names:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", names[0])


def shards(compute: Compute) -> bool:
    """True where each process holds a part of the network."""
    return compute.strategy == "fsdp" and place()[1] > 1


def devices(job: Job) -> dict[str, Any]:
    """What a Trainer is told of devices, and of the processes that there are already: it starts none."""
    world, here = place()[1], locals_here()
    if world == 1:
        return {"devices": 1}
    changing = job.spec.task == "generation" or job.train.unfreeze_every > 0  # which weights learn
    strategy: Strategy = DDPStrategy(find_unused_parameters=changing, broadcast_buffers=False)
    if shards(job.compute):
        strategy = ModelParallelStrategy(world, 1, save_distributed_checkpoint=False)
    return {
        "devices": here,
        "num_nodes": world // here,
        "strategy": strategy,
        "plugins": [TorchElasticEnvironment()],
    }


@contextmanager
def first_alone() -> Iterator[None]:
    """What is kept on disk is made by the first process, and then read by the others."""
    rank, world = place()
    if world > 1 and rank:
        distributed.barrier()
    yield
    if world > 1 and not rank:
        distributed.barrier()
