"""A linear hull as the interior-point path wants it: { w : M w = r, lower <= w <= upper }.

Columns are the event's coordinates that are free, the auxiliary variables, and one slack per inequality row, in this
order. Inequality rows come after the equalities, so M = [[A, 0], [G, I]].

Hulls with and without parameters are built alike, from rows A w = b and A w <= b: rows with one entry become bounds,
columns with one value are eliminated, rows scaled to a largest entry of 1, equalities that depend on others left out.
``Sides`` gives right sides and bounds, which may depend on parameters. Only numbers can be presolved: without
parameters, implicit equalities are stated first, and rows dropped that the bounds or other rows imply.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from sst_cvx.hull.compiled import CompiledHull
from sst_cvx.hull.linear import AffineRows, LinearHull, independent_rows
from sst_cvx.hull.presolve import presolve
from sst_cvx.once import later
from sst_cvx.paths.base import Refused
from sst_cvx.paths.interior_point import tolerances
from sst_cvx.paths.interior_point.center import towards_center
from sst_cvx.paths.interior_point.sides import Layout, Sides, SideValues
from sst_cvx.paths.interior_point.varying import Entries

if TYPE_CHECKING:
    import scipy.sparse as sp
else:
    sp = later("scipy.sparse")


@dataclass
class StandardForm:
    """M, and where right sides and bounds come from.

    Attributes:
        core: M without the slack columns, ``(rows, event_columns + auxiliary)``; the equalities come first.
        layout: what became of the hull's rows and columns; its ``free`` are the places of the event columns.
        ends: lower and upper bounds of all columns ``(2, columns)``; NaN where they depend on parameters.
        start: columns of a point in the relative interior; None for hulls with parameters.
        varying: core, its entries that depend on parameters, and their places in it; None if there are none.
        varying_rows: which rows have some.
    """

    source: AffineRows
    domain: tuple[float, float]
    layout: Layout
    core: sp.csr_array
    ends: np.ndarray
    start: np.ndarray | None = None
    varying: tuple[sp.csr_array, Entries, np.ndarray] | None = None
    varying_rows: np.ndarray | None = None

    @property
    def rows(self) -> int:
        """Number of rows of M."""
        return self.layout.kept.size

    @property
    def equalities(self) -> int:
        """Number of rows of A."""
        return self.layout.equalities

    @property
    def slacks(self) -> int:
        """Number of inequality rows."""
        return self.rows - self.equalities

    @property
    def columns(self) -> int:
        """Number of columns of M."""
        return self.ends.shape[1]

    @property
    def event_columns(self) -> int:
        """Number of event coordinates that are columns (those that are not fixed)."""
        return self.layout.free.size

    @property
    def auxiliary(self) -> int:
        """Number of columns that are neither event coordinates nor slacks."""
        return self.columns - self.event_columns - self.slacks

    @property
    def matrix(self) -> sp.csr_array:
        """M, slack columns included."""
        slack = sp.vstack([sp.csr_array((self.equalities, self.slacks)), sp.eye_array(self.slacks)])
        return sp.csr_array(sp.hstack([self.core, slack]))

    @property
    def fixed_sum(self) -> bool:
        """Whether the equalities fix the sum of the event's free coordinates: utilities may then be shifted."""
        if not self.equalities or not self.event_columns or self.varying is not None:
            return False
        A: Any = self.core[: self.equalities].T
        target = (np.arange(A.shape[0]) < self.event_columns).astype(float)
        y = sp.linalg.lsqr(A, target, atol=1e-14, btol=1e-14)[0]
        return bool(np.abs(A @ y - target).max() <= tolerances.FIXED_SUM)

    def sides(self, device: torch.device) -> Sides:
        """Right sides and bounds, evaluated on a device."""
        return Sides(self.source, self.layout, self.domain, device)

    @classmethod
    def of_rows(cls, rows: AffineRows, domain: tuple[float, float]) -> StandardForm:
        """Of a hull with parameters, whose event coordinates must also lie in ``domain``.

        Rows that turn into equalities at some parameter values, or an empty hull, show as elements that do not
        converge.
        """
        return _of_rows(rows, domain)

    @classmethod
    def of_varying_rows(cls, rows: AffineRows, entries: Entries, domain: tuple[float, float]) -> StandardForm:
        """Of a hull whose parameters multiply variables: ``rows`` are it at generic values.

        Raises:
            Refused: an equality with such parameters depends on others at these.
        """
        varies = np.zeros(rows.right.size, bool)
        varies[entries.row] = True
        form = _of_rows(rows, domain, varies)
        row, column = (np.full(count, -1) for count in rows.matrix.shape)  # type: ignore[union-attr]
        row[form.layout.kept], column[form.layout.order] = np.arange(form.rows), np.arange(form.layout.order.size)
        place = row[entries.row] * form.layout.order.size + column[entries.column]
        return replace(form, varying=(form.core, entries, place), varying_rows=varies[form.layout.kept])

    @classmethod
    def of_hull(cls, hull: LinearHull, domain: tuple[float, float]) -> StandardForm:
        """Of a hull without parameters.

        Raises:
            ValueError: no point of the relative interior was found (the hull is empty within the domain).
        """
        presolved = presolve(hull, domain)
        if presolved.inside is None:
            raise ValueError("the hull has no point within the regularizer's domain: check its constraints.")
        return _presolved(_of_rows(_as_rows(presolved.hull), domain), presolved.inside)


