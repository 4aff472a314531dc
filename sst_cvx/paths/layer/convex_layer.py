"""Hull + regularizer -> one DPP problem -> one CvxpyLayer: the reference, and the way for any cone."""

from __future__ import annotations

from operator import eq, le
from typing import Any

import cvxpy as cp
import numpy as np
import torch
from cvxpylayers.interfaces.base import SolverInterface
from cvxpylayers.torch.cvxpylayer import CvxpyLayer

from sst_cvx.errors import SolveError
from sst_cvx.hull.presolve import presolve
from sst_cvx.hull.violation import ViolationOfLinearHull, violation_by_cvxpy
from sst_cvx.paths.layer.diffcp_engine import DiffcpSolver
from sst_cvx.paths.layer.moreau_engine import MoreauSolver
from sst_cvx.regularizers import Regularizer, SeparableRegularizer
from sst_cvx.structure.base import Structure

_RESOLUTION = 1e-6  # temperature over range of utilities below which a conic solver cannot see the regularizer
_SPREAD = 4.0  # utilities are scaled to this range: at 1, derivatives of entropies at t = 0.1 were off by 1, not 1e-4
_ENGINES = {"DIFFCP": DiffcpSolver, "MOREAU": MoreauSolver}


def make_solver(solver: Any, options: dict[str, Any] | None) -> Any:
    """The engine by name ("DIFFCP", the default, or "MOREAU"), or a cvxpylayers SolverInterface of one's own.

    DIFFCP is the default also where Moreau is installed: Moreau is 3 to 10 times faster, but at its tightest setting
    misses the 1e-6 that is promised at t = 1, and its gradients of entropies at t <= 0.3 are off by order 1. Ours, of
    diffcp's solutions refined, are right to 1e-14 and 1e-5 there (5-subsets of 20, ``python -m benchmarks``).
    """
    if isinstance(solver, SolverInterface):
        if options:
            raise ValueError("solver_options go with a solver's name; configure your SolverInterface itself.")
        return solver
    if solver is not None and (not isinstance(solver, str) or solver.upper() not in _ENGINES):
        raise ValueError(f"solver must be 'DIFFCP', 'MOREAU' or a cvxpylayers SolverInterface, got {solver!r}.")
    return _ENGINES[(solver or "DIFFCP").upper()](options)


