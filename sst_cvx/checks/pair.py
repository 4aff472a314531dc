"""One structure with one regularizer under test, and how its errors are measured."""

from __future__ import annotations

from functools import cached_property

import torch

from sst_cvx.checks.report import NotApplicable
from sst_cvx.checks.structure_checks import name_input, sample_utilities
from sst_cvx.regularizers import ExponentialFamilyEntropy, Regularizer
from sst_cvx.soft_argmax import SoftArgmax
from sst_cvx.structure.base import Structure

BATCH = 4

#: Figure, bound, and the input of the figure.
Found = tuple[float, float, str]


class Pair:
    """The soft argmax of the pair, its references, and its sample inputs."""

    def __init__(self, structure: Structure, regularizer: Regularizer, seed: int, parameters: dict[str, torch.Tensor]):
        self.structure, self.regularizer, self.seed, self.parameters = structure, regularizer, seed, parameters
        self.soft = SoftArgmax(structure, regularizer)
        self.exact = self.soft.path != "layer"

    @cached_property
    def reference(self) -> SoftArgmax:
        if self.soft.path == "layer":
            raise NotApplicable("answered by the layer itself")
        exponential = isinstance(self.regularizer, ExponentialFamilyEntropy)
        if exponential and self.structure.has_vertices() and len(self.structure.vertices()) == 1:
            raise NotApplicable("X has one element, and its program one weight")
        if self.structure.variable.size > 200:
            raise NotApplicable("too large for the layer: use a smaller instance")
        try:
            return self.soft.reference()
        except (ValueError, NotImplementedError) as reason:
            raise NotApplicable(str(reason)) from None

    @cached_property
    def interior(self) -> SoftArgmax:
        try:
            return SoftArgmax(self.structure, self.regularizer, path="interior_point")
        except ValueError as refused:
            raise NotApplicable(str(refused)) from None

    def answer(self, u: torch.Tensor, t: float | torch.Tensor, soft: SoftArgmax | None = None) -> torch.Tensor:
        return (soft or self.soft)(u, t, **self.parameters)

    def utilities(self) -> torch.Tensor:
        return sample_utilities(self.structure, (BATCH,), self.seed + 1)

    def pullback(self, t: float, soft: SoftArgmax | None = None) -> torch.Tensor:
        """Vector-Jacobian product at the sample utilities, with a fixed random cotangent."""
        u = self.utilities().requires_grad_()
        (g,) = torch.autograd.grad((self.answer(u, t, soft) * self.cotangent()).sum(), u)
        return g

    def cotangent(self) -> torch.Tensor:
        return sample_utilities(self.structure, (BATCH,), self.seed + 2)


def flat(x: torch.Tensor) -> torch.Tensor:
    """(batch, *event_shape) to (batch, size)."""
    return x.reshape(len(x), -1)


def dot(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """<x, y> of each batch element."""
    return flat(x * y).sum(1)


def worst_of(error: torch.Tensor, u: torch.Tensor, where: str = "") -> tuple[float, str]:
    """Largest absolute error of a batch and the element that has it; NaN counts as infinite."""
    if not error.numel():
        return 0.0, where
    of_element = error.detach().abs().nan_to_num(nan=float("inf")).reshape(len(u), -1).amax(1)
    element = int(of_element.argmax())
    return float(of_element[element]), f"{where}, {name_input(u, element)}".removeprefix(", ")


def found_at(error: torch.Tensor, bound: float, u: torch.Tensor, where: str = "") -> Found:
    figure, where = worst_of(error, u, where)
    return figure, bound, where