_FORMS: WeakKeyDictionary[CompiledHull, dict[tuple[float, float], StandardForm]] = WeakKeyDictionary()


def form_without_parameters(hull: CompiledHull, domain: tuple[float, float]) -> StandardForm:
    """``StandardForm.of_hull`` of a declared hull, once for all regularizers of this domain."""
    forms = _FORMS.setdefault(hull, {})
    if domain not in forms:
        forms[domain] = StandardForm.of_hull(hull.at(), domain)
    return forms[domain]


def _as_rows(hull: LinearHull) -> AffineRows:
    """The same with its bounds as rows."""
    identity: Any = sp.eye_array(hull.lower.size, format="csr")
    equal, fixed = hull.row_lower == hull.row_upper, hull.lower == hull.upper
    below, above = (np.flatnonzero(np.isfinite(ends) & ~fixed) for ends in (hull.lower, hull.upper))
    equalities = sp.vstack([hull.rows[equal], identity[fixed]])
    rest = sp.vstack([hull.rows[~equal], -identity[below], identity[above]])
    parts = hull.row_upper[equal], hull.lower[fixed], hull.row_upper[~equal], -hull.lower[below], hull.upper[above]
    right = np.concatenate(parts)
    matrix, none = sp.csr_array(sp.vstack([equalities, rest])), sp.csr_array((right.size, 0))
    return AffineRows(matrix, right, none, int(equal.sum() + fixed.sum()), hull.event, {})


