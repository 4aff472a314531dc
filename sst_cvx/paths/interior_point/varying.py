"""Parameters that multiply variables: M = M_0 + sum_k theta_k M_k, of each element its own, as dense matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sst_cvx.hull.canonical import Canonical
from sst_cvx.hull.linear import AffineRows
from sst_cvx.once import later
from sst_cvx.paths.interior_point.matrix import SparseMatrix

if TYPE_CHECKING:
    import scipy.sparse as sp
else:
    sp = later("scipy.sparse")


@dataclass(frozen=True)
class Entries:
    """Of the hull's rows, those that depend on parameters.

    Attributes:
        row, column: where they are, ``(count,)``.
        constant: values at theta = 0, ``(count,)``; slopes: by theta, ``(count, parameters)``.
    """

    row: np.ndarray
    column: np.ndarray
    constant: np.ndarray
    slopes: sp.csr_array


def parametric_rows(canonical: Canonical) -> tuple[AffineRows, Entries]:
    """Rows with the entries that depend on parameters at generic values, and these entries."""
    indices, indptr, shape = canonical.pattern
    split, count = indptr[-2], canonical.matrix.shape[1] - 1  # type: ignore[index]
    constant, slopes = canonical.matrix[:, [count]].toarray().ravel(), sp.csr_array(canonical.matrix[:, :count])
    right = np.zeros(shape[0])
    right[indices[split:]] = constant[split:]
    places = indices[split:], np.arange(len(indices) - split)
    spread = sp.csr_array((np.ones(len(places[1])), places), shape=(shape[0], len(places[1])))
    generic = constant + slopes @ (0.5 + np.random.default_rng(0).random(count))
    A = sp.csr_array(-sp.csc_array((generic[:split], indices[:split], indptr[:-1]), shape=(shape[0], shape[1] - 1)))
    moves = np.flatnonzero(np.diff(slopes[:split].indptr) > 0)
    column = np.repeat(np.arange(shape[1] - 1), np.diff(indptr[:-1]))
    rows = AffineRows(A, right, sp.csr_array(spread @ slopes[split:]), canonical.dims.zero, canonical.event, {})
    rows.parameters.update(canonical.parameter_places)
    return rows, Entries(indices[moves], column[moves], -constant[moves], sp.csr_array(-slopes[moves]))


class VaryingMatrix:
    """M without its slack columns as a function of the parameters, on one device.

    Args:
        core: M without slacks, ``(rows, columns)``, whatever where it depends on parameters.
        place: of each entry, row * columns + column.
    """

    def __init__(self, core: sp.csr_array, entries: Entries, place: np.ndarray, device: torch.device):
        base, (m, n) = core.toarray().ravel(), core.shape  # type: ignore[misc]
        base[place] = entries.constant
        spread = sp.csr_array((np.ones(place.size), (place, np.arange(place.size))), shape=(base.size, place.size))
        self._slopes = SparseMatrix(spread @ entries.slopes, device)
        self._base, self._shape = torch.as_tensor(base, device=device), (m, n)

    def at(self, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """M ``(batch, rows, columns)`` at parameters ``(batch, count)``, each row scaled to a largest entry of 1, and
        these scales ``(batch, rows)``, which count as constants: they do not change the hull."""
        core = (self._base + self._slopes.times(theta)).reshape(-1, *self._shape)
        size = core.detach().abs().amax(2)
        scale = torch.where(size > 0, size, 1.0).reciprocal()
        return core * scale[:, :, None], scale


class NoSecond(torch.autograd.Function):
    """Zero, as a function of what a gradient depends on in ways that are not differentiated: an error if asked."""

    @staticmethod
    def forward(ctx: Any, *inputs: torch.Tensor) -> torch.Tensor:
        return inputs[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> Any:
        raise NotImplementedError(
            "a soft argmax over a hull whose parameters multiply variables is differentiable once: no second "
            "derivatives."
        )


class Violation:
    """How far points are outside a hull whose parameters multiply variables, batched: from CVXPY's numbers alone, by
    the rows over the event alone, each relative to 1 + its right side, at a largest entry of 1."""

    def __init__(self, canonical: Canonical):
        indices, indptr, shape = canonical.pattern
        split, entries = indptr[-2], np.zeros(shape[1] - 1, int)
        column, row = np.repeat(np.arange(shape[1] - 1), np.diff(indptr[:-1])), indices[:split]
        entries[canonical.event] = np.arange(canonical.event.size)
        other = ~np.isin(column, canonical.event)
        seen = np.setdiff1d(np.arange(shape[0]), row[other])
        number = np.full(shape[0], -1)
        number[seen] = np.arange(seen.size)
        inside, right = np.flatnonzero(number[row] >= 0), split + np.flatnonzero(number[indices[split:]] >= 0)
        self._count, self._equal = seen.size, torch.as_tensor(seen < canonical.dims.zero)
        self._row, self._place = torch.as_tensor(number[row[inside]]), torch.as_tensor(entries[column[inside]])
        self._right = torch.as_tensor(number[indices[right]])
        numbers = canonical.matrix[np.concatenate([inside, right])]
        cpu = torch.device("cpu")
        self._slopes, self._split = SparseMatrix(numbers[:, :-1], cpu), inside.size
        self._constant = torch.as_tensor(numbers[:, [-1]].toarray().ravel())

    def __call__(self, x: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
        """Of points ``(batch, size)`` at parameters ``(batch, count)``, ``(batch,)``, on the CPU."""
        x = x.detach().to("cpu", torch.float64)
        numbers = self._constant + self._slopes.times(theta.detach().cpu())
        A, b = -numbers[:, : self._split], numbers[:, self._split :]
        zero = A.new_zeros(len(x), self._count)
        left, right = zero.index_add(1, self._row, A * x[:, self._place]), zero.index_add(1, self._right, b)
        scale = zero.scatter_reduce(1, self._row.expand(len(x), -1), A.abs(), "amax").clamp(min=1e-300)
        excess = (left - right) / scale
        excess = torch.where(self._equal, excess.abs(), excess) / (1 + (right / scale).abs())
        return excess.amax(1) if self._count else zero.sum(1) - torch.inf
