"""Autoencoders: the anomaly score of a sample and its embedding.

Dense for tables, convolutional for images, after Hinton and Salakhutdinov, "Reducing the Dimensionality of Data
with Neural Networks" (2006); variational after Kingma and Welling, "Auto-Encoding Variational Bayes" (2014), with
the mean of the latent instead of a draw when it serves.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from models.layers import activation
from models.params import Model
from models.recomputing import Chain
from serving.inputs.spec import DataSpec, Transform

STRIDES = 2  # halvings of an image's sides before the latent


class Autoencoder(nn.Module):
    """An encoder to `2 * latent` values where it is variational, else `latent`, and a decoder back.

    `forward` gives (N, 1 + latent): the mean squared error of the reconstruction over that above which a sample is
    called an anomaly, so that 1 is the alarm, and the embedding.
    """

    threshold: torch.Tensor

    def __init__(self, encoder: nn.Module, decoder: nn.Module, params: Model) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.latent, self.variational = params.latent, params.variational
        self.register_buffer("threshold", torch.ones(()))

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log-variance of the latent, each (N, latent); a plain one has no variance."""
        code = self.encoder(x)
        if self.variational:
            mean, spread = code.chunk(2, dim=1)
            return mean, spread.clamp(-10, 10)
        return code, torch.zeros_like(code)

    def reconstruct(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A reconstruction of x, from a drawn latent while it trains, and the divergence (N,) from the prior."""
        mean, spread = self.encode(x)
        if not self.variational:
            return self.decoder(mean), mean.new_zeros(len(x))
        drawn = mean + (0.5 * spread).exp() * torch.randn_like(mean) if self.training else mean
        divergence = 0.5 * (mean.square() + spread.exp() - 1 - spread).sum(dim=1)
        return self.decoder(drawn), divergence

    def loss(self, x: torch.Tensor, weight: float) -> torch.Tensor:
        """Mean error of a batch, and `weight` times the mean divergence."""
        reconstruction, divergence = self.reconstruct(x)
        return self.error(x, reconstruction).mean() + weight * divergence.mean()

    def error(self, x: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
        """Mean squared error of each sample, (N,), on the scale of the normalised input."""
        return (x - reconstruction).square().flatten(1).mean(dim=1)

    def errors(self, x: torch.Tensor) -> torch.Tensor:
        """Error of each sample (N,), as it is served, without the threshold."""
        return self.forward(x)[:, 0] * self.threshold

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, ...) to (N, 1 + latent): score and embedding."""
        mean, _ = self.encode(x)
        score = self.error(x, self.decoder(mean)) / self.threshold
        return torch.cat([score.unsqueeze(1), mean], dim=1)


class TableAutoencoder(Autoencoder):
    """Rows (N, 2 F + G) of a table, each category as one column a value."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, params: Model, spec: DataSpec) -> None:
        super().__init__(encoder, decoder, params)
        assert spec.table is not None
        self.numbers = 2 * len(spec.table.numbers)
        self.sizes = [len(field.categories) + 1 for field in spec.table.categories]

    def spread(self, x: torch.Tensor) -> torch.Tensor:
        """Codes as one column a value: (N, features)."""
        codes = x[:, self.numbers :].long()
        hot = [
            (codes[:, at, None] == torch.arange(size, device=x.device)).to(x.dtype)
            for at, size in enumerate(self.sizes)
        ]
        return torch.cat([x[:, : self.numbers], *hot], dim=1)

    def loss(self, x: torch.Tensor, weight: float) -> torch.Tensor:
        """As for any, on the row with its categories spread."""
        return super().loss(self.spread(x), weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, 2 F + G) to (N, 1 + latent): score and embedding."""
        return super().forward(self.spread(x))


def dense(size: int, params: Model) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder of flat samples of `size` values, `depth` hidden layers each."""
    codes = params.latent * (2 if params.variational else 1)

    def layers(first: int, last: int) -> nn.Module:
        steps: list[nn.Module] = []
        for _ in range(max(params.depth, 1)):
            steps += [
                nn.Linear(first, params.width),
                activation(params.activation),
                nn.Dropout(params.dropout),
            ]
            first = params.width
        return Chain(*steps, nn.Linear(first, last))

    return layers(size, codes), layers(params.latent, size)


def convolutional(shape: tuple[int, ...], params: Model) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder of images of `shape`, (C, H, W): strided convolutions, and up-sampling back."""
    channels, height, width = shape
    small = (math.ceil(height / 2**STRIDES), math.ceil(width / 2**STRIDES))
    top, flat = 2 * params.width, 2 * params.width * small[0] * small[1]
    codes = params.latent * (2 if params.variational else 1)
    encoder = Chain(
        nn.Conv2d(channels, params.width, 3, stride=2, padding=1), activation(params.activation),
        nn.Conv2d(params.width, top, 3, stride=2, padding=1), activation(params.activation),
        nn.Flatten(), nn.Dropout(params.dropout), nn.Linear(flat, codes),
    )  # fmt: skip
    middle = (math.ceil(height / 2), math.ceil(width / 2))
    decoder = Chain(
        nn.Linear(params.latent, flat), activation(params.activation), nn.Unflatten(1, (top, *small)),
        nn.Upsample(size=middle), nn.Conv2d(top, params.width, 3, padding=1), activation(params.activation),
        nn.Upsample(size=(height, width)), nn.Conv2d(params.width, channels, 3, padding=1),
    )  # fmt: skip
    return encoder, decoder


def build(params: Model, spec: DataSpec, transform: Transform) -> nn.Module:
    """Build the autoencoder for images or tables.

    Raises:
        ValueError: the modality has no autoencoder.
    """
    del transform
    if spec.image is not None:
        return Autoencoder(*convolutional(spec.input_shape, params), params)
    if spec.table is not None:
        sizes = [len(field.categories) + 1 for field in spec.table.categories]
        size = 2 * len(spec.table.numbers) + sum(sizes)
        return TableAutoencoder(*dense(size, params), params, spec)
    raise ValueError(f"model.family 'autoencoder' takes images and tables, not {spec.modality}")
