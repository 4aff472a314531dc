"""The path "interior_point": which pairs it takes, and the soft argmax it gives."""

from __future__ import annotations

import numpy as np
import torch

from sst_cvx.active_system import Polish, Solution
from sst_cvx.implicit import PolytopeArgmax
from sst_cvx.interior_point import InteriorPoint, Problem
from sst_cvx.regularizers import Regularizer, SeparableRegularizer
from sst_cvx.standard_form import StandardForm, standard_form
from sst_cvx.structure import Structure


def refusal(structure: Structure, regularizer: Regularizer) -> str:
    """Why the interior-point path does not take a pair; empty if it does."""
    if not isinstance(regularizer, SeparableRegularizer):
        return f"{regularizer!r} is not separable (a sum over coordinates), which the interior-point path needs"
    if not structure.hull.linear:
        return "the hull has other cones than linear constraints"
    if structure.parameters:
        return "the hull has parameters"
    return ""


class InteriorPath:
    """X_t(u) for flat batches ``(batch, size)`` in float64, on the device of the utilities.

    Raises:
        ValueError: the hull has no point within the regularizer's domain.
    """

    def __init__(self, structure: Structure, regularizer: SeparableRegularizer):
        self._form = standard_form(structure.hull.at(), regularizer.domain)
        self._regularizer, self._shape = regularizer, structure.event_shape
        self._solvers: dict[torch.device, _Solver] = {}

    def __call__(self, u: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Points ``(batch, size)`` for utilities ``(batch, size)`` and temperatures ``(batch,)``; and where they are
        right, ``(batch,)``. Differentiable in u, twice; in t through u, since X depends on u / t alone."""
        if u.device not in self._solvers:
            self._solvers[u.device] = _Solver(self._form, self._regularizer, self._shape, u.device)
        solver = self._solvers[u.device]
        constant = solver.constant.expand(len(u), -1)
        if not self._form.curved:
            return constant + 0 * u, torch.ones(len(u), dtype=torch.bool, device=u.device)
        right, bounds = solver.right.expand(len(u), -1), solver.bounds.expand(len(u), -1, -1)
        everything = self._form.curved == u.shape[1]
        part = u if everything else u[:, solver.free]
        x, accepted = PolytopeArgmax.apply(part, t.detach()[:, None], right, bounds, solver)  # type: ignore[misc]
        return x if everything else constant.index_copy(1, solver.free, x), accepted


class _Solver:
    """What one device needs."""

    def __init__(
        self, form: StandardForm, regularizer: SeparableRegularizer, shape: tuple[int, ...], device: torch.device
    ):
        def tensor(array: np.ndarray) -> torch.Tensor:
            return torch.as_tensor(array, device=device)

        self.free, self.constant = tensor(form.free), tensor(form.constant)
        self.right, self.bounds = tensor(form.right), tensor(np.stack([form.lower, form.upper]))
        self.start = tensor(form.start)
        self.safe = self.start[: form.curved]
        weights = regularizer.flat_weights(shape).to(device)[self.free]
        self.weights = weights if regularizer.weights is not None else weights[:1]
        self.regularizer, self._curved, self._columns = regularizer, form.curved, form.lower.size
        self._interior = InteriorPoint(form, regularizer, device)
        self.rows = self._interior.rows
        self._polish = Polish(self.rows, self._interior.barriers, regularizer, form.curved)

    def solve(
        self, u: torch.Tensor, t: torch.Tensor, right: torch.Tensor, bounds: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Columns, the sides they are fixed at, and which elements are right."""
        solution = self._solve(u, t, right, bounds)
        return solution.w, solution.side, solution.accepted

    def _solve(self, u: torch.Tensor, t: torch.Tensor, right: torch.Tensor, bounds: torch.Tensor) -> Solution:
        centred = u - u.mean(1, keepdim=True)
        scale = torch.maximum(centred.abs().amax(1, keepdim=True), t * self.weights.amin())
        linear = torch.nn.functional.pad(centred / scale, (0, self._columns - self._curved))
        temperature = (t / scale * self.weights).expand(-1, self._curved)
        ends = self._interior.barriers.ends(bounds)
        problem = Problem(linear, temperature, right, bounds, ends, t / scale * self.weights.amin())
        near, converged = self._interior.solve(problem, self.start.expand(len(u), -1))
        solution = self._polish(problem, near)
        solution.accepted &= converged & torch.isfinite(solution.w).all(1)
        return solution
