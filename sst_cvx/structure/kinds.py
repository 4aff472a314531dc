"""What kind of arrays the elements of X are, found out by asking its argmax."""

from __future__ import annotations

from collections.abc import Callable

import torch

_Argmax = Callable[[torch.Tensor], torch.Tensor]
_CHUNK = 256  # unit vectors at once: all n would be n^2 numbers


def seem_binary(argmax: _Argmax, event_shape: tuple[int, ...]) -> bool:
    """Whether the elements of X furthest in many directions are 0/1 arrays."""
    size = torch.Size(event_shape).numel()
    axes, generator = torch.eye(size, dtype=torch.float64, device="cpu"), torch.Generator().manual_seed(0)
    some = torch.randn(64, size, dtype=torch.float64, generator=generator, device="cpu")
    x = argmax(torch.cat([axes, -axes, some]).reshape(-1, *event_shape))
    return bool((x.abs().minimum((x - 1).abs()) <= 1e-6).all())


def are_unit_vectors(argmax: _Argmax, n: int) -> bool:
    """Whether X, of 0/1 vectors, is the set of all n unit vectors: sums are 1, and each of them is an answer."""
    one = torch.ones(n, dtype=torch.float64, device="cpu")
    if not bool((argmax(torch.stack([one, -one])).sum(1) == 1).all()):
        return False
    for some in torch.arange(n, device="cpu").split(_CHUNK):
        units = torch.nn.functional.one_hot(some, n).double()
        if not torch.equal(argmax(units), units):
            return False
    return True
