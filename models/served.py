"""The network as it is served: raw canonical input in, probabilities or values out, the transform inside the graph."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_model, save_model
from torch import nn

from models import build, front
from models.params import Model
from models.transfer import Transfer
from serving.inputs.spec import DataSpec, Transform, read_spec, write_json


class Served(nn.Module):
    """`softmax(net(front(x)))` for classes, `net(front(x)) * std + mean` for targets, `net(front(x))` for anomalies.

    A generator takes requests (N, 2 + latent) and gives its images in their own units.
    """

    target_mean: torch.Tensor
    target_std: torch.Tensor

    def __init__(self, params: Model, spec: DataSpec, transform: Transform) -> None:
        super().__init__()
        self._aside: tuple[nn.Module, nn.Module] | None = None  # a tuple, so that it is no part of the state
        self.classifies = spec.task == "classification"
        net = build(params, spec, transform)
        self.front, self.net = front(params.family, spec, transform), net
        self.register_buffer("target_mean", torch.tensor(transform.target_mean))
        self.register_buffer("target_std", torch.tensor(transform.target_std))

    def raw(self, x: torch.Tensor) -> torch.Tensor:
        """Map a batch of canonical inputs to logits (N, K), or to scaled targets (N, M)."""
        out: torch.Tensor = self.net(self.front(x))
        return out

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """What a pre-trained trunk makes of a batch of canonical inputs, (N, F)."""
        assert isinstance(self.net, Transfer)
        found: torch.Tensor = self.net.trunk(self.front(x))
        return found

    def lift(self) -> None:
        """Lay front and trunk aside: until `lower`, `raw` takes features in the place of inputs."""
        assert isinstance(self.net, Transfer)
        self._aside = (self.front, self.net.trunk)
        self.front, self.net.trunk = nn.Identity(), nn.Identity()

    def lower(self) -> None:
        """Put back what `lift` laid aside, if anything."""
        if self._aside is not None:
            assert isinstance(self.net, Transfer)
            self.front, self.net.trunk = self._aside
            self._aside = None

    @property
    def lifted(self) -> bool:
        """True between `lift` and `lower`."""
        return self._aside is not None

    def scaled(self, targets: torch.Tensor) -> torch.Tensor:
        """Targets (N, M) in their own units to what `raw` gives."""
        return (targets - self.target_mean) / self.target_std

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map a batch of canonical inputs to probabilities (N, K), or to values (N, M) in their own units."""
        out = self.raw(x)
        if self.classifies:
            return out.softmax(dim=1)
        return out * self.target_std + self.target_mean if self.target_std.numel() else out


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
    served = Served(params, read_spec(folder), transform)
    load_model(served, str(folder / "weights.safetensors"))
    return served.eval()
