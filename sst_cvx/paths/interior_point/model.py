"""The typed object that every step of the walk reads."""

from __future__ import annotations

import numpy as np
import torch

from sst_cvx.paths.interior_point import tolerances
from sst_cvx.paths.interior_point.barriers import Barriers
from sst_cvx.paths.interior_point.batched import BatchedRows
from sst_cvx.paths.interior_point.center import between
from sst_cvx.paths.interior_point.dense import DenseRows
from sst_cvx.paths.interior_point.linear_algebra import LinearAlgebra
from sst_cvx.paths.interior_point.native.tables import Tables, served
from sst_cvx.paths.interior_point.problem import Problem
from sst_cvx.paths.interior_point.sides import SideValues
from sst_cvx.paths.interior_point.sparse import SparseRows, prefers_sparse
from sst_cvx.paths.interior_point.standard_form import StandardForm
from sst_cvx.paths.interior_point.varying import VaryingMatrix
from sst_cvx.regularizers import Euclidean, SeparableRegularizer


class Model:
    """min t f(x) - <u, x> over a hull in standard form, on one device: what all elements of all batches share.

    Attributes:
        f: the regularizer; its weights are part of the temperature here.
        weights: those of the event columns, ``(event_columns,)``, or ``(1,)``.
        varying: M as a function of the parameters, if it is.
        barriers: bounds with a barrier.
        sides: right sides and bounds as functions of the hull's parameters.
        free: places of the event columns in the flat event; event_columns: how many.
        columns: of M; has_auxiliary: whether some are neither event columns nor slacks.
        moves: whether bounds depend on parameters, so that columns may be pinned.
        moving_rows, moving_bounds: which right sides ``(rows,)`` and bounds ``(2, columns)`` depend on parameters.
        amounts: positive numbers of rows and columns, all different.
        steep: whether phi' is infinite at an end of the domain; steep_everywhere: at both.
        inverts: whether phi' can be inverted (and is not linear).
        tolerance: gap over t at which an element has arrived.
    """

    def __init__(
        self, form: StandardForm, regularizer: SeparableRegularizer, shape: tuple[int, ...], device: torch.device
    ):
        def tensor(array: np.ndarray) -> torch.Tensor:
            return torch.as_tensor(array, device=device)

        self.f = regularizer
        self.varying = None if form.varying is None else VaryingMatrix(*form.varying, device)
        self._rows: LinearAlgebra | None = None
        self._equalities = form.equalities
        if self.varying is None:
            self._rows = SparseRows(form, device) if prefers_sparse(form) else DenseRows(form, device)
        self.barriers, self.sides = Barriers(form, regularizer, device), form.sides(device)
        self.free, self.event_columns, self.columns = tensor(form.layout.free), form.event_columns, form.columns
        self.has_auxiliary, self.moves = form.auxiliary > 0, form.start is None
        self.moving_bounds = tensor(np.isnan(form.ends))
        self.moving_rows = self.sides.at(self.sides.unknown()).right[0].isnan()
        if form.varying_rows is not None:
            self.moving_rows = self.moving_rows | tensor(form.varying_rows)
        self.amounts = tensor(1 + np.random.default_rng(0).random(form.rows + form.columns))
        weights = regularizer.flat_weights(shape).to(device)[self.free]
        self.weights = weights if regularizer.weights is not None else weights[:1]
        inverts = type(regularizer).inverse_slope is not SeparableRegularizer.inverse_slope
        self.steep, self.steep_everywhere = any(regularizer.steep), inverts and all(regularizer.steep)
        self.inverts = inverts and not isinstance(regularizer, Euclidean)
        self.tolerance = _tolerance(regularizer, self.steep and self.has_auxiliary)
        self._fixed_sum = form.fixed_sum
        self._start = None if form.start is None else tensor(form.start)
        self._constant = None if self.moves else self.sides.at(self.sides.unknown())
        loops = device.type == "cpu" and isinstance(self._rows, DenseRows | None) and served(form, regularizer)
        self._tables = Tables(form, self) if loops else None

    @property
    def rows(self) -> LinearAlgebra:
        """M, and linear algebra with it; only where it is one for all elements."""
        if self._rows is None:
            raise RuntimeError(
                "parameters multiply variables of this hull: each element has an M of its own, Problem.rows."
            )
        return self._rows

    def rows_of(self, core: torch.Tensor | None) -> LinearAlgebra:
        """The same, with matrices without slacks ``(batch, rows, columns)`` if M is a function of parameters."""
        return self.rows if core is None else BatchedRows(core, self._equalities)

    def tables(self, batch: int) -> Tables | None:
        """What compiled loops read, where these are the faster way for so many elements."""
        return self._tables if self._tables is not None and self._tables.serve(batch) else None

    def unit(self, u: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Of utilities, temperatures and multipliers in a ``Problem``, ``(batch, 1)``."""
        centred = u - u.mean(1, keepdim=True) if self._fixed_sum else u
        return torch.maximum(centred.abs().amax(1, keepdim=True), t * self.weights.amin())

    def side_values(self, values: dict[str, torch.Tensor], batch: int) -> SideValues:
        """Right sides and bounds at parameters ``(batch, *shape)``: differentiable, twice."""
        return self.sides.at(self.sides.theta(values)) if self._constant is None else self._constant.expand(batch)

    def problem(
        self, u: torch.Tensor, t: torch.Tensor, right: torch.Tensor, bounds: torch.Tensor, rows: LinearAlgebra
    ) -> tuple[Problem, torch.Tensor]:
        """Utilities ``(batch, event_columns)`` centred and scaled to a range of order 1; and a point to start from."""
        centred = u - u.mean(1, keepdim=True) if self._fixed_sum else u
        coldest = self.weights.amin()
        scale = torch.maximum(centred.abs().amax(1, keepdim=True), t * coldest)
        linear = torch.nn.functional.pad(centred / scale, (0, self.columns - self.event_columns))
        temperature = (t / scale * self.weights).expand(-1, self.event_columns)
        start = between(bounds) if self._start is None else self._start.expand(len(u), -1)
        room, ends = bounds[:, 1] - bounds[:, 0], self.barriers.ends(bounds)
        pinned = (room <= tolerances.NO_ROOM * (1 + bounds[:, 0].abs())) & torch.isfinite(room)
        if self.moves and self.barriers.count:  # pinned columns do not move: their barriers keep a distance of 1
            ends = torch.where(pinned[:, self.barriers.column], self.barriers.along(start) - 1, ends)
        return Problem(linear, temperature, right, bounds, ends, t / scale * coldest, pinned, rows), start

    def beyond_start(self, w: torch.Tensor) -> torch.Tensor:
        """Columns counted from a point of the hull, where one is known: far from 0 they say nothing of its size."""
        return w if self._start is None else w - self._start

    def shorter_step(
        self, x: torch.Tensor, dx: torch.Tensor, slope: torch.Tensor, curvature: torch.Tensor
    ) -> torch.Tensor:
        """x moved by the shorter of the Newton steps in x and in phi'(x), which have the same sign."""
        straight, curved = x + dx, self.f.inverse_slope(slope + curvature * dx)
        return torch.where(dx < 0, torch.maximum(straight, curved), torch.minimum(straight, curved))


def _tolerance(f: SeparableRegularizer, vague: bool) -> float:
    """Gap over t at which an element has arrived; ``vague``: entropies with auxiliary columns."""
    if isinstance(f, Euclidean):
        return tolerances.LOOSE
    return tolerances.TIGHTER if vague else tolerances.TIGHT
