"""Newton systems of large extended formulations: batched sparse elimination, as planned in ``elimination``.

Every step is one tensor operation on all elements of the batch, which is the last dimension here.
"""

from __future__ import annotations

import torch

from sst_cvx.paths.interior_point import tolerances
from sst_cvx.paths.interior_point.elimination import Plan
from sst_cvx.paths.interior_point.matrix import sparse_tensor
from sst_cvx.paths.interior_point.standard_form import StandardForm


class SparseFactor:
    """The factorised system for d ``(batch, columns)`` and a floor ``(batch, 1)`` under S."""

    def __init__(self, rows: SparseRows, d: torch.Tensor, floor: torch.Tensor | float):
        plan = rows.plan
        self._rows, self._plan, self._d = rows, plan, d
        batch, events = len(d), plan.events
        values = d.new_zeros(plan.size, batch)
        values[-1] = -1.0
        values[plan.constant_slots] = plan.constants
        values[plan.x_diagonal] = d[:, :events].T.reciprocal().clamp(max=tolerances.LARGEST_RECIPROCAL)
        if plan.products is not None:
            values[plan.product_slots] = -(plan.products @ d[:, events:].T.contiguous())
        values[plan.row_diagonal] -= floor.T if isinstance(floor, torch.Tensor) else floor
        self._levels = []
        for level in plan.levels:
            inverse = values[level.diagonal].reciprocal()
            scaled = values[level.pair_slot] * inverse[level.pair_pivot]
            update = values[level.left] * values[level.right] * inverse[level.owner]
            values.index_add_(0, level.target, update, alpha=-1)
            self._levels.append((inverse, scaled))
        blocks, coupling = (
            values[slots].movedim(-1, 0).contiguous() for slots in (plan.block_slots, plan.coupling_slots)
        )
        matrix = values[plan.x_slots].movedim(-1, 0)
        if blocks.shape[1]:
            self._blocks = torch.linalg.cholesky_ex(-blocks)[0]
            self._coupling = coupling
            spread = torch.linalg.solve_triangular(self._blocks, coupling, upper=False).reshape(batch, -1, events)
            matrix = matrix + spread.mT @ spread
        self._x = torch.linalg.cholesky_ex(matrix)[0]
        if plan.outer.size:
            self._spread = torch.cholesky_solve(plan.outer_matrix.T.expand(batch, -1, -1), self._x)
            matrix = plan.outer_matrix @ self._spread
            matrix.diagonal(dim1=1, dim2=2).add_(floor)
            self._outer = torch.linalg.cholesky_ex(matrix)[0]

    def solve(self, p: torch.Tensor, q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """dw and dy for right sides p ``(batch, columns)`` and q ``(batch, rows)``."""
        plan, events = self._plan, self._plan.events
        d_other = self._d[:, events:]
        rows = q.T - plan.others @ (d_other * p[:, events:]).T.contiguous()
        nodes = torch.cat([p[:, :events].T, rows, torch.zeros_like(rows[:1])])
        for level, (_, scaled) in zip(plan.levels, self._levels, strict=True):
            nodes.index_add_(0, level.pair_node, scaled * nodes[level.pivots][level.pair_pivot], alpha=-1)
        x = nodes[:events].T
        if plan.block_rows.numel():
            right = nodes[plan.block_rows].movedim(-1, 0).contiguous()[..., None]
            solved = torch.cholesky_solve(right, self._blocks)
            x = x + (self._coupling.mT @ solved)[..., 0].sum(1)
        x = torch.cholesky_solve(x[..., None].contiguous(), self._x)
        if plan.outer.size:
            y = torch.cholesky_solve(plan.outer_matrix @ x - q[:, plan.outer_rows, None], self._outer)
            x = x - self._spread @ y
            nodes[plan.events + plan.outer_rows] = y[..., 0].T
        nodes[:events] = x[..., 0].T
        if plan.block_rows.numel():
            y = torch.cholesky_solve(self._coupling @ x[:, None] - right, self._blocks)
            nodes[plan.block_rows] = y[..., 0].movedim(0, -1)
        for level, (inverse, scaled) in zip(reversed(plan.levels), reversed(self._levels), strict=True):
            nodes[level.pivots] *= inverse
            nodes.index_add_(0, level.pivots[level.pair_pivot], scaled * nodes[level.pair_node], alpha=-1)
        dy = nodes[events:-1].T.contiguous()
        # Not the x of the elimination: this one satisfies its equations for any dy, so refinement sees all errors.
        return self._d * self._rows.dual_residual(p, dy), dy


def prefers_sparse(form: StandardForm) -> bool:
    """Whether sparse elimination is the faster linear algebra for a hull: a large, thin extended formulation."""
    few = form.matrix.nnz <= tolerances.SPARSE_ENTRIES * form.rows * form.columns
    return form.auxiliary > 0 and form.rows >= tolerances.SPARSE_ROWS and few


class SparseRows:
    """M as sparse tensors on one device, with the interface of ``dense.DenseRows``."""

    def __init__(self, form: StandardForm, device: torch.device):
        self.plan = Plan(form, device)
        self._matrix, self._transposed = sparse_tensor(form.matrix, device), sparse_tensor(form.matrix.T, device)
        self.equalities, self.slacks = form.equalities, form.slacks

    def __getitem__(self, index: object) -> SparseRows:
        """Of some elements: shared by all."""
        return self

    def times(self, w: torch.Tensor) -> torch.Tensor:
        """M w, ``(batch, rows)``."""
        return (self._matrix @ w.T.contiguous()).T.contiguous()

    def transposed(self, y: torch.Tensor) -> torch.Tensor:
        """M' y, ``(batch, columns)``."""
        return (self._transposed @ y.T.contiguous()).T.contiguous()

    def residual(self, right: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """right - M w, ``(batch, rows)``."""
        return right - self.times(w)

    def dual_residual(self, linear: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """linear - M' y, ``(batch, columns)``."""
        return linear - self.transposed(y)

    def factor(self, d: torch.Tensor) -> SparseFactor:
        """Factorise for d ``(batch, columns)``, all positive and finite.

        Without x, rows are almost dependent once bounds become active, and the elimination would break down: d is
        capped, which only dampens steps of auxiliary columns, and there is a floor, for refinement to take out.
        """
        events = self.plan.events
        others = d[:, events:].clamp(max=tolerances.LARGEST_INVERSE_CURVATURE)
        return SparseFactor(self, torch.cat([d[:, :events], others], 1), tolerances.FLOOR_INTERIOR)

    def factor_active(self, d: torch.Tensor, t: torch.Tensor) -> SparseFactor:
        """Factorise where d has zeros (fixed columns) and 1e20 (free slacks), regularised for temperatures t."""
        return SparseFactor(self, d, tolerances.FLOOR_SPARSE / t)
