"""A hull declared in CVXPY: canonicalised once, when its numbers are first asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sst_cvx.errors import EmptySet, SolveError
from sst_cvx.hull.canonical import Canonical, canonicalise
from sst_cvx.hull.linear import AffineRows, LinearHull
from sst_cvx.hull.linear_oracle import LinearOracle
from sst_cvx.hull.violation import ViolationOfAffineRows, ViolationOfLinearHull, violation_by_cvxpy
from sst_cvx.once import computed_once, later, state_without_computed

if TYPE_CHECKING:
    import cvxpy as cp
    import scipy.sparse as sp
else:
    sp = later("scipy.sparse")

ParameterValues = dict[str, torch.Tensor]


class CompiledHull:
    """{ x : the constraints hold for some auxiliary variables }.

    Args:
        variable: the event.
        constraints: on it, auxiliary variables and parameters.
        parameters: those of the constraints.
    """

    #: Whether there is a hull at all: ``UnknownHull`` stands beside this class.
    known = True

    def __init__(self, variable: cp.Variable, constraints: list[Any], parameters: Sequence[cp.Parameter]):
        self.variable, self.constraints, self.parameters = variable, constraints, list(parameters)

    def __getstate__(self) -> dict[str, Any]:
        return state_without_computed(self)

    @computed_once
    def canonical(self) -> Canonical:
        """Raises ValueError if there are no constraints."""
        return canonicalise(self.variable, self.constraints, self.parameters)

    @property
    def linear(self) -> bool:
        """Whether it is a polyhedron."""
        return self.canonical.linear

    @property
    def nonlinearity(self) -> str:
        """Why it is not linear; empty if it is."""
        return "" if self.linear else "the hull has other cones than linear constraints"

    @property
    def auxiliary(self) -> list[cp.Variable]:
        """The user's variables besides the event."""
        return self.canonical.auxiliary

    @property
    def observed(self) -> bool:
        """Whether every column belongs to a variable that the user declared."""
        return self.canonical.observed

    def at(self, values: dict[str, np.ndarray] | None = None) -> LinearHull:
        """The hull at parameter values (by name). Only for linear hulls."""
        A, b = self.canonical.rows(self.canonical.theta(values or {}))
        return LinearHull.from_rows(A, b, self.canonical.dims.zero, self.canonical.event)

    @computed_once
    def affine(self) -> AffineRows | None:
        """Rows whose right sides alone depend on the parameters; None where parameters multiply variables, or have
        attributes (symmetric, diag, ...) that CVXPY turns into fewer entries."""
        if any(getattr(p, "_has_dim_reducing_attr", False) for p in self.parameters):
            return None
        c = self.canonical
        indices, indptr, shape = c.pattern
        split, constant = indptr[-2], c.matrix.shape[1] - 1  # type: ignore[index]
        data = c.matrix[:, [constant]].toarray().ravel()
        slopes = c.matrix[:, :constant]
        if slopes[:split].nnz:
            return None
        right = np.zeros(shape[0])
        right[indices[split:]] = data[split:]
        places = indices[split:], np.arange(len(indices) - split)
        spread = sp.csr_array((np.ones(len(places[1])), places), shape=(shape[0], len(places[1])))
        A = -sp.csc_array((data[:split], indices[:split], indptr[:-1]), shape=(shape[0], shape[1] - 1))
        sensitivity = sp.csr_array(spread @ slopes[split:])
        return AffineRows(sp.csr_array(A), right, sensitivity, c.dims.zero, c.event, c.parameter_places)

    def join(self, x: torch.Tensor, auxiliary: Sequence[torch.Tensor]) -> torch.Tensor:
        """Columns w of an observed hull from the event ``(batch, size)`` and auxiliary values ``(batch, *shape)``."""
        w = x.new_zeros(x.shape[0], self.canonical.columns)
        w[:, self.canonical.event] = x
        for columns, value in zip(self.canonical.auxiliary_columns, auxiliary, strict=True):
            axes = range(value.dim() - 1, 0, -1)
            w[:, columns] = value.permute(0, *axes).reshape(x.shape[0], -1)
        return w

    @computed_once
    def _event_violation(self) -> ViolationOfLinearHull:
        return ViolationOfLinearHull(self.at(), event_only=True)

    @computed_once
    def _affine_violation(self) -> ViolationOfAffineRows | None:
        affine = self.affine
        return None if affine is None else ViolationOfAffineRows(affine)

    def violation(self, x: torch.Tensor, values: ParameterValues | None = None) -> torch.Tensor:
        """How far points ``(batch, size)`` are outside, ``(batch,)``, at parameters ``(batch, *shape)``.

        Rows with auxiliary variables cannot be seen from x alone, and are left out.
        """
        if self.linear and not self.parameters:
            return self._event_violation(x)
        values = values or {}
        if self.linear and self._affine_violation is not None:
            return self._affine_violation(x, values)
        numbers = {name: v.detach().numpy() for name, v in values.items()}
        points = x.detach().to("cpu", torch.float64)
        if self.linear:
            hulls = [self.at({name: v[i] for name, v in numbers.items()}) for i in range(len(x))]
            parts = [ViolationOfLinearHull(h, event_only=True)(points[i : i + 1]) for i, h in enumerate(hulls)]
            return torch.cat(parts).to(x.device) if parts else x.new_zeros(0)
        if self.auxiliary:
            return torch.where(torch.isfinite(x).all(-1), 0.0, torch.inf)
        shaped = points.reshape(-1, *self.variable.shape).numpy()
        ordered = [numbers[p.name()] for p in self.parameters]
        worst = violation_by_cvxpy([self.variable], self.constraints, self.parameters, [shaped], ordered)
        return torch.from_numpy(worst).to(x.device)

    def surely_within(self, x: torch.Tensor, tolerance: float) -> bool:
        """Whether all that ``violation`` sees is within the tolerance, told quickly; False says nothing."""
        return not self.parameters and self.linear and self._event_violation.surely_within(x, tolerance)

    @computed_once
    def sees_everything(self) -> bool:
        """Whether ``violation`` sees every row: a linear hull of the event alone, without parameters."""
        return self.linear and not self.parameters and self.at().lower.size == self.variable.size

    @computed_once
    def oracle(self) -> LinearOracle:
        """Maximiser of linear functions over the hull itself."""
        return LinearOracle(self.canonical, integral=True)

    @computed_once
    def integer_oracle(self) -> LinearOracle:
        """Maximiser of linear functions over the hull's points with an integer event.

        Raises:
            ValueError: the hull has cones.
        """
        return LinearOracle(self.canonical, integral=False)

    def coordinate_range(self, tight: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of each event coordinate, of a hull without parameters: declared ones where there are any, else (or
        with ``tight``) by a linear program a coordinate."""
        size = self.variable.size
        lower, upper = np.full(size, -np.inf), np.full(size, np.inf)
        if self.linear and not tight:
            linear = self.at()
            lower, upper = linear.lower[linear.event].copy(), linear.upper[linear.event].copy()
        solve = self._fresh_oracle()
        for ends, sign in ((lower, -1.0), (upper, 1.0)):
            for i in np.flatnonzero(~np.isfinite(ends)):
                ends[i] = solve(sign * np.eye(1, size, int(i)))[0, i]
        return lower, upper

    def check_bounded(self) -> None:
        """Raise EmptySet, or ValueError if it is unbounded along a random direction."""
        direction, solve = np.random.default_rng(0).normal(size=(1, self.variable.size)), self._fresh_oracle()
        for sign in (1, -1):
            try:
                solve(sign * direction)
            except SolveError as error:
                status = error.status[0]
                if "unbounded" in status:
                    message = f"the hull is unbounded ({status}): add bounds on the event variable."
                    raise ValueError(message) from None
                if "infeasible" in status:
                    raise EmptySet(f"the hull is empty ({status}): its constraints contradict.") from None
                raise ValueError(f"the hull could not be solved over ({status}): scale its constraints.") from None

    def _fresh_oracle(self) -> LinearOracle:
        """One whose questions leave no trace in later answers, by a warm start."""
        return LinearOracle(self.canonical, integral=True)