def _of_rows(rows: AffineRows, domain: tuple[float, float], varies: np.ndarray | None = None) -> StandardForm:
    """Rows and columns in order; of the right sides, whatever the parameters may be. ``varies``: rows with entries that
    depend on parameters, which are no bounds; then no column is eliminated either."""
    A: Any = rows.matrix.copy()
    A.eliminate_zeros()
    rows = replace(rows, matrix=A)
    equal = np.arange(rows.right.size) < rows.equalities
    single = np.diff(A.indptr) == 1
    single = single if varies is None else single & ~varies
    first = np.minimum(A.indptr[:-1], max(A.nnz - 1, 0))
    column, factor = A.indices[first], A.data[first]
    everywhere = np.arange(A.shape[1])
    fixed = np.isin(everywhere, column[single & equal]) & (varies is None)
    in_rows = np.diff(sp.csc_array(A[np.flatnonzero(~single)]).indptr) > 0
    free = np.flatnonzero(~fixed[rows.event])
    auxiliary = np.flatnonzero(~np.isin(everywhere, rows.event) & ~fixed & in_rows)
    order = np.concatenate([rows.event[free], auxiliary])

    core = A[:, order]
    size = abs(core).max(axis=1).toarray().ravel() if order.size else np.zeros(equal.size)
    scale = np.where(size > 0, 1 / np.where(size > 0, size, 1.0), 1.0)
    scale = scale if varies is None else np.where(varies, 1.0, scale)
    core = sp.csr_array(sp.diags_array(scale) @ core)
    equalities = np.flatnonzero(~single & equal & (size > 0))
    chosen = _independent(core, equalities, varies)
    kept = np.concatenate([chosen, np.flatnonzero(~single & ~equal & (size > 0))])
    vacuous = np.flatnonzero(~single & (size == 0))
    layout = Layout(
        below=np.flatnonzero(single & (equal | (factor < 0))),
        above=np.flatnonzero(single & (equal | (factor > 0))),
        column=column,
        factor=factor,
        fixed=fixed,
        order=order,
        free=free,
        scale=scale,
        kept=kept,
        equalities=chosen.size,
        dependent=np.setdiff1d(equalities, chosen),
        vacuous=vacuous,
        vacuous_equal=equal[vacuous],
    )
    form = StandardForm(rows, domain, layout, core[kept], np.zeros((2, 0)))
    return replace(form, ends=_numbers(form).bounds[0].numpy())


def _independent(core: sp.csr_array, equalities: np.ndarray, varies: np.ndarray | None) -> np.ndarray:
    """A largest independent set of equalities: all of those that vary, or Refused."""
    if varies is None:
        return equalities[independent_rows(core[equalities])]
    constant = equalities[~varies[equalities]]
    chosen = np.sort(np.concatenate([constant[independent_rows(core[constant])], equalities[varies[equalities]]]))
    if independent_rows(core[chosen]).size < chosen.size:
        raise Refused("equalities in which parameters multiply variables depend on other equalities")
    return chosen


def _numbers(form: StandardForm) -> SideValues:
    """What is known without parameters."""
    sides = form.sides(torch.device("cpu"))
    return sides.at(sides.unknown())


def _presolved(form: StandardForm, inside: np.ndarray) -> StandardForm:
    """Without what numbers show to be superfluous, from a point of the hull: a form to start inside."""
    layout, right = form.layout, _numbers(form).right[0].numpy()
    count, columns = layout.equalities, layout.order.size
    G, h = form.core[count:], right[count:]
    G.sort_indices()
    needed = _not_implied(G, h, *form.ends[:, :columns])
    w = inside[layout.order]
    w = np.concatenate([w, h[needed] - G[needed] @ w])
    nothing = np.zeros(0, int)  # rows that follow from others hold: there is a point inside
    kept = np.concatenate([layout.kept[:count], layout.kept[count:][needed]])
    layout = replace(layout, kept=kept, dependent=nothing, vacuous=nothing, vacuous_equal=nothing > 0)
    core, ends = sp.csr_array(sp.vstack([form.core[:count], G[needed]])), form.ends[:, : w.size]
    form = replace(form, layout=layout, core=core, ends=ends)
    return replace(form, start=towards_center(form.matrix, ends, w))


def _not_implied(G: sp.csr_array, h: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Places of the rows G w <= h that can be violated within the bounds, without the weaker of two equal ones."""
    up, down = G.maximum(0), (-G).maximum(0)
    with np.errstate(invalid="ignore"):
        open_ended = up @ np.isinf(upper).astype(float) + down @ np.isinf(lower).astype(float) > 0
        most = up @ np.where(np.isinf(upper), 0.0, upper) - down @ np.where(np.isinf(lower), 0.0, lower)
    rows = np.flatnonzero(open_ended | (most > h + tolerances.IMPLIED * (1 + np.abs(h))))
    rows = rows[np.argsort(h[rows], kind="stable")]
    seen: set[bytes] = set()
    keep = []
    for i in rows:
        part = slice(G.indptr[i], G.indptr[i + 1])
        key = G.indices[part].tobytes() + np.round(G.data[part], 12).tobytes()
        if key not in seen:
            seen.add(key)
            keep.append(i)
    return np.sort(np.array(keep, dtype=int))
