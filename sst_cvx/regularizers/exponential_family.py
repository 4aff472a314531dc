"""The conjugate of the log-partition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from sst_cvx.once import later
from sst_cvx.regularizers.base import Regularizer
from sst_cvx.structure.base import Structure

if TYPE_CHECKING:
    import cvxpy as cp
else:
    cp = later("cvxpy")


class ExponentialFamilyEntropy(Regularizer):
    """f = A*, the convex conjugate of the log-partition: the soft argmax is the marginals grad A(u / t).

    Paper, section 4.2. As a convex program: A*(x) = min { sum_v p_v log p_v : sum_v p_v v = x, p a distribution over
    the vertices v }, so its reference needs ``vertices()``; their mixtures take the place of the declared hull.
    """

    within_set = True

    def __init__(self) -> None:
        pass

    def expression(self, variable: cp.Variable) -> Any:
        raise NotImplementedError("A* depends on the structure: use program(structure).")

    def program(self, structure: Structure) -> tuple[Any, list[Any]]:
        vertices = structure.vertices().reshape(-1, structure.event_size).numpy()
        if len(vertices) > 5000:
            raise ValueError(
                f"the reference of ExponentialFamilyEntropy weighs all vertices, and {structure!r} has "
                f"{len(vertices)}: use a smaller instance."
            )
        weights = cp.Variable(len(vertices))
        means = vertices.T @ weights
        event = cp.reshape(structure.variable, (structure.event_size,), order="C")
        return cp.sum(-cp.entr(weights)), [event == means, cp.sum(weights) == 1, weights >= 0]

    def strong_convexity(self, structure: Structure) -> float:
        """The Hessian of A is a covariance over the vertices, at most a quarter of their squared diameter."""
        points = structure.vertices().reshape(-1, structure.event_size)
        diameter = float(torch.cdist(points, points).max())
        return 4.0 / diameter**2 if diameter else 0.0

    def value(self, x: torch.Tensor, event_dim: int = 1) -> torch.Tensor:
        raise NotImplementedError("A* has no closed form in x: SoftArgmax.gap compares with enumeration instead.")
