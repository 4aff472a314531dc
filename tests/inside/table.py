"""Pairs, and what is asked of each inside PyTorch; no host read is allowed where ``NoHostReads`` watches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import polytopes
import sst_cvx as sst
from tests.oracles import paths_of

T = 0.7


def pairs(fast: bool) -> list[Any]:
    """(structure, regularizer) of the library's examples that a fast path answers, or that a solver does."""
    return [
        pytest.param(structure, f, id=f"{structure!r}-{f!r}")
        for structure in polytopes.EXAMPLES
        for f, path in paths_of(structure)
        if (path == "fast") == fast
    ]


FAST, SOLVED = pairs(True), pairs(False)
#: One of each kind of kernel; the others run with the slow checks.
SOME = {
    "OneHot(n=5)-Euclidean()",
    "KSubset(n=6, k=2)-CategoricalEntropy()",
    "KSubset(n=7, k=6)-BinaryEntropy()",
    "AtMostKSubset(n=5, k=2)-TsallisEntropy(alpha=1.5)",
    "KSubset(n=6, k=2)-ExponentialFamilyEntropy()",
    "SpanningTree(4)-ExponentialFamilyEntropy()",
    "Path(edges=8, source=0, target=4)-ExponentialFamilyEntropy()",
    "Matching(n=2, m=3)-CategoricalEntropy()",
    "Permutahedron([1, 0.5, 0.5, 0.25, 0])-Euclidean()",
}


def some(params: list[Any], chosen: set[str]) -> list[Any]:
    """All, but those that are not chosen behind the marker of what CI leaves out."""
    return [p if p.id in chosen else pytest.param(*p.values, id=p.id, marks=pytest.mark.exhaustive) for p in params]


def utilities(structure: sst.Structure, *batch: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*batch, *structure.event_shape, dtype=dtype)


def value_and_gradient(
    ask: Callable[[torch.Tensor], torch.Tensor], u: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The answer, and the gradient of a function of it."""
    v = u.clone().requires_grad_()
    x = ask(v)
    weights = torch.linspace(0.5, 1.5, x.numel(), dtype=x.dtype).reshape(x.shape)
    (g,) = torch.autograd.grad((weights * x.square()).sum(), v)
    return x.detach(), g


class NoHostReads(TorchDispatchMode):
    """Raises at any operation for which the host would wait for a device."""

    reads = frozenset(
        f"aten.{name}"
        for name in (
            "_local_scalar_dense.default",
            "item.default",
            "is_nonzero.default",
            "equal.default",
            "nonzero.default",
            "masked_select.default",
            "_unique2.default",
            "unique_dim.default",
            "repeat_interleave.Tensor",
        )
    )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(func) in self.reads:
            raise AssertionError(f"the host reads a tensor: {func}")
        if str(func).startswith(("aten.index.", "aten.index_put")):
            masks = [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)]
            assert not masks, f"the host counts what a mask chooses: {func}"
        return func(*args, **(kwargs or {}))
