"""The threshold maps of ``threshold`` by compiled loops over rows, where ``native.serves``."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch

from sst_cvx import native
from sst_cvx.regularizers import CategoricalEntropy, Euclidean, SeparableRegularizer, TsallisEntropy

_TSALLIS, _CATEGORICAL, _BINARY = 0, 1, 2
_SELECTED = 200  # entries from which NumPy's partition and torch's exp are faster than loops
_NONE, _TIGHT = np.empty(0), np.ones(1, dtype=np.bool_)
_CHUNK = 1_000_000  # entries partitioned at once


def threshold_by_rows(
    u: torch.Tensor,
    total: int | torch.Tensor,
    f: SeparableRegularizer,
    up_to: bool = False,
    alpha: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """x ``(*batch, n)`` of ``threshold_map``, and whether the sum of a row is the total's ``(*batch, 1)``, bool.

    The total, and alpha in place of f's, may be ``(*batch, 1)``. With ``up_to``, rows whose solution over the box has a
    sum of at most the total have that one.
    """
    from polytopes.kernels.native.threshold import MOST, threshold_rows

    n, (kind, q, origin) = u.shape[-1], _kind(f)
    rows = native.array(u).reshape(-1, n)
    x = u.new_empty(u.shape)
    tight = u.new_empty((*u.shape[:-1], 1), dtype=torch.bool)
    centres = _NONE
    each = isinstance(total, torch.Tensor)
    totals = native.array(total.double()).reshape(-1) if isinstance(total, torch.Tensor) else _one(total)
    own = alpha if isinstance(f, TsallisEntropy) else None
    qs = _one(q) if own is None else native.array(own.double() - 1).reshape(-1)
    if not each and n >= _SELECTED and 0 < total < n:
        centres = _kth_largest(rows, total)
        if kind != _TSALLIS:
            flat = u.reshape(-1, n)
            torch.sub(flat, torch.from_numpy(centres)[:, None].to(u.dtype), out=x.view(-1, n))
            x.clamp_(max=MOST if u.dtype == torch.float64 else 85.0).exp_()
    found = x.numpy().reshape(-1, n)
    threshold_rows(rows, totals, qs, centres, kind, origin if up_to else math.inf, found, tight.numpy().reshape(-1))
    return x, tight


def jacobian_by_rows(
    x: torch.Tensor, v: torch.Tensor, f: SeparableRegularizer, tight: torch.Tensor | None = None
) -> torch.Tensor:
    """w (v - sum w v / sum w) at points x of ``threshold_map``; w v where not ``tight``."""
    from polytopes.kernels.native.threshold import jacobian_rows

    n, (kind, q, _) = x.shape[-1], _kind(f)
    g = x.new_empty(x.shape)
    of = _TIGHT if tight is None else native.array(tight).reshape(-1)
    points, vectors = (native.array(part).reshape(-1, n) for part in (x, v))
    jacobian_rows(points, vectors, _one(q), of, kind, g.numpy().reshape(-1, n))
    return g


def _kind(f: SeparableRegularizer) -> tuple[int, float, float]:
    """Which loops, their q, and phi'(1)."""
    if isinstance(f, TsallisEntropy):
        return (_TSALLIS, 0.0, 0.0) if f.is_tensor else (_TSALLIS, f.alpha - 1.0, 1 / f.alpha)
    if isinstance(f, Euclidean):
        return _TSALLIS, 1.0, 1.0
    return (_CATEGORICAL, 0.0, 1.0) if isinstance(f, CategoricalEntropy) else (_BINARY, 0.0, 0.0)


@functools.lru_cache(maxsize=256)
def _one(number: float) -> np.ndarray:
    return np.array([float(number)])


def _kth_largest(rows: np.ndarray, k: int) -> np.ndarray:
    """``(rows,)``, float64, in chunks of rows."""
    n = rows.shape[1]
    if k == 1:
        return rows.max(axis=1).astype(np.float64) if len(rows) else _NONE
    size, at = max(1, _CHUNK // n), n - k
    parts = [np.partition(rows[i : i + size], at, axis=1)[:, at] for i in range(0, len(rows), size)]
    return np.concatenate(parts).astype(np.float64) if parts else _NONE
