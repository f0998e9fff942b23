"""`compute.compile`: the network runs as torch.compile makes it; its weights and their names stay as they are."""

from __future__ import annotations

import torch
from torch import nn

from models.autoencoder import Autoencoder
from models.gan import Generator
from models.recomputing import recompute
from pipeline.core.params import UserError

BACKEND = "inductor"


def compile_net(net: nn.Module, ragged: bool) -> None:
    """Have a network compiled when it is first called; of `ragged` inputs for any length at once.

    Raises:
        UserError: this machine cannot compile.
    """
    check_compiler()
    paused(False)  # as a training that failed may have left it
    for part in parts(net):
        part.compile(backend=BACKEND, dynamic=True if ragged else None)


def as_written(net: nn.Module) -> None:
    """Have a network run as it is written again, not compiled and keeping its activations."""
    recompute(net, marked=False)
    for part in parts(net):
        part._compiled_call_impl = None


def compiled(net: nn.Module) -> bool:
    """True between `compile_net` and `as_written`."""
    return any(part._compiled_call_impl is not None for part in parts(net))


def parts(net: nn.Module) -> list[nn.Module]:
    """What of a network is called as a module while it trains."""
    if isinstance(net, Autoencoder):
        return [net.encoder, net.decoder]
    return [net.begin, net.rest] if isinstance(net, Generator) else [net]


def paused(pause: bool) -> None:
    """Run compiled networks as they are written for a while, with the hooks of their layers."""
    torch.compiler.set_stance("force_eager" if pause else "default")


def check_compiler() -> None:
    """Refuse a machine that cannot compile, before a training is set up.

    Raises:
        UserError: there is no C++ compiler, or it fails.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise UserError(
            "compute.compile needs a C++ compiler, and none is found as g++, nor named by the variable CXX; install "
            "one (Debian: apt install g++), or set compute.compile: false"
        ) from None
