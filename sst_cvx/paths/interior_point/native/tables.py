"""What the loops read of a hull and a regularizer, and who is served."""

from __future__ import annotations

import math
from dataclasses import astuple
from typing import Any

import numpy as np
import scipy.sparse as sp

from sst_cvx.paths.interior_point import tolerances
from sst_cvx.paths.interior_point.native.types import Hull, Rules, Tolerances
from sst_cvx.paths.interior_point.standard_form import StandardForm
from sst_cvx.regularizers import (
    BinaryEntropy,
    CategoricalEntropy,
    Euclidean,
    SeparableRegularizer,
    TsallisEntropy,
)

#: The numbers of regularizers in ``phi``: exact types, for a subclass may have another phi.
KINDS: dict[type, int] = {Euclidean: 0, CategoricalEntropy: 1, BinaryEntropy: 2, TsallisEntropy: 3}


class Tables:
    """Of one standard form and regularizer; arrays alone, whatever the device."""

    def __init__(self, form: StandardForm, model: Any):
        self.hull, self.places = _hull(form)
        self.values = np.ascontiguousarray(form.core.toarray()[self.places])[None]
        self.rules, self.tolerances = _rules(form, model), _tolerances(model)
        patient = tolerances.PATIENT if model.steep else ()
        self.schedules = np.array([astuple(s) for s in (tolerances.BRISK, *patient)], float)
        self.start = np.zeros(0) if form.start is None else np.ascontiguousarray(form.start, float)
        self.weights = np.ascontiguousarray(model.weights.cpu().numpy())


def served(form: StandardForm, regularizer: SeparableRegularizer) -> bool:
    """Whether the loops are as fast as tensors, or faster, for a hull and a regularizer that they know."""
    return type(regularizer) in KINDS and form.event_columns > 0


def _hull(form: StandardForm) -> tuple[Hull, tuple[np.ndarray, np.ndarray]]:
    """M in the order of elimination; and where its entries are, (row, column) in the caller's order."""
    core = sp.csr_array(form.core)
    core.eliminate_zeros()
    rows, structural = core.shape  # type: ignore[misc]
    place = _order(core)
    core = sp.csr_array(core[place])
    core.sort_indices()
    numbered = sp.csr_array((np.arange(1, core.nnz + 1), core.indices, core.indptr), shape=core.shape)
    by_column = sp.csc_array(numbered)
    by_column.sort_indices()
    slack = np.where(place >= form.equalities, structural + place - form.equalities, -1)

    def whole(a: Any) -> np.ndarray:
        return np.ascontiguousarray(a, np.int64)

    hull = Hull(
        *map(whole, (core.indptr, core.indices, np.arange(core.nnz))),
        *map(whole, (by_column.indptr, by_column.indices, by_column.data - 1)),
        whole(place),
        whole(slack),
        int(structural),
        form.event_columns,
        bool(form.slacks > tolerances.CONDENSED * structural),
    )
    return hull, (place[np.repeat(np.arange(rows), np.diff(core.indptr))], core.indices)


def _order(core: sp.csr_array) -> np.ndarray:
    """Rows in the order of minimum degree in M M'."""
    pattern = sp.csr_array((np.ones(core.nnz), core.indices, core.indptr), shape=core.shape)
    product = sp.csr_array(pattern @ pattern.T)
    around = [set(product.indices[a:b].tolist()) - {i} for i, (a, b) in enumerate(zip(product.indptr, product.indptr[1:]))]
    left, order = set(range(len(around))), []
    while left:
        i = min(left, key=lambda i: (len(around[i]), i))
        left.discard(i)
        order.append(i)
        for j in around[i]:
            around[j] |= around[i]
            around[j] -= {i, j}
    return np.array(order, int)


def _rules(form: StandardForm, model: Any) -> Rules:
    f, nearest = model.f, tolerances.NEAREST
    (low, high), (steep_low, steep_high) = f.domain, f.steep
    return Rules(
        KINDS[type(f)],
        float(getattr(f, "alpha", 0.0)),
        low + nearest if steep_low else low,
        high - nearest if steep_high else high,
        model.steep,
        model.steep_everywhere,
        model.inverts,
        model.moves,
        model.has_auxiliary,
        form.fixed_sum,
        np.ascontiguousarray(model.barriers.column.cpu().numpy(), np.int64),
        np.ascontiguousarray(model.barriers.sign.cpu().numpy()),
        low if steep_low else math.nan,
        high if steep_high else math.nan,
    )


def _tolerances(model: Any) -> Tolerances:
    own = {
        "tolerance": model.tolerance,
        "proximal": tolerances.PROXIMAL_STEEP if model.steep else tolerances.PROXIMAL,
    }
    return Tolerances(*(own[n] if n in own else getattr(tolerances, n.upper()) for n in Tolerances._fields))
