"""Elastic distortion of images that looks alike at every size."""

from __future__ import annotations

from typing import Any

import torch
from kornia.augmentation import RandomElasticTransform
from kornia.filters import filter2d_separable, get_gaussian_kernel1d
from torch.nn import functional as F

SIDE = 28  # pixels of the field of displacements, for which the kernel was chosen
KERNEL, SIGMA = 9, 4.0


class Elastic(RandomElasticTransform):
    """kornia's transform of 28 x 28 pixels, whose field of displacements is stretched over images of other sizes.

    kornia's own smooths the field over a kernel in pixels, but moves by shares of the image: the larger the image,
    the further pixels that are neighbours part, until the image is torn.
    """

    def __init__(self, alpha: float) -> None:
        super().__init__((KERNEL, KERNEL), (SIGMA, SIGMA), (alpha, alpha), p=1.0)

    def generate_parameters(self, shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
        """Noise (N, 2, 28, 28) for images (N, C, H, W) of any size."""
        return super().generate_parameters((*shape[:2], SIDE, SIDE))

    def apply_transform(
        self,
        input: torch.Tensor,
        params: dict[str, torch.Tensor],
        flags: dict[str, Any],
        transform: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Displace the pixels of images (N, C, H, W)."""
        height, width = input.shape[-2:]
        if (height, width) == (SIDE, SIDE):
            return super().apply_transform(input, params, flags, transform)
        kernel = get_gaussian_kernel1d(KERNEL, SIGMA, device=input.device, dtype=input.dtype)
        field = filter2d_separable(params["noise"].to(input), kernel, kernel, border_type="constant")
        field = F.interpolate(field * flags["alpha"][0], (height, width), mode="bicubic", align_corners=False)
        still = torch.eye(2, 3, device=input.device, dtype=input.dtype)[None]
        grid = F.affine_grid(still, [1, 1, height, width], align_corners=False)
        return F.grid_sample(input, grid + field.permute(0, 2, 3, 1), align_corners=False)
