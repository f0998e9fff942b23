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

from models.layers import normalisation
from models.params import Model
from models.recomputing import Block, through
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


class Direction(nn.Module):
    """One recurrent layer in one direction: (N, T, `inputs`) to the states of all steps (N, T, `width`)."""

    def __init__(self, family: str, inputs: int, width: int) -> None:
        super().__init__()
        self.layer, self.cell = LAYERS[family](inputs, width, batch_first=True), CELLS[family]
        self.carried = 2 if family == "lstm" else 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Read the steps in their order; an exported graph takes them one by one, to hold for any number."""
        if torch.compiler.is_exporting():
            return self.scanned(x)
        # As PyTorch begins by itself; said here, a sample's gradient can be taken alone (`torch.func.vmap`).
        begin = tuple(x.new_zeros(1, x.shape[0], self.layer.hidden_size) for _ in range(self.carried))
        states: torch.Tensor = self.layer(x, begin if self.carried > 1 else begin[0])[0]
        return states

    def scanned(self, x: torch.Tensor) -> torch.Tensor:
        """What `layer` gives, by a loop over steps with the same weights."""
        from torch._higher_order_ops.scan import scan

        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        into, weight, bias_in, bias = (getattr(self.layer, name) for name in names)

        def step(state: State, gates: torch.Tensor) -> tuple[State, torch.Tensor]:
            fresh = self.cell(state, gates, weight, bias)
            return fresh, fresh[0].clone()

        gates = F.linear(x.transpose(0, 1), into, bias_in)
        begin = tuple(x.new_zeros(x.shape[0], weight.shape[1]) for _ in range(self.carried))
        states: torch.Tensor = scan(step, begin, gates)[1]
        return states.transpose(0, 1)


class Layer(Block):
    """One recurrent layer, in both directions where it is `bidirectional`."""

    def __init__(self, params: Model, inputs: int) -> None:
        super().__init__()
        self.forwards = Direction(params.family, inputs, params.width)
        self.backwards = Direction(params.family, inputs, params.width) if params.bidirectional else None

    def forward(
        self, x: torch.Tensor, count: torch.Tensor, turned: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Map steps (N, T, D) to states (N, T, directions * H) and those that reading ended in (N, directions * H).

        `count` (N, 1) are the real steps of each row, `turned` (N, T) their numbers from last to first; padding
        follows them in either direction, so that it changes no state of a real step.
        """
        states = self.forwards(x)
        ends = _picked(states, (count - 1).clamp(min=0)).squeeze(1)
        if self.backwards is None:
            return states, ends
        back = _picked(self.backwards(_picked(x, turned)), turned)
        return torch.cat([states, back], dim=2), torch.cat([ends, back[:, 0]], dim=1)


class Recurrent(nn.Module):
    """Steps, `depth` recurrent layers of `width` units a direction, what they end in, and a linear layer."""

    def __init__(self, params: Model, spec: DataSpec, transform: Transform) -> None:
        super().__init__()
        if params.depth < 1:
            raise ValueError(f"model.depth is {params.depth}; a recurrent network has at least 1 layer")
        self.steps = Steps(spec, transform, params.width, params.dropout)
        size = params.width * (1 + params.bidirectional)
        inputs = [self.steps.features, *[size] * (params.depth - 1)]
        self.layers = nn.ModuleList(Layer(params, count) for count in inputs)
        self.dropout = nn.Dropout(params.dropout)
        self.head = nn.Sequential(
            normalisation(params.normalisation, 2 * size),
            nn.Dropout(params.dropout),
            nn.Linear(2 * size, len(spec.outputs)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map series (N, T, F + 1) or tokens (N, T) to (N, outputs)."""
        states, real = self.steps(x)
        count = real.sum(1, keepdim=True)
        at = torch.arange(x.shape[1], device=x.device)
        turned = torch.where(at < count, count - 1 - at, at)
        states, ends = through(self.layers[0], states, count, turned)
        for layer in self.layers[1:]:
            states, ends = through(layer, self.dropout(states), count, turned)
        pooled = torch.cat([ends * real.any(1, keepdim=True), mean_of(states, real)], dim=1)
        answer: torch.Tensor = self.head(pooled)
        return answer


def _picked(x: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """The steps (N, S) of (N, T, D), as (N, S, D)."""
    return x.gather(1, steps.unsqueeze(2).expand(-1, -1, x.shape[2]))


def build(params: Model, spec: DataSpec, transform: Transform) -> nn.Module:
    """Build the network for series or texts."""
    return Recurrent(params, spec, transform)