class ConvexLayer:
    """argmax { <u, x> - t f(x) : x in hull } as a CvxpyLayer, for batches of one dimension, in float64 on the CPU.

    Deliberately not an ``nn.Module``: the compiled matrices are no part of a model's state.
    """

    def __init__(
        self,
        structure: Structure,
        regularizer: Regularizer,
        solver: Any = None,
        solver_options: dict[str, Any] | None = None,
    ):
        self._structure = structure
        self.solver = make_solver(solver, solver_options)
        program = degenerate_program(structure, regularizer)
        event, f, constraints = program or (structure.variable, *regularizer.program(structure))
        utilities = cp.Parameter(event.shape)
        temperature = cp.Parameter(nonneg=True)
        # t * f(x), not f(x) with u / t: valid DPP, and more accurate at low temperatures.
        objective = temperature * f - cp.sum(cp.multiply(utilities, event))
        problem = cp.Problem(cp.Minimize(objective), constraints)
        if not problem.is_dpp():
            raise ValueError(f"the problem with {regularizer!r} over {structure!r} is not DPP.")
        self._shape = tuple(event.shape)
        hull, known = structure.hull, {v.id for v in problem.variables()}
        self._auxiliary = [v for v in hull.auxiliary if v.id in known]
        self._layer = CvxpyLayer(
            problem,
            parameters=[utilities, temperature, *structure.parameters],
            variables=[event, *self._auxiliary],
            solver=self.solver,
        )
        # Some programs leave the hull's auxiliary variables out: then only rows without them are checked.
        self._complete = len(self._auxiliary) == len(hull.auxiliary)
        self._violation = None
        if hull.linear and not structure.parameters and (hull.observed or not self._complete):
            self._violation = ViolationOfLinearHull(hull.at(), event_only=not self._complete)
        self._modulus = regularizer.strong_convexity(structure)

    def __call__(
        self, u: torch.Tensor, t: torch.Tensor, parameters: dict[str, torch.Tensor], batch_shape: torch.Size
    ) -> torch.Tensor:
        """Utilities ``(batch, *event_shape)``, temperatures ``(batch,)``, hull parameters ``(batch, *shape)``.

        ``batch_shape`` is what ``batch`` was flattened from: errors of the backward name elements in it.

        Raises:
            SolveError: the engine failed, or its answer is outside the hull, or (in the backward) its gradient
                breaks what every gradient of a soft argmax obeys.
        """
        event_dims = [1] * (u.dim() - 1)
        entries = u.detach().reshape(len(u), -1)
        spread = entries.amax(1) - entries.amin(1)
        scale = torch.maximum(spread / _SPREAD, t.detach())
        too_cold = t.detach() < _RESOLUTION * scale
        if bool(too_cold.any()):
            raise SolveError(
                f"temperature is below {_RESOLUTION:g} of the utilities' range for {{elements}}: a conic "
                "solver cannot resolve the regularizer there. Raise the temperature, or use structure.argmax(u).",
                torch.nonzero(too_cold).flatten().tolist(),
            )
        guard = GradientGuard(self._modulus, t.detach(), batch_shape)
        # X depends on u and t through u / t only, so t's gradient comes from u's: better than the solver's own.
        u = guard.input(u * (t.detach() / t).reshape(-1, *event_dims))
        # The same problem in units that suit the solver's tolerances.
        scaled = (u / scale.reshape(-1, *event_dims)).reshape(len(u), *self._shape)
        x, *auxiliary = self._layer(scaled, t.detach() / scale, *parameters.values())
        x = x.reshape(u.shape)
        self._check_hull(x, auxiliary, parameters)
        return guard.output(x)

    def _check_hull(self, x: torch.Tensor, auxiliary: list[torch.Tensor], parameters: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            hull = self._structure.hull
            if self._violation is not None:
                flat = x.reshape(len(x), -1)
                violation = self._violation(hull.join(flat, auxiliary) if self._complete else flat).numpy()
            else:
                structure, known = self._structure, {v.id for v in (self._structure.variable, *self._auxiliary)}
                violation = violation_by_cvxpy(
                    [structure.variable, *self._auxiliary],
                    [c for c in structure.constraints if all(v.id in known for v in c.variables())],
                    structure.parameters,
                    [v.detach().numpy() for v in (x, *auxiliary)],
                    [p.detach().numpy() for p in parameters.values()],
                )
        check_violation(violation, 1e-6, f"the layer's solver ({type(self.solver).__name__})")


def degenerate_program(structure: Structure, regularizer: Regularizer) -> tuple[Any, Any, list[Any]] | None:
    """(event, f, constraints) with implicit equalities said aloud, for hulls that have some; else None.

    The event is then a vector, in row-major order.
    """
    if structure.parameters or not structure.hull.linear or not isinstance(regularizer, SeparableRegularizer):
        return None
    presolved = presolve(structure.hull.at(), regularizer.domain)
    if not presolved.degenerate:
        return None
    hull = presolved.hull
    fixed = hull.lower == hull.upper
    event_free = np.flatnonzero(~fixed[hull.event])
    free = hull.event[event_free]
    event = cp.Variable(hull.event.size)
    w: Any = event
    if hull.lower.size > event.size or not np.array_equal(hull.event, np.arange(event.size)):
        w = cp.Variable(hull.lower.size)
    constraints: list[Any] = [] if w is event else [event == w[hull.event]]
    equal = hull.row_lower == hull.row_upper
    below, above = (np.isfinite(ends) & ~fixed for ends in (hull.lower, hull.upper))
    for columns, relation, ends in ((fixed, eq, hull.lower), (above, le, hull.upper)):
        if columns.any():
            constraints.append(relation(w[np.flatnonzero(columns)], ends[columns]))
    if below.any():
        constraints.append(w[np.flatnonzero(below)] >= hull.lower[below])
    for rows, relation in ((equal, eq), (~equal, le)):
        if rows.any():
            constraints.append(relation(hull.rows[rows] @ w, hull.row_upper[rows]))
    # f of fixed coordinates is a constant, and entropies have no derivative at the edge of their domain.
    f = regularizer.expression_of(w, event_free, free, structure.event_shape) if free.size else cp.sum_squares(event)
    return event, f, constraints


def check_violation(violation: np.ndarray, tolerance: float, who: str) -> None:
    """Raise SolveError, naming flat batch elements, where a point is outside the hull (or not a number)."""
    outside = ~(violation <= tolerance)
    if outside.any():
        elements = np.flatnonzero(outside)
        worst = np.max(np.nan_to_num(violation, nan=np.inf))
        raise SolveError(
            f"{who} returned a point outside the hull (violation {worst:.1e}, tolerance {tolerance:g}) for "
            "{elements}. It is not returned.",
            elements.tolist(),
            [f"violation {violation[i]:.1e}" for i in elements],
        )


class GradientGuard:
    """Checks a computed vector-Jacobian product g = J v against co-coercivity: |t m g|^2 <= <v, t m g>.

    J = dX_t/du is symmetric positive semidefinite with norm at most 1 / (t m), m the modulus of strong convexity.
    Conic derivatives at low temperatures can be wrong by any factor; most wrong ones break this inequality.
    """

    tolerance = 1e-2  # relative to |v|^2

    def __init__(self, modulus: float, t: torch.Tensor, batch_shape: torch.Size):
        self._modulus, self._t, self._batch_shape = modulus, t, batch_shape
        self._cotangent: torch.Tensor | None = None

    def input(self, u: torch.Tensor) -> torch.Tensor:
        if u.requires_grad and torch.is_grad_enabled():
            u = u.view_as(u)
            u.register_hook(self._check)
        return u

    def output(self, x: torch.Tensor) -> torch.Tensor:
        if x.requires_grad:
            x.register_hook(self._keep)
        return x

    def _keep(self, cotangent: torch.Tensor | None) -> None:
        self._cotangent = None if cotangent is None else cotangent.detach()

    def _check(self, gradient: torch.Tensor | None) -> None:
        if self._cotangent is None or gradient is None:
            return
        v, g = (w.detach().reshape(len(w), -1) for w in (self._cotangent, gradient))
        self._cotangent = None  # a double backward may come here by another way, with another cotangent
        if self._modulus > 0:
            g = g * (self._t * self._modulus)[:, None]
            excess = (g * g).sum(1) - (v * g).sum(1)
        else:
            size, allowed = g.norm(dim=1, keepdim=True), v.norm(dim=1, keepdim=True)
            g = torch.where(self._t[:, None] * size > 1e-6 * allowed, g * (allowed / size), 0.0)  # else rounding errors
            excess = -(v * g).sum(1)
        wrong = ~(excess <= self.tolerance * (v * v).sum(1))
        if bool(wrong.any()):
            raise SolveError(
                "the gradient is wrong for {elements}: it breaks the bound |dX/du| <= 1/(t m). Conic "
                "derivatives lose accuracy near vertices: raise the temperature, use the default solver if you chose "
                "another, or a structure and regularizer with a fast path.",
                torch.nonzero(wrong).flatten().tolist(),
            ).in_batch(self._batch_shape)
