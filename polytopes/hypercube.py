"""All subsets: X = {0, 1}^n, conv(X) the unit box. Every relaxation falls apart into coordinates.

Paper, section 4.1 (Bernoulli variables). x_i = phi'^-1(u_i) cut to [0, 1]; for the exponential family, a sigmoid.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import torch

import sst_cvx as sst
from polytopes.kernels.box import box_violation, within_box
from polytopes.kernels.log_threshold import ENTROPIES, log_box
from polytopes.kernels.log_weights import widened
from polytopes.kernels.threshold import SEARCHABLE, box_map
from sst_cvx.arguments import check_size, check_vertex_count
from sst_cvx.once import constants, later

if TYPE_CHECKING:
    import cvxpy as cp
else:
    cp = later("cvxpy")


class Hypercube(sst.Structure, final=True):
    """Any of n items; event shape ``(n,)``.

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
        return x, [x >= 0, x <= 1]

    def argmax(self, u: torch.Tensor) -> torch.Tensor:
        """1 where the utility is positive; on the device of ``u``."""
        return (u > 0).to(u.dtype)

    @constants()
    def vertices(self) -> torch.Tensor:
        check_vertex_count(self, 2**self.n)
        return torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * self.n).reshape(-1, self.n)

    @widened
    def log_partition(self, u: torch.Tensor) -> torch.Tensor:
        """sum_i log(1 + exp u_i)."""
        return torch.logaddexp(u, torch.zeros_like(u)).sum(-1)

    def violation(self, x: torch.Tensor) -> torch.Tensor:
        return box_violation(x.double(), 0, self.n)

    def violation_by_tensors(self, x: torch.Tensor) -> torch.Tensor:
        return box_violation(x, 0, self.n)

    def surely_within(self, x: torch.Tensor, tolerance: float) -> bool:
        return within_box(x, 0, self.n, tolerance)

    def sample(self, u: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """A subset drawn with probability proportional to exp <u, x>, exact: same shape, dtype, device as ``u``."""
        share = torch.sigmoid(u.double())
        uniform = torch.rand(u.shape, dtype=share.dtype, device=u.device, generator=generator)
        return (uniform < share).to(u.dtype)

    def _key(self) -> Hashable:
        return self.n

    def __repr__(self) -> str:
        return f"Hypercube(n={self.n})"


def coordinatewise(structure: sst.Structure, regularizer: sst.SeparableRegularizer, u: torch.Tensor) -> torch.Tensor:
    return box_map(u, regularizer)


def log_coordinatewise(
    structure: sst.Structure, regularizer: sst.SeparableRegularizer, u: torch.Tensor
) -> torch.Tensor:
    return log_box(u, regularizer)


def log_sigmoid(structure: Hypercube, regularizer: sst.Regularizer, u: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.logsigmoid(u)


for _kind in SEARCHABLE:
    sst.fast_path(Hypercube, _kind, log=log_coordinatewise if _kind in ENTROPIES else None)(coordinatewise)


@sst.fast_path(Hypercube, sst.ExponentialFamilyEntropy, log=log_sigmoid)
def exponential_family(
    structure: Hypercube, regularizer: sst.ExponentialFamilyEntropy, u: torch.Tensor
) -> torch.Tensor:
    return torch.sigmoid(u)
