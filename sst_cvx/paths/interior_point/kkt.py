"""The KKT system of the active set: Newton steps to a solution, and its derivative.

With the active bounds fixed, t f(x) - <u, x> over M w = r has the optimality conditions

    t f'(x) + M' y = u   (free columns),     M w = r,

and their linearisation at the solution is both the Newton step and, by the implicit function theorem, the derivative:

    [ H  M' ] [ dw ]   [ du ]
    [ M  0  ] [ dy ] = [ dr ],    H = diag(t f''(x)) on event columns, 0 on auxiliary columns and slacks,

restricted to free columns. It is solved by the Schur complement with a small curvature added where H has none and a
floor under its diagonal, and iterative refinement takes both out again: proximal steps, that converge for any
consistent system, dependent active rows (tree polytopes, vertices) included.
"""

from __future__ import annotations

import torch

from sst_cvx.paths.interior_point import tolerances
from sst_cvx.paths.interior_point.linear_algebra import LinearAlgebra


class ActiveSystem:
    """The linearised KKT system of a batch, with its factor.

    Args:
        rows: M.
        inverse_curvature: 1 / (t f'') of the event columns, ``(batch, event_columns)``.
        t: temperature, ``(batch, 1)``.
        free: columns that are not at a bound, ``(batch, columns)``.
    """

    def __init__(self, rows: LinearAlgebra, inverse_curvature: torch.Tensor, t: torch.Tensor, free: torch.Tensor):
        events, structural = inverse_curvature.shape[1], free.shape[1] - rows.slacks
        self._rows, self._events = rows, events
        d = torch.full_like(free, tolerances.FREE_SLACK, dtype=torch.float64)
        d[:, :events] = inverse_curvature
        d[:, events:structural] = 1 / (tolerances.PROXIMAL_ACTIVE * t)
        self._d = torch.where(free, d, 0.0)
        self._free = self._d > 0
        self._proximal = torch.where(self._free, 1 / self._d, 0.0)
        self._proximal[:, :events] = 0.0
        self._factor = rows.factor_active(self._d, t)

    def solve(
        self, p: torch.Tensor, q: torch.Tensor, unit: torch.Tensor, refinements: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """dw, dy for right sides p ``(batch, columns)``, q ``(batch, rows)``; and the error left, ``(batch,)``.

        Entries of p at active columns do not count. The error is relative to the larger of ``unit`` and dw.
        """
        p = torch.where(self._free, p, 0.0)
        ahead, dy = self._factor.solve(p, q)
        dw, size = ahead, torch.maximum(ahead.abs().amax(1), unit).clamp(min=1e-200)
        for _ in range(refinements):
            # Event columns satisfy their equations for any dy; of others, the last step's added curvature is left.
            ahead, dy_ahead = self._factor.solve(self._proximal * ahead, self._rows.residual(q, dw))
            dw, dy = dw + ahead, dy + dy_ahead
            error = ahead.abs().amax(1) / size
            if bool((error <= tolerances.EXACT).all()):
                break
        return dw, dy, error

    def solve_surely(
        self, p: torch.Tensor, q: torch.Tensor, unit: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As ``solve``, with a dense least-squares solution for elements whose refinement does not converge."""
        dw, dy, error = self.solve(p, q, unit, tolerances.REFINEMENTS)
        for i in torch.nonzero(~(error <= tolerances.RESCUED)).flatten().tolist():
            dw[i], dy[i], error[i] = self._least_squares(i, p[i], q[i], unit[i])
        return dw, dy, error

    def reaches(self, q: torch.Tensor) -> torch.Tensor:
        """Whether free columns can take up right sides q ``(batch, rows)``, ``(batch,)``."""
        if not q.shape[1]:
            return torch.ones(len(q), dtype=torch.bool, device=q.device)
        zero = torch.zeros_like(self._d)
        dw = zero
        size = q.abs().amax(1, keepdim=True).clamp(min=1e-200)
        for _ in range(tolerances.NEWTON_REFINEMENTS):
            left = self._rows.residual(q, dw)
            reached = (left.abs() <= tolerances.REACHED * size).all(1)
            if bool(reached.all()):
                break
            ahead, _ = self._factor.solve(zero, left)
            dw = dw + ahead
        return reached

    def _least_squares(
        self, i: int, p: torch.Tensor, q: torch.Tensor, unit: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """In v = D^(-1/2) dw, the matrix [[I or 0, (M D^(1/2))'], [M D^(1/2), 0]]; its event part is unique."""
        free, rows = self._free[i], len(q)
        root = self._d[i][free].sqrt()
        columns = torch.eye(len(free), dtype=p.dtype, device=p.device)[free]
        scaled = self._rows[i].times(columns * root[:, None])  # (free, rows)
        event = torch.nonzero(free).flatten() < self._events
        matrix = torch.cat(
            [
                torch.cat([torch.diag(event.to(p.dtype)), scaled], 1),
                torch.cat([scaled.T, torch.zeros(rows, rows, dtype=p.dtype, device=p.device)], 1),
            ]
        )
        right = torch.cat([p[free] * root, q])
        solution = (torch.linalg.pinv(matrix, hermitian=True, rtol=tolerances.RANK) @ right[:, None])[:, 0]
        error = (matrix @ solution - right).abs().max() / (right.abs().max() + unit)
        dw = torch.zeros_like(p)
        dw[free] = root * solution[: len(root)]
        return dw, solution[len(root) :], error
