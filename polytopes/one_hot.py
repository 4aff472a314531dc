"""One-hot vectors: X = { e_1, ..., e_n }, conv(X) the probability simplex { x >= 0, sum x = 1 }.

With Gumbel utilities and the categorical entropy the soft argmax is Gumbel-Softmax (paper, section 3; Maddison et al.
2017; Jang et al. 2017). Euclidean: sparsemax (Martins and Astudillo 2016). Tsallis: alpha-entmax (Peters et al. 2019).
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import torch

import sst_cvx as sst
from polytopes.kernels.box import box_violation, within_box
from polytopes.kernels.log_threshold import ENTROPIES, log_threshold
from polytopes.kernels.log_weights import draw_one, widened
from polytopes.kernels.threshold import threshold_map
from sst_cvx.arguments import check_size
from sst_cvx.once import constants, later

if TYPE_CHECKING:
    import cvxpy as cp
else:
    cp = later("cvxpy")


class OneHot(sst.Structure, final=True):
    """One of n items; event shape ``(n,)``.

    Args:
        n: number of items, at least 1.
    """

    known_binary = True
    known_bounded = True
    sees_hull = True  # pyright: ignore[reportAssignmentType, reportIncompatibleVariableOverride]
    argmax_on_device = True

    def __init__(self, n: int):
        self.n = check_size("n", n, 1)
        super().__init__(event_shape=(self.n,))

    def declare(self) -> tuple[cp.Variable, list[Any]]:
        x = cp.Variable(self.n)
        return x, [x >= 0, cp.sum(x) == 1]

    def argmax(self, u: torch.Tensor) -> torch.Tensor:
        """The one-hot vector of a largest utility (the first, in a tie); on the device of ``u``."""
        return torch.zeros_like(u).scatter(-1, u.argmax(-1, keepdim=True), 1.0)

    @constants()
    def vertices(self) -> torch.Tensor:
        return torch.eye(self.n, dtype=torch.float64)

    @widened
    def log_partition(self, u: torch.Tensor) -> torch.Tensor:
        """logsumexp(u); relative to the largest, as derivatives by the rounded sum lose digits."""
        top = u.detach().amax(-1, keepdim=True)
        return (u - top).logsumexp(-1) + top[..., 0]

    def violation(self, x: torch.Tensor) -> torch.Tensor:
        return box_violation(x.double(), 1, 1)

    def violation_by_tensors(self, x: torch.Tensor) -> torch.Tensor:
        return box_violation(x, 1, 1)

    def surely_within(self, x: torch.Tensor, tolerance: float) -> bool:
        return within_box(x, 1, 1, tolerance)

    def sample(self, u: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """An item drawn with probability proportional to exp <u, x>, exact: same shape, dtype, device as ``u``."""
        score = u.double().log_softmax(-1).reshape(-1, self.n)
        item = draw_one(score, generator).reshape(*u.shape[:-1], 1)
        return torch.zeros_like(u).scatter(-1, item, 1.0)

    def _key(self) -> Hashable:
        return self.n

    def __repr__(self) -> str:
        return f"OneHot(n={self.n})"


def by_threshold(structure: OneHot, regularizer: sst.SeparableRegularizer, u: torch.Tensor) -> torch.Tensor:
    return threshold_map(u, 1, regularizer)


def log_by_threshold(structure: OneHot, regularizer: sst.SeparableRegularizer, u: torch.Tensor) -> torch.Tensor:
    return log_threshold(u, 1, regularizer)


def log_softmax(structure: OneHot, regularizer: sst.Regularizer, u: torch.Tensor) -> torch.Tensor:
    return u.log_softmax(-1)


for _kind in (sst.Euclidean, sst.TsallisEntropy, sst.BinaryEntropy):
    sst.fast_path(OneHot, _kind, log=log_by_threshold if _kind in ENTROPIES else None)(by_threshold)


@sst.fast_path(OneHot, sst.CategoricalEntropy, log=log_softmax)
@sst.fast_path(OneHot, sst.ExponentialFamilyEntropy, log=log_softmax)
def softmax(structure: OneHot, regularizer: sst.Regularizer, u: torch.Tensor) -> torch.Tensor:
    return u.softmax(-1)
