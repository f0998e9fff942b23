"""A generative adversarial network that is told the class: the generator is served, the critic is thrown away.

Convolutional after Radford et al., "Unsupervised Representation Learning with Deep Convolutional Generative Adversarial
Networks" (2016); conditional after Mirza and Osindero, "Conditional Generative Adversarial Nets" (2014); the critic is
spectrally normalised (Miyato et al., 2018) and sees the class by projection (Miyato and Koyama,
2018). Its features' deviation over a batch's images of one class shows it images that are all alike, after Karras et
al., "Progressive Growing of GANs" (2018), who take it over all.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from models.initialisation import initialise
from models.layers import PICTURE_NORMALISATIONS, activation
from models.params import Model
from models.recomputing import Block, Chain
from models.together import summed
from serving.inputs.generation import HEAD
from serving.inputs.spec import DataSpec, Transform

SMALLEST = 4  # pixels of a side before the first doubling
SLOPE = 0.2  # of the critic's leaky units, as in DCGAN


def sizes_of(height: int, width: int, depth: int) -> list[tuple[int, int]]:
    """Sides before the first doubling, and after each, up to the image's.

    >>> sizes_of(28, 28, 2), sizes_of(28, 20, 9)
    ([(7, 7), (14, 14), (28, 28)], [(7, 5), (14, 10), (28, 20)])
    """
    most = max(1, int(math.log2(min(height, width) / SMALLEST)))
    halvings = range(min(max(depth, 1), most), -1, -1)
    return [(math.ceil(height / 2**at), math.ceil(width / 2**at)) for at in halvings]


class Doubled(Block):
    """Images (N, C, h, w) to (N, D, H, W), H being 2 h or one less, and W likewise."""

    def __init__(self, before: int, after: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.conv, self.size = nn.ConvTranspose2d(before, after, 4, stride=2, padding=1), size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Double the sides."""
        out: torch.Tensor = self.conv(x)
        return out[:, :, : self.size[0], : self.size[1]]


class Generator(nn.Module):
    """Requests (N, 2 + latent), see `serving.inputs.generation`, to outputs (N, 2 + C * H * W)."""

    def __init__(self, params: Model, spec: DataSpec) -> None:
        super().__init__()
        self.params, self.shape, self.classes = params, spec.input_shape, len(spec.classes)
        channels, height, width = self.shape
        first, *later = sizes_of(height, width, params.depth)
        wide = params.width * 2 ** (len(later) - 1)
        self.embedding = nn.Embedding(self.classes, params.latent)
        self.begin = nn.Sequential(
            nn.Linear(2 * params.latent, wide * first[0] * first[1]), nn.Unflatten(1, (wide, *first)),
            PICTURE_NORMALISATIONS[params.normalisation](wide), activation(params.activation),
        )  # fmt: skip
        layers: list[nn.Module] = []
        for size in later[:-1]:
            layers += [
                Doubled(wide, wide // 2, size),
                PICTURE_NORMALISATIONS[params.normalisation](wide // 2), activation(params.activation),
            ]  # fmt: skip
            wide //= 2
        self.rest = Chain(*layers, Doubled(wide, channels, later[-1]), nn.Tanh())

    def images(self, labels: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Images (N, C, H, W) from -1 to 1 of class numbers (N,) and noise (N, latent)."""
        out: torch.Tensor = self.rest(self.begin(torch.cat([noise, self.embedding(labels)], dim=1)))
        return out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map requests (N, 2 + latent) to class numbers, seeds and pixels from 0 to 255, (N, 2 + C * H * W)."""
        images = self.images(x[:, 0].long(), x[:, HEAD:])
        return torch.cat([x[:, :HEAD], (images.flatten(1) + 1) * 127.5], dim=1)

    def critic(self) -> Critic:
        """A critic of what it generates."""
        return Critic(self.params, self.shape, self.classes)


class Critic(nn.Module):
    """Images (N, C, H, W) from -1 to 1 and their class numbers (N,) to scores (N,), high for real ones."""

    def __init__(self, params: Model, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        channels, *size = shape
        sizes = sizes_of(size[0], size[1], params.depth)
        layers: list[nn.Module] = []
        wide = params.width
        for _ in sizes[1:]:
            layers += [
                nn.Conv2d(channels, wide, 4, stride=2, padding=1), nn.LeakyReLU(SLOPE), nn.Dropout(params.dropout)
            ]  # fmt: skip
            channels, wide = wide, 2 * wide
        self.features = nn.Sequential(*layers, nn.Flatten())
        with torch.no_grad():
            flat = self.features(torch.zeros(1, *shape)).shape[1]
        self.hidden = nn.Sequential(nn.Linear(flat + 1, 8 * params.width), nn.LeakyReLU(SLOPE))
        self.head, self.embedding = nn.Linear(8 * params.width, 1), nn.Embedding(classes, 8 * params.width)
        initialise(self, params.initialisation)
        for layer in list(self.modules()):
            if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding):
                spectral_norm(layer)

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Scores (N,)."""
        features = self.features(images)
        hidden = self.hidden(torch.cat([features, self.spread(features, labels)], dim=1))
        score: torch.Tensor = self.head(hidden)[:, 0] + (self.embedding(labels) * hidden).sum(1)
        return score

    def spread(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """How far features (N, F) lie from the mean of their class in the batch, (N, 1), the same for all."""
        mine = nn.functional.one_hot(labels, self.embedding.num_embeddings).to(features.dtype)  # (N, K)
        means = summed(mine.T @ features) / summed(mine.sum(0)).clamp(min=1)[:, None]
        total, count = (features - mine @ means).square().sum(), mine.sum()
        apart = summed(total) / summed(count)
        return (apart + 1e-8).sqrt().expand(len(features), 1)


def front(spec: DataSpec, transform: Transform) -> nn.Module:
    """What a request goes through: nothing, as it is no image."""
    del spec, transform
    return nn.Identity()


def build(params: Model, spec: DataSpec, transform: Transform) -> nn.Module:
    """Build the generator for images."""
    del transform
    return Generator(params, spec)
