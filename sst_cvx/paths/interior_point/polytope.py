"""The walk: from a structure and a regularizer to X_t(u) and its derivative.

standard_form   the hull as { w : M w = r, lower <= w <= upper }; sides: r and bounds at parameters
model           that, and f, on one device; problem: a batch in its units
interior        a solution to the root of machine precision
polish          ... and to rounding, on the active set
derivative      of the KKT system of that active set
logarithms      of entropies, with relative accuracy: Newton's method in a tableau
"""

from __future__ import annotations

from typing import Any

import torch

from sst_cvx.errors import Elements
from sst_cvx.once import CVXPY_LOCK, constants
from sst_cvx.paths.interior_point import interior, tolerances
from sst_cvx.paths.interior_point.derivative import differentiate
from sst_cvx.paths.interior_point.logarithms import logarithms_at
from sst_cvx.paths.interior_point.model import Model
from sst_cvx.paths.interior_point.polish import polish
from sst_cvx.paths.interior_point.problem import Solution
from sst_cvx.paths.interior_point.relative import LiftedRows
from sst_cvx.paths.interior_point.sparse import prefers_sparse
from sst_cvx.paths.interior_point.standard_form import StandardForm
from sst_cvx.regularizers import SeparableRegularizer
from sst_cvx.structure.base import Structure

_ANYWHERE = 0.5  # a coordinate at which derivatives of f are numbers


class Polytope:
    """X_t(u) for flat batches ``(batch, size)`` in float64, on the device of the utilities.

    Raises:
        ValueError: the hull has no point within the regularizer's domain.
    """

    def __init__(self, structure: Structure, regularizer: SeparableRegularizer):
        hull, domain = structure.declared_hull, regularizer.domain
        with constants():
            if structure.parameters:
                assert hull.affine is not None  # what the path made sure of
                self.form = StandardForm.of_rows(hull.affine, domain)
            else:
                self.form = StandardForm.of_hull(hull.at(), domain)
        self._regularizer, self._shape = regularizer, structure.event_shape
        self._models: dict[torch.device, Model] = {}

    @property
    def too_large(self) -> str:
        """Why a dense factorisation is out of the question; empty if it is not."""
        size, most = self.form.rows, tolerances.MOST_ROWS
        if size <= most or prefers_sparse(self.form):
            return ""
        return f"the hull has {size} rows, more than the {most} that the interior-point path factorises"

    def _model(self, device: torch.device) -> Model:
        if device not in self._models:
            with CVXPY_LOCK, constants():
                if device not in self._models:  # no other thread was faster
                    self._models[device] = Model(self.form, self._regularizer, self._shape, device)
        return self._models[device]

    def __call__(
        self, u: torch.Tensor, t: torch.Tensor, values: dict[str, torch.Tensor], elements: Elements
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Points ``(batch, size)`` for utilities ``(batch, size)``, temperatures ``(batch,)`` and hull parameters
        ``(batch, *shape)``; and where they are right, ``(batch,)``. ``elements``: the rows' names for errors.

        Differentiable in u (twice) and the parameters; in t through u, since X depends on u / t alone.
        """
        model = self._model(u.device)
        sides = model.side_values(values, len(u))
        if not model.event_columns:  # auxiliary columns of a hull with parameters are the layer's to decide
            return sides.event + 0 * u, ~sides.broken & (not model.moves or not self.form.rows)
        everything = model.event_columns == u.shape[1]
        part = u if everything else u[:, model.free]
        x, w, accepted = _SoftArgmax.apply(part, t.detach()[:, None], sides.right, sides.bounds, model, elements)  # type: ignore[misc]
        if model.moves:
            accepted = accepted & ~sides.broken & ~model.sides.inconsistent(w, sides.dependent.detach())
        return x if everything else sides.event.index_copy(1, model.free, x), accepted

    def logarithms(
        self, u: torch.Tensor, t: torch.Tensor, values: dict[str, torch.Tensor], elements: Elements
    ) -> torch.Tensor:
        """log x for arguments as those of the call, and of an entropy; with relative accuracy, -inf where x is 0.

        Differentiable in u and the parameters, twice.

        Raises:
            SolveError: elements that did not converge.
        """
        model, rows = self._model(u.device), self._lifted(u.device)
        sides = model.side_values(values, len(u))
        good, fixed = ~sides.broken, sides.event.clamp(min=0.0).log().expand(u.shape)
        if model.event_columns:
            log_x, found = logarithms_at(model, rows, u[:, model.free], t[:, None], sides.right, sides.bounds)
            good, fixed = good & found, fixed.index_copy(1, model.free, log_x)
        message = "logarithms of the soft argmax did not settle for {elements}: raise the temperature."
        return elements.refuse(~good, message, fixed)[0]

    def _lifted(self, device: torch.device) -> LiftedRows:
        """Of this device; not kept, for it is cheap beside what it is for."""
        rows = LiftedRows(self.form, self._regularizer, device)
        size = rows.matrix.shape[0] * sum(rows.matrix.shape)
        if size > tolerances.LARGEST_TABLEAU:
            raise NotImplementedError(
                f"logarithms need a tableau of {size:,} numbers here, more than {tolerances.LARGEST_TABLEAU:,}: "
                "use a structure with a fast path."
            )
        return rows


class _SoftArgmax(torch.autograd.Function):
    """x(u, right sides, bounds), with all columns w and which elements are right; others have no gradient here."""

    @staticmethod
    def forward(
        ctx: Any,
        u: torch.Tensor,
        t: torch.Tensor,
        right: torch.Tensor,
        bounds: torch.Tensor,
        model: Model,
        elements: Elements,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        solution = solve(model, u, t, right, bounds)
        x = solution.w[:, : model.event_columns].clone()
        ctx.model, ctx.elements = model, elements
        ctx.save_for_backward(x, t, solution.side, solution.accepted)
        ctx.mark_non_differentiable(solution.w, solution.accepted)
        return x, solution.w, solution.accepted

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> Any:
        x, t, side, accepted = ctx.saved_tensors
        right = accepted[:, None]  # of others, every column is fixed: no gradient
        x, side, v = (torch.where(right, a, b) for a, b in ((x, _ANYWHERE), (side, -1.0), (cotangents[0], 0.0)))
        found = differentiate(ctx.model, x, t, side, v, ctx.elements)
        needs = ctx.needs_input_grad
        return found.u, None, found.right if needs[2] else None, found.bounds if needs[3] else None, None, None


def solve(model: Model, u: torch.Tensor, t: torch.Tensor, right: torch.Tensor, bounds: torch.Tensor) -> Solution:
    """Interior point, then polish, in chunks that fit into memory.

    Args:
        u: utilities of the event columns, ``(batch, event_columns)``.
        t: temperatures, ``(batch, 1)``.
        right, bounds: ``(batch, rows)`` and ``(batch, 2, columns)``.
    """
    rows, columns = right.shape[1], bounds.shape[2]
    chunk = max(1, int(tolerances.CHUNK / (rows * min(rows, 100) + columns)))
    chunks = zip(*(part.split(chunk) for part in (u, t, right, bounds)), strict=True)
    return Solution.joined([_solve(model, *part) for part in chunks])


def _solve(model: Model, *batch: torch.Tensor) -> Solution:
    problem, start = model.problem(*batch)
    near, converged = interior.solve(model, problem, start)
    solution = polish(model, problem, near)
    solution.accepted &= converged & torch.isfinite(solution.w).all(1)
    return solution
