"""What the loops read of a hull and a regularizer, and who is served."""

from __future__ import annotations

import functools
import math
from dataclasses import astuple
from typing import TYPE_CHECKING, Any

import numpy as np

from sst_cvx import native
from sst_cvx.once import later
from sst_cvx.paths.interior_point import tolerances
from sst_cvx.paths.interior_point.native import layout
from sst_cvx.paths.interior_point.standard_form import StandardForm
from sst_cvx.regularizers import (
    BinaryEntropy,
    CategoricalEntropy,
    Euclidean,
    SeparableRegularizer,
    TsallisEntropy,
)

if TYPE_CHECKING:
    import scipy.sparse as sp
else:
    sp = later("scipy.sparse")

#: The numbers of regularizers in ``phi``: exact types, for a subclass may have another phi.
KINDS: dict[type, int] = {Euclidean: 0, CategoricalEntropy: 1, BinaryEntropy: 2, TsallisEntropy: 3}


class Tables:
    """Of one standard form and regularizer: arrays alone.

    Attributes:
        hull: rows, entries, starts, barriers, their signs, numbers, and the sizes that ``layout.Room`` names.
        places: rows and columns of the entries of M, as the caller counts them; values: the entries, ``(1, entries)``.
        schedules: iterations, cooling and gate of each.
        start: a point to start from, or nothing; weights: of the event columns, or one for all.
    """

    def __init__(self, form: StandardForm, model: Any):
        sizes = form.core.shape[1], form.event_columns, bool(form.slacks > tolerances.CONDENSED * form.core.shape[1])  # type: ignore[index]
        matrix, self.places, self._work = _matrix(form, sizes[2])
        barrier = np.ascontiguousarray(model.barriers.column.numpy(), np.int64)
        self.hull: tuple[Any, ...] = *matrix, barrier, model.barriers.sign.numpy(), _numbers(form, model), *sizes
        self.values = np.ascontiguousarray(form.core.toarray()[self.places])[None]
        patient = tolerances.PATIENT if model.steep else ()
        self.schedules = np.array([astuple(s) for s in (tolerances.BRISK, *patient)], float)
        self.start = np.zeros(0) if form.start is None else np.ascontiguousarray(form.start, float)
        self.weights = np.ascontiguousarray(model.weights.numpy())

    def serve(self, batch: int) -> bool:
        """Whether loops are the faster way for so many elements, and compiled."""
        small = self._work <= tolerances.LOOPS or batch * self._work <= tolerances.LOOPS_OF_BATCH
        return small and native.is_on() and (native.may_compile() or are_kept())


@functools.cache
def are_kept() -> bool:
    """Whether the loops are compiled. That takes most of a minute, which nobody is made to wait for in a call."""
    from sst_cvx.paths.interior_point.native.batch import differentiate_all, solve_all

    return native.is_kept(solve_all) and native.is_kept(differentiate_all)


def served(form: StandardForm, regularizer: SeparableRegularizer) -> bool:
    """Whether the loops know the regularizer, and the hull is small."""
    return type(regularizer) in KINDS and form.event_columns > 0 and form.rows <= tolerances.LOOPS_ROWS


def _matrix(form: StandardForm, condensed: bool) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, np.ndarray], float]:
    """Rows, entries and starts of columns of ``layout.Room``; where entries are; the work of a factorisation."""
    core = sp.csr_array(form.core)
    core.eliminate_zeros()
    place, work = _order(core)
    if condensed:
        work = float((np.diff(core.indptr) ** 2.0).sum() / 2 + core.shape[1] ** 3 / 6)  # type: ignore[index]
    else:
        work += float((np.diff(sp.csc_array(core).indptr) ** 2.0).sum() / 2)
    core = sp.csr_array(core[place])
    core.sort_indices()
    numbered = sp.csr_array((np.arange(1, core.nnz + 1), core.indices, core.indptr), shape=core.shape)
    by_column = sp.csc_array(numbered)
    by_column.sort_indices()
    rows = np.full((3, place.size + 1), -1)
    rows[layout.START], rows[layout.PLACE, :-1] = core.indptr, place
    slack = core.shape[1] + place - form.equalities  # type: ignore[index]
    rows[layout.SLACK, :-1] = np.where(place >= form.equalities, slack, -1)
    entries = np.stack([core.indices, by_column.indices, by_column.data - 1]).astype(np.int64)
    places = place[np.repeat(np.arange(place.size), np.diff(core.indptr))], core.indices.astype(np.int64)
    return (rows, entries, by_column.indptr.astype(np.int64)), places, work


def _order(core: sp.csr_array) -> tuple[np.ndarray, float]:
    """Rows in the order of minimum degree in M M', and the multiplications of its Cholesky factor in this order."""
    pattern = sp.csr_array((np.ones(core.nnz), core.indices, core.indptr), shape=core.shape)
    product = sp.csr_array(pattern @ pattern.T)
    ends = product.indptr
    around = [set(product.indices[ends[i] : ends[i + 1]].tolist()) - {i} for i in range(ends.size - 1)]
    left, order, work = set(range(len(around))), [], 0.0
    while left:
        i = min(left, key=lambda i: (len(around[i]), i))
        left.discard(i)
        order.append(i)
        work += len(around[i]) * len(left) / 2
        for j in around[i]:
            around[j] |= around[i]
            around[j] -= {i, j}
    return np.array(order, int), work


def _numbers(form: StandardForm, model: Any) -> np.ndarray:
    """``layout.Room.k``; those of an element are left open."""
    f, k = model.f, np.full(layout.NUMBERS, math.nan)
    (low, high), (steep_low, steep_high) = f.domain, f.steep
    k[[layout.KIND, layout.ALPHA]] = KINDS[type(f)], getattr(f, "alpha", 0.0)
    k[layout.LOW] = low + tolerances.NEAREST if steep_low else low
    k[layout.HIGH] = high - tolerances.NEAREST if steep_high else high
    k[layout.STEEP_LOW], k[layout.STEEP_HIGH] = low if steep_low else math.nan, high if steep_high else math.nan
    k[[layout.STEEP, layout.STEEP_EVERYWHERE, layout.INVERTS]] = model.steep, model.steep_everywhere, model.inverts
    k[[layout.MOVES, layout.HAS_AUXILIARY, layout.FIXED_SUM]] = model.moves, model.has_auxiliary, form.fixed_sum
    k[layout.ARRIVED] = model.tolerance
    k[layout.PROXIMAL] = tolerances.PROXIMAL_STEEP if model.steep else tolerances.PROXIMAL
    for name, place in vars(layout).items():
        name = layout.RENAMED.get(name, name)
        if name.isupper() and isinstance(place, int) and place in layout.TOLERANCES and hasattr(tolerances, name):
            k[place] = getattr(tolerances, name)
    return k
