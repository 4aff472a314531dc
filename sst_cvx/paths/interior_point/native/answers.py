"""From tensors to loops and back; what the loops give up is left to the tensor code."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sst_cvx import native
from sst_cvx.paths.interior_point import tolerances
from sst_cvx.paths.interior_point.native.tables import Tables
from sst_cvx.paths.interior_point.problem import Solution
from sst_cvx.regularizers import SeparableRegularizer


def solve(
    tables: Tables,
    u: torch.Tensor,
    t: torch.Tensor,
    right: torch.Tensor,
    bounds: torch.Tensor,
    core: torch.Tensor | None,
) -> tuple[Solution, torch.Tensor]:
    """As ``polytope.solve``, and the steps of each element."""
    from sst_cvx.paths.interior_point.native.batch import solve_all

    batch, columns, rows = len(u), bounds.shape[2], right.shape[1]
    w, side = u.new_empty(batch, columns), u.new_empty(batch, columns)
    y, accepted = u.new_empty(batch, rows), u.new_empty(batch, dtype=torch.bool)
    steps = u.new_empty(batch, dtype=torch.int64)
    given = (native.array(u), native.array(t).reshape(-1), _once(right), _once(bounds))
    found = (w, y, side, accepted, steps)
    values, out = _values(tables, core), (part.numpy() for part in found)
    parts = (tables.schedules, tables.start, tables.weights, values)
    solve_all(tables.hull, *parts, *given, *out)
    return Solution(w, y, side, accepted), steps


def differentiate(
    tables: Tables,
    inverse_curvature: torch.Tensor,
    t: torch.Tensor,
    free: torch.Tensor,
    p: torch.Tensor,
    q: torch.Tensor,
    unit: torch.Tensor,
    probes: torch.Tensor | None,
    core: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """dw, dy, their errors, and whether free columns can take up the probes."""
    from sst_cvx.paths.interior_point.native.batch import differentiate_all

    found = (torch.empty_like(p), torch.empty_like(q), p.new_empty(len(p)), p.new_empty(len(p), dtype=torch.bool))
    asked = np.zeros((0, q.shape[1])) if probes is None else native.array(probes)
    given = [native.array(part) for part in (inverse_curvature, t.reshape(-1), free, p, q, unit)]
    values, out = _values(tables, core), (part.numpy() for part in found)
    differentiate_all(tables.hull, values, *given, asked, *out)
    return found


def pullback(
    tables: Tables,
    f: SeparableRegularizer,
    x: torch.Tensor,
    t: torch.Tensor,
    side: torch.Tensor,
    accepted: torch.Tensor,
    v: torch.Tensor,
    core: torch.Tensor | None,
) -> torch.Tensor | None:
    """Cotangents of the utilities for those of x, 0 of elements that are not accepted; None where the loops gave one
    up. Not differentiable."""
    from sst_cvx.paths.interior_point.native.batch import differentiate_all

    times, there = native.array(t), native.array(accepted)[:, None]
    curvature = native.array(f.inverse_curvature(x)) / (times * tables.weights)
    free, p = (native.array(side) == 0) & there, np.zeros(side.shape)
    p[:, : x.shape[1]] = np.where(there, native.array(v), 0.0)
    unit = tolerances.DERIVATIVE_UNIT * np.abs(p).max(1) / times[:, 0]
    q = np.zeros((len(p), tables.hull[0].shape[1] - 1))
    dw, dy, error, reached = np.empty_like(p), np.empty_like(q), np.empty(len(p)), np.empty(len(p), bool)
    coldest = times[:, 0] * tables.weights.min()
    given = _values(tables, core), curvature, coldest, free, p, q, unit, q[:0]
    differentiate_all(tables.hull, *given, dw, dy, error, reached)
    return torch.from_numpy(dw[:, : x.shape[1]]) if (error <= tolerances.RESCUED).all() else None


def _once(x: torch.Tensor) -> np.ndarray:
    """Without the copies of what is one for all elements."""
    return native.array(x[:1] if len(x) > 1 and x.stride(0) == 0 else x)


def _values(tables: Tables, core: Any) -> np.ndarray:
    """Of the entries of M, ``(batch or 1, entries)``."""
    if core is None:
        return tables.values
    row, column = (torch.from_numpy(np.asarray(part, np.int64)) for part in tables.places)
    return native.array(core[:, row, column])
