"""A network of which each of several processes holds a part (FSDP).

After Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models" (2020), by torch's
`fully_shard`.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from models.recomputing import Block


def shard(net: nn.Module, mesh: DeviceMesh) -> None:
    """Give each process of a mesh a part of every parameter, which are put together a block at a time to compute.

    Blocks are those whose activations may be computed again, too.
    """
    for weight in net.parameters():
        weight.data = weight.data.contiguous()  # no other order can be shared out
    for module in reversed(list(net.modules())):  # what lies within comes first
        if isinstance(module, Block):
            fully_shard(module, mesh=mesh)
    fully_shard(net, mesh=mesh)
    for name in ("loss", "errors"):  # by which a task calls an autoencoder
        if hasattr(net, name):
            register_fsdp_forward_method(net, name)


def is_sharded(net: nn.Module) -> bool:
    """True for a network of which each process holds a part."""
    return isinstance(net, FSDPModule)


def whole(value: torch.Tensor) -> torch.Tensor:
    """A tensor of which each process may hold a part; all of them ask for it at once."""
    found: torch.Tensor = value.full_tensor() if isinstance(value, DTensor) else value
    return found


def state_of(net: nn.Module) -> dict[str, torch.Tensor]:
    """The whole state of a network, in every process; all of them ask for it at once."""
    found: dict[str, torch.Tensor] = get_model_state_dict(net, options=StateDictOptions(full_state_dict=True))  # type: ignore[assignment]
    return found
