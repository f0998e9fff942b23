"""The network as it is served: raw canonical input in, probabilities out, normalisation inside the graph."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_model, save_model
from torch import nn

from models import build
from models.params import Model
from serving.inputs.spec import DataSpec, Transform, read_spec, write_json


class Served(nn.Module):
    """`softmax(net((x - mean) / std))`: (N, C, H, W) uint8 to (N, K) float32."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, net: nn.Module, transform: Transform) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(transform.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(transform.std).view(1, -1, 1, 1))

    def normalise(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, C, H, W) on the 0..255 scale to zero mean and unit deviation, float32."""
        return (x.float() - self.mean) / self.std

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, C, H, W) on the 0..255 scale to logits (N, K)."""
        out: torch.Tensor = self.net(self.normalise(x))
        return out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, C, H, W) uint8 to probabilities (N, K)."""
        return self.logits(x).softmax(dim=1)


def save(served: Served, params: Model, spec: DataSpec, transform: Transform, folder: Path) -> None:
    """Write `weights.safetensors` and the three JSON files that `load` rebuilds the network from."""
    save_model(served, str(folder / "weights.safetensors"))
    write_json(folder / "model.json", params)
    write_json(folder / "spec.json", spec)
    write_json(folder / "transform.json", transform)


def load(folder: Path) -> Served:
    """Rebuild the network from what `save` wrote, in evaluation mode, on the CPU."""
    params = Model.model_validate_json((folder / "model.json").read_text())
    transform = Transform.model_validate_json((folder / "transform.json").read_text())
    served = Served(build(params, read_spec(folder)), transform)
    load_model(served, str(folder / "weights.safetensors"))
    return served.eval()
