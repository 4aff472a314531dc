"""Soft argmaxes over one polytope: its forms, and a solver for each device."""

from __future__ import annotations

import numpy as np
import torch

from sst_cvx.errors import Elements
from sst_cvx.once import constants
from sst_cvx.paths.interior_point.derivative import PolytopeArgmax
from sst_cvx.paths.interior_point.kkt import Polish
from sst_cvx.paths.interior_point.parametric_form import ParametricForm, start_between
from sst_cvx.paths.interior_point.solver import InteriorPoint, Problem
from sst_cvx.paths.interior_point.sparse import prefers_sparse
from sst_cvx.paths.interior_point.standard_form import StandardForm, standard_form
from sst_cvx.regularizers import SeparableRegularizer
from sst_cvx.structure.base import Structure

_LARGEST = 2500  # rows of a dense system
_NO_ROOM = 1e-12  # between bounds that coincide
_MEMORY = 2e7  # numbers in the matrices of one chunk of the batch


class Polytope:
    """X_t(u) for flat batches ``(batch, size)`` in float64, on the device of the utilities.

    Raises:
        ValueError: the hull has no point within the regularizer's domain.
    """

    def __init__(self, structure: Structure, regularizer: SeparableRegularizer):
        self._parametric: ParametricForm | None = None
        if structure.parameters:
            affine = structure.declared_hull.affine
            assert affine is not None  # what the path made sure of
            self._parametric = ParametricForm(affine, regularizer.domain)
            self._form = self._parametric.form
        else:
            self._form = standard_form(structure.declared_hull.at(), regularizer.domain)
        self._regularizer, self._shape = regularizer, structure.event_shape
        self._solvers: dict[torch.device, _Solver] = {}

    @property
    def too_large(self) -> str:
        """Why a dense factorisation is out of the question; empty if it is not."""
        size = self._form.right.size
        if size <= _LARGEST or prefers_sparse(self._form):
            return ""
        return f"the hull has {size} rows, more than the {_LARGEST} that the interior-point path factorises"

    def __call__(
        self, u: torch.Tensor, t: torch.Tensor, values: dict[str, torch.Tensor], elements: Elements
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Points ``(batch, size)`` for utilities ``(batch, size)``, temperatures ``(batch,)`` and hull parameters
        ``(batch, *shape)``; and where they are right, ``(batch,)``. ``elements``: the rows' names for errors.

        Differentiable in u (twice) and the parameters; in t through u, since X depends on u / t alone.
        """
        if u.device not in self._solvers:
            with constants():
                self._solvers[u.device] = _Solver(self._form, self._regularizer, self._shape, u.device)
        solver, batch = self._solvers[u.device], len(u)
        constant, right, bounds = (
            part.expand(batch, *part.shape) for part in (solver.constant, solver.right, solver.bounds)
        )
        dependent, broken = None, torch.zeros(batch, dtype=torch.bool, device=u.device)
        if self._parametric is not None:
            right, bounds, constant, dependent, broken = self._parametric.at(values, u.device)
        if not self._form.curved:  # auxiliary columns of a hull with parameters are the layer's to decide
            decided = self._parametric is None or not self._form.right.size
            return constant + 0 * u, ~broken & decided
        everything = self._form.curved == u.shape[1]
        part = u if everything else u[:, solver.free]
        x, w, accepted = PolytopeArgmax.apply(part, t.detach()[:, None], right, bounds, solver, elements)  # type: ignore[misc]
        if self._parametric is not None and dependent is not None:
            accepted = accepted & ~broken & ~self._parametric.inconsistent(w, dependent.detach())
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
        self._start = None if form.start is None else tensor(form.start)
        self.safe = torch.full((form.curved,), 0.5, dtype=torch.float64, device=device)
        weights = regularizer.flat_weights(shape).to(device)[self.free]
        self.weights = weights if regularizer.weights is not None else weights[:1]
        self.regularizer, self._curved, self._columns = regularizer, form.curved, form.lower.size
        self._fixed_sum = form.fixed_sum
        self._interior = InteriorPoint(form, regularizer, device)
        self.rows = self._interior.rows
        self._polish = Polish(self.rows, self._interior.barriers, regularizer, form.curved)

    def solve(
        self, u: torch.Tensor, t: torch.Tensor, right: torch.Tensor, bounds: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Columns, the sides they are fixed at, and which elements are right. In chunks that fit into memory."""
        chunk = max(1, int(_MEMORY / (right.shape[1] * min(right.shape[1], 100) + bounds.shape[2])))
        parts = [self._solve(*part) for part in zip(*(x.split(chunk) for x in (u, t, right, bounds)), strict=True)]
        w, side, accepted = (torch.cat(columns) for columns in zip(*parts, strict=True))
        return w, side, accepted

    def _solve(
        self, u: torch.Tensor, t: torch.Tensor, right: torch.Tensor, bounds: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        centred = u - u.mean(1, keepdim=True) if self._fixed_sum else u
        scale = torch.maximum(centred.abs().amax(1, keepdim=True), t * self.weights.amin())
        linear = torch.nn.functional.pad(centred / scale, (0, self._columns - self._curved))
        temperature = (t / scale * self.weights).expand(-1, self._curved)
        ends = self._interior.barriers.ends(bounds)
        room = bounds[:, 1] - bounds[:, 0]
        pinned = (room <= _NO_ROOM * (1 + bounds[:, 0].abs())) & torch.isfinite(room)
        start = start_between(bounds) if self._start is None else self._start.expand(len(u), -1)
        b = self._interior.barriers
        if self._interior.may_pin and b.count:  # pinned columns do not move: their barriers keep a distance of 1
            ends = torch.where(pinned[:, b.column], b.along(start) - 1, ends)
        problem = Problem(linear, temperature, right, bounds, ends, t / scale * self.weights.amin(), pinned)
        near, converged = self._interior.solve(problem, start)
        solution = self._polish(problem, near)
        return solution.w, solution.side, solution.accepted & converged & torch.isfinite(solution.w).all(1)
