"""Recurrent networks over series and texts: plain, LSTM and GRU.

After Elman, "Finding Structure in Time" (1990), Hochreiter and Schmidhuber, "Long Short-Term Memory" (1997),
Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder" (2014), and Schuster and Paliwal,
"Bidirectional Recurrent Neural Networks" (1997); the answer is read from the last state of each direction
beside the mean of all states.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from models.layers import normalisation
from models.params import Model
from models.sequences import Steps, mean_of
from serving.inputs.spec import DataSpec, Transform

State = tuple[torch.Tensor, ...]
Cell = Callable[[State, torch.Tensor, torch.Tensor, torch.Tensor], State]
LAYERS: dict[str, Callable[..., nn.RNNBase]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


def rnn_cell(state: State, gates: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> State:
    """One step of `nn.RNN`: state (N, H), gates (N, H) of the input."""
    return ((gates + F.linear(state[0], weight, bias)).tanh(),)


def lstm_cell(state: State, gates: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> State:
    """One step of `nn.LSTM`: states (N, H) and (N, H), gates (N, 4 H) of the input."""
    h, c = state
    enter, forget, new, out = (gates + F.linear(h, weight, bias)).chunk(4, 1)
    c = forget.sigmoid() * c + enter.sigmoid() * new.tanh()
    return out.sigmoid() * c.tanh(), c


def gru_cell(state: State, gates: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> State:
    """One step of `nn.GRU`: state (N, H), gates (N, 3 H) of the input."""
    h = state[0]
    reset, update, new = gates.chunk(3, 1)
    reset_h, update_h, new_h = F.linear(h, weight, bias).chunk(3, 1)
    keep = (update + update_h).sigmoid()
    fresh = (new + (reset + reset_h).sigmoid() * new_h).tanh()
    return ((1 - keep) * fresh + keep * h,)


CELLS: dict[str, Cell] = {"rnn": rnn_cell, "lstm": lstm_cell, "gru": gru_cell}


class Recurrent(nn.Module):
    """Steps, `depth` recurrent layers of `width` units a direction, what they end in, and a linear layer."""

    def __init__(self, params: Model, spec: DataSpec, transform: Transform) -> None:
        super().__init__()
        if params.depth < 1:
            raise ValueError(f"model.depth is {params.depth}; a recurrent network has at least 1 layer")
        self.cell, self.directions = CELLS[params.family], 1 + params.bidirectional
        self.steps = Steps(spec, transform, params.width, params.dropout)
        self.layers = LAYERS[params.family](
            self.steps.features, params.width, params.depth, batch_first=True,
            dropout=params.dropout if params.depth > 1 else 0.0, bidirectional=params.bidirectional,
        )  # fmt: skip
        size = 2 * self.directions * params.width
        self.head = nn.Sequential(
            normalisation(params.normalisation, size),
            nn.Dropout(params.dropout),
            nn.Linear(size, len(spec.outputs)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map series (N, T, C + 1) or tokens (N, T) to (N, outputs)."""
        features, real = self.steps(x)
        read = self.scanned if torch.compiler.is_exporting() else self.packed
        states, last = read(features, real)
        pooled = torch.cat([last, mean_of(states, real)], dim=1)
        answer: torch.Tensor = self.head(pooled)
        return answer

    def packed(self, x: torch.Tensor, real: torch.Tensor) -> State:
        """States of all steps (N, T, directions * H) and the last of each direction (N, directions * H)."""
        lengths = real.sum(1).clamp(min=1)
        inputs = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        outputs, ends = self.layers(inputs)
        states, _ = pad_packed_sequence(outputs, batch_first=True, total_length=x.shape[1])
        ends = ends[0] if isinstance(ends, tuple) else ends
        last = torch.cat(list(ends[-self.directions :]), dim=1)
        return states, last * real.any(1, keepdim=True)

    def scanned(self, x: torch.Tensor, real: torch.Tensor) -> State:
        """What `packed` gives, step by step with the same weights, as a graph of any length can hold it."""
        mask = real.t().unsqueeze(2).to(x.dtype)  # (T, N, 1)
        inputs = x.transpose(0, 1)
        ends: list[torch.Tensor] = []
        for layer in range(self.layers.num_layers):
            found = [self._scan(inputs, mask, f"_l{layer}")]
            if self.directions == 2:
                backward, end = self._scan(inputs.flip(0), mask.flip(0), f"_l{layer}_reverse")
                found.append((backward.flip(0), end))
            inputs = torch.cat([states for states, _ in found], dim=2)
            ends = [end for _, end in found]
        return inputs.transpose(0, 1), torch.cat(ends, dim=1)

    def _scan(self, x: torch.Tensor, mask: torch.Tensor, suffix: str) -> State:
        """One layer in one direction: steps (T, N, D) to states (T, N, H) and the last (N, H).

        Padding leaves the state as it is, so the last is that of the last real step.
        """
        from torch._higher_order_ops.scan import scan

        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        into, weight, bias_in, bias = (getattr(self.layers, name + suffix) for name in names)
        zero = x.new_zeros(x.shape[1], self.layers.hidden_size)
        count = 2 if isinstance(self.layers, nn.LSTM) else 1

        def step(state: State, now: State) -> tuple[State, torch.Tensor]:
            gates, there = now
            fresh = self.cell(state, gates, weight, bias)
            kept = tuple(there * new + (1 - there) * old for new, old in zip(fresh, state, strict=True))
            return kept, kept[0].clone()

        carry = tuple(zero.clone() for _ in range(count))
        ends, states = scan(step, carry, (F.linear(x, into, bias_in), mask))
        return states, ends[0]


def build(params: Model, spec: DataSpec, transform: Transform) -> nn.Module:
    """Build the network for series or texts."""
    return Recurrent(params, spec, transform)
