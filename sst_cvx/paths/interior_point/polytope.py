"""The walk: from a structure and a regularizer to X_t(u) and its derivative.

standard_form   the hull as { w : M w = r, lower <= w <= upper }; sides: r and bounds at parameters
model           that, and f, on one device; problem: a batch in its units
interior        a solution to the root of machine precision
polish          ... and to rounding, on the active set
derivative      of the KKT system of that active set
logarithms      of entropies, with relative accuracy: Newton's method in a tableau
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch

from sst_cvx import native
from sst_cvx.errors import Elements
from sst_cvx.once import CVXPY_LOCK, constants
from sst_cvx.paths.interior_point import interior, tolerances
from sst_cvx.paths.interior_point.batched import BatchedRows
from sst_cvx.paths.interior_point.closing import probe, reopened
from sst_cvx.paths.interior_point.derivative import Cotangents, differentiate
from sst_cvx.paths.interior_point.linear_algebra import LinearAlgebra
from sst_cvx.paths.interior_point.logarithms import logarithms_at
from sst_cvx.paths.interior_point.model import Model
from sst_cvx.paths.interior_point.native import answers
from sst_cvx.paths.interior_point.polish import polish
from sst_cvx.paths.interior_point.problem import Solution
from sst_cvx.paths.interior_point.relative import LiftedRows
from sst_cvx.paths.interior_point.sparse import prefers_sparse
from sst_cvx.paths.interior_point.standard_form import StandardForm, form_without_parameters
from sst_cvx.paths.interior_point.varying import NoSecond, parametric_rows
from sst_cvx.paths.iterations import count, counting
from sst_cvx.regularizers import SeparableRegularizer
from sst_cvx.structure.base import Structure

_ANYWHERE = 0.5  # a coordinate at which derivatives of f are numbers


class Polytope:
    """X_t(u) for flat batches ``(batch, size)`` in float64, on the device of the utilities.

    Raises:
        Refused: equalities that depend on others, with parameters that multiply variables.
        ValueError: the hull has no point within the regularizer's domain.
    """

    def __init__(self, structure: Structure, regularizer: SeparableRegularizer):
        hull, domain = structure.declared_hull, regularizer.domain
        with constants():
            if structure.parameters and hull.affine is None:
                self.form = StandardForm.of_varying_rows(*parametric_rows(hull.canonical), domain)
            elif structure.parameters:
                self.form = StandardForm.of_rows(hull.affine, domain)
            else:
                self.form = form_without_parameters(hull, domain)
        self._regularizer, self._shape = regularizer, structure.event_shape
        self._models: dict[torch.device, Model] = {}

    @property
    def too_large(self) -> str:
        """Why a dense factorisation is out of the question; empty if it is not."""
        size, most = self.form.rows, tolerances.MOST_ROWS
        if size <= most or prefers_sparse(self.form):
            return ""
        return f"the hull has {size} rows, more than the {most} that the interior-point path factorises"

    @property
    def varies(self) -> bool:
        """Whether parameters multiply variables."""
        return self.form.varying is not None

    def theta(self, values: dict[str, torch.Tensor]) -> torch.Tensor:
        """Parameters ``(batch, *shape)`` by name, as ``(batch, count)``."""
        return self.form.source.theta(values)

    @property
    def how(self) -> str:
        """What is particular, in words."""
        return "" if not self.varies else "parameters multiply variables: a matrix of each element its own"

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

        Differentiable in u (twice) and the parameters (twice, if they multiply nothing); in t through u, since X
        depends on u / t alone.
        """
        model = self._model(u.device)
        sides = model.side_values(values, len(u))
        if not model.event_columns:  # auxiliary columns of a hull with parameters are the layer's to decide
            return sides.event + 0 * u, ~sides.broken & (not model.moves or not self.form.rows)
        everything = model.event_columns == u.shape[1]
        part, right, core = u if everything else u[:, model.free], sides.right, None
        if model.varying is not None:
            core, scale = model.varying.at(model.sides.theta(values))
            right = right * scale
        x, w, accepted = _SoftArgmax.apply(part, t.detach()[:, None], right, sides.bounds, core, model, elements)  # type: ignore[misc]
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
    """x(u, right sides, bounds, M), with all columns w and which elements are right; others have no gradient here. M is
    None where it is no function of parameters."""

    @staticmethod
    def forward(
        ctx: Any,
        u: torch.Tensor,
        t: torch.Tensor,
        right: torch.Tensor,
        bounds: torch.Tensor,
        core: torch.Tensor | None,
        model: Model,
        elements: Elements,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        solution = solve(model, u, t, right, bounds, model.rows_of(core))
        x = solution.w[:, : model.event_columns].clone()
        ctx.model, ctx.elements = model, elements
        ctx.save_for_backward(x, t, *(getattr(solution, f.name) for f in fields(Solution)), u, right, bounds, core)
        ctx.mark_non_differentiable(solution.w, solution.accepted)
        return x, solution.w, solution.accepted

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> Any:
        x, t, w, y, side, accepted, *given = ctx.saved_tensors
        needs, model = ctx.needs_input_grad, ctx.model
        tables = model.tables(len(x))
        simple = not torch.is_grad_enabled() and not any(needs[2:5])
        if tables is not None and simple and all(map(native.serves, (x, cotangents[0]))):
            g = answers.pullback(tables, model.f, x, t, side, accepted, cotangents[0], given[3])
            if g is not None:
                return g, *[None] * 6
        there = accepted[:, None]  # of others, every column is fixed: no gradient
        x, side, v = (torch.where(there, a, b) for a, b in ((x, _ANYWHERE), (side, -1.0), (cotangents[0], 0.0)))
        u, right, bounds, core = (None if part is None else part.detach() for part in given)
        rows = model.rows_of(core)
        found = _derivative(model, rows, (x, t, v), Solution(w, y, side, accepted), (u, right, bounds), ctx)
        if core is not None and torch.is_grad_enabled():
            nothing = NoSecond.apply(*(part for part in given if part.requires_grad))
            found = [None if g is None else g + nothing for g in found]
        return *(g if need else None for g, need in zip(found, needs, strict=False)), None, None


def _derivative(
    model: Model, rows: LinearAlgebra, at: tuple[torch.Tensor, ...], solution: Solution, sides: Any, ctx: Any
) -> list[torch.Tensor | None]:
    """Cotangents of u, t (none), right sides, bounds and M.

    Args:
        at: x, t and the cotangent of x.
        sides: u, right sides and bounds.
    """
    (x, t, v), elements, needs = at, ctx.elements, ctx.needs_input_grad
    if not any(needs[2:5]):
        return [differentiate(model, x, t, solution.side, v, elements, rows=rows).u, None, None, None, None]
    found = differentiate(model, x, t, solution.side, v, elements, probe(model, rows, solution.side), rows)
    parts = _of_parameters(model, found, solution, sides[0], t, needs[4])
    closed = torch.nonzero(solution.accepted & ~found.reached).flatten()
    if closed.numel():
        u, right, bounds = (part[closed] for part in sides)
        near = reopened(
            solve, model, rows[closed], solution.w[closed], solution.side[closed], u, t[closed], right, bounds
        )
        message = (
            "the gradient by the hull's parameters has no value for {elements}: the parameters are at the end of their "
            "range, and no solution was found nearby. Move them a little."
        )
        names = elements.take(closed)
        (v,) = names.refuse(~near.accepted, message, v[closed])
        x = near.w[:, : model.event_columns] + (x - x.detach())[closed]
        nearby = differentiate(model, x, t[closed], near.side, v, names, None, rows[closed])
        others = _of_parameters(model, nearby, near, u, t[closed], needs[4])
        parts = [
            p if p is None or q is None else p.index_copy(0, closed, q) for p, q in zip(parts, others, strict=True)
        ]
    return [found.u, None, *parts]


def _of_parameters(
    model: Model, found: Cotangents, solution: Solution, u: torch.Tensor, t: torch.Tensor, varies: bool
) -> list[torch.Tensor | None]:
    """Cotangents of right sides, bounds and M."""
    if not varies:
        return [found.right, found.bounds, None]
    there = solution.accepted[:, None]
    w, y = torch.where(there, solution.w, 0.0), torch.where(there, solution.y * model.unit(u, t), 0.0)
    return [found.right, found.bounds, found.matrix(w, y)]


def solve(
    model: Model,
    u: torch.Tensor,
    t: torch.Tensor,
    right: torch.Tensor,
    bounds: torch.Tensor,
    matrix: LinearAlgebra,
) -> Solution:
    """Interior point, then polish: by compiled loops, and by tensors where these do not serve or give up.

    Args:
        u: utilities of the event columns, ``(batch, event_columns)``.
        t: temperatures, ``(batch, 1)``.
        right, bounds: ``(batch, rows)`` and ``(batch, 2, columns)``.
        matrix: M.
    """
    batch, tables = (u, t, right, bounds), model.tables(len(u))
    if tables is None or not all(map(native.serves, batch)):
        return _by_tensors(model, *batch, matrix)
    solution, steps = answers.solve(tables, *batch, matrix.core if isinstance(matrix, BatchedRows) else None)
    if not bool(solution.accepted.all()):
        left = torch.nonzero(~solution.accepted).flatten()
        more = torch.zeros_like(left)
        with counting(more, None):
            solution.put(left, _by_tensors(model, *(part[left] for part in batch), matrix[left]))
        steps[left] += more
    count(steps)
    return solution


def _by_tensors(model: Model, *batch: Any) -> Solution:
    """As ``solve``, in chunks that fit into memory."""
    (*parts, matrix), rows, columns = batch, batch[2].shape[1], batch[3].shape[2]
    entries = rows * min(rows, 100) + columns + (0 if model.varying is None else rows * columns)
    chunk = max(1, int(tolerances.CHUNK / entries))
    chunks = zip(*(part.split(chunk) for part in parts), strict=True)
    return Solution.joined([_solve(model, *part, matrix[i * chunk : (i + 1) * chunk]) for i, part in enumerate(chunks)])


def _solve(model: Model, *batch: Any) -> Solution:
    problem, start = model.problem(*batch)
    near, converged = interior.solve(model, problem, start)
    solution = polish(model, problem, near)
    solution.accepted &= converged & torch.isfinite(solution.w).all(1)
    return solution
