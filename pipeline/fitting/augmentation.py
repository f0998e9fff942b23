"""Random transforms of whole batches on their device: of images through kornia, of others in `rows.py`."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import BaseModel, Field
from torch import nn

from models.together import drawn, place
from pipeline.fitting import rows
from serving.inputs.spec import DataSpec, Transform


class Augmentation(BaseModel, extra="forbid", frozen=True):
    """Random transforms; each amount is multiplied by `strength`.

    Images take all but `noise` and `masking`; series `scale`, `crop`, `noise` and `masking`; texts `masking`;
    tables `noise` and `masking`.
    """

    strength: float = Field(1.0, ge=0, le=3, description="Multiplies every amount below; 0 switches all off.")
    rotation: float = Field(10, ge=0, le=180, description="Largest rotation, in degrees either way.")
    shift: float = Field(0.08, ge=0, le=0.5, description="Largest shift, as a share of each side.")
    scale: float = Field(
        0.1,
        ge=0,
        le=0.9,
        description="Largest zoom in or out, as a share; of series, of their values about the mean.",
    )
    shear: float = Field(6, ge=0, le=45, description="Largest shear, in degrees.")
    crop: float = Field(
        0.0,
        ge=0,
        le=0.9,
        description="Largest share of the area cropped away, then resized; of a series' steps cut off its ends.",
    )
    elastic: float = Field(0.0, ge=0, le=3, description="Strength of elastic distortion (slow on a CPU).")
    flip: float = Field(0.0, ge=0, le=1, description="Chance of a horizontal flip; not scaled by strength.")
    erasing: float = Field(0.1, ge=0, le=1, description="Chance that a rectangle is erased.")
    noise: float = Field(
        0.0, ge=0, le=2, description="Noise added to series and numbers of tables, in standard deviations."
    )
    masking: float = Field(
        0.0,
        ge=0,
        le=0.9,
        description="Share of a series' steps, a text's tokens or a table's cells left out.",
    )


class OnPixels(nn.Module):
    """Runs transforms that expect 0..1 on images of the 0..255 scale, without gradients."""

    def __init__(self, steps: list[nn.Module]) -> None:
        super().__init__()
        self.steps = nn.Sequential(*steps)

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map (N, C, H, W) uint8 or float to float32 of the same shape and scale."""
        out = images.float() / 255
        for step in self.steps:
            out = step(out, params=_own(step, out)) if place()[1] > 1 else step(out)
        return out * 255


def _own(step: Any, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """What kornia draws for the whole batch of all processes, of this one's images (N, C, H, W)."""
    found: dict[str, torch.Tensor] = {}

    def draw(count: int) -> torch.Tensor:
        found.update(step.forward_parameters(torch.Size((count, *images.shape[1:]))))
        return torch.arange(count)

    mine = drawn(draw, len(images))
    shape = found.pop("forward_input_shape")
    whole = int(shape[0])
    own = {name: value[mine] if len(value) == whole else value for name, value in found.items()}
    return own | {"forward_input_shape": torch.tensor(images.shape)}


def build(params: Augmentation, spec: DataSpec, transform: Transform) -> nn.Module:
    """A module that maps a batch of canonical inputs to randomly transformed ones of the same shape."""
    if params.strength == 0:
        return nn.Identity()
    if spec.modality == "image":
        return on_images(params, spec.input_shape[1], spec.input_shape[2])
    s = params.strength
    return rows.build(
        params.noise * s, min(params.scale * s, 0.95), min(params.crop * s, 0.95), min(params.masking * s, 0.9),
        spec, transform,
    )  # fmt: skip


def on_images(params: Augmentation, height: int, width: int) -> nn.Module:
    """Transforms of images (N, C, H, W) on the 0..255 scale."""
    import kornia.augmentation as kornia

    s = params.strength
    steps: list[nn.Module] = []
    if params.rotation or params.shift or params.scale or params.shear:
        shift, scale = min(params.shift * s, 1.0), min(params.scale * s, 0.95)
        steps.append(
            kornia.RandomAffine(
                degrees=params.rotation * s, translate=(shift, shift), scale=(1 - scale, 1 + scale),
                shear=params.shear * s, p=1.0,
            )
        )  # fmt: skip
    if params.crop:
        kept = max(1 - params.crop * s, 0.05)
        steps.append(
            kornia.RandomResizedCrop(
                (height, width), scale=(kept, 1.0), ratio=(0.8, 1.25), cropping_mode="resample"
            )
        )
    if params.flip:
        steps.append(kornia.RandomHorizontalFlip(p=params.flip))
    if params.elastic:
        from pipeline.fitting.elastic import Elastic

        steps.append(Elastic(params.elastic * s))
    if params.erasing:
        steps.append(kornia.RandomErasing(p=min(params.erasing * s, 1.0), scale=(0.02, 0.1)))
    return OnPixels(steps) if steps else nn.Identity()
