"""The dual of entropic matchings, in the multipliers of the columns.

    max <u, x> - sum x log x      x_ij = exp(u_ij - 1 - a_i - b_j),      a_i, b_j >= 0 where the sum is at most 1

over the entries that are allowed; the others are 0. Given b, every row fixes its own a: with l_i = logsumexp_j (u_ij -
b_j), a_i = l_i - 1, or the larger of that and 0. Then b, nonnegative where columns sum to at most 1, minimises the
convex

    phi(b) = sum_i h(l_i) + sum_j b_j,     h(l) = l, or exp(l - 1) below 1 where the row sums to at most 1,
    grad = 1 - c,   Hessian = L = diag(c) - X_T'X_T,       c = X'1, T the tight rows, those of sum 1.

L is a graph Laplacian where all rows are tight (L 1 = 0, off-diagonal entries <= 0).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

_RIDGE = 1e-14  # below this, a direction of b moves no entry of X by more than rounding
_NOTHING = -800.0  # a utility of entries that are 0 whatever the multipliers, if these are not negative


class Point(NamedTuple):
    """Multipliers b ``(batch, m)``, and what follows from them."""

    b: torch.Tensor
    x: torch.Tensor
    #: l ``(batch, n)``; of plain problems, which do not ask for it, anything.
    level: torch.Tensor
    #: c ``(batch, m)``.
    column: torch.Tensor
    #: By how much column sums are off, ``(batch,)``.
    error: torch.Tensor

    def take(self, keep: torch.Tensor) -> Point:
        return Point(*(part[keep] for part in self))


@dataclass(frozen=True)
class Duals:
    """A flat batch of problems.

    Attributes:
        u: utilities ``(batch, n, m)``, shifted, -inf where forbidden, 0 in rows that are not there.
        spread: how far they are apart, ``(batch,)``.
        row, column: which ones are there, bool ``(batch, n)``, ``(batch, m)``; None: all.
        every_row, every_column: whether rows, columns sum to 1, or to at most 1.
    """

    u: torch.Tensor
    spread: torch.Tensor
    row: torch.Tensor | None
    column: torch.Tensor | None
    every_row: bool
    every_column: bool

    @staticmethod
    def of(u: torch.Tensor, allowed: torch.Tensor | None, every_row: bool, every_column: bool) -> Duals:
        """With ``every_column`` only if ``every_row``."""
        row = column = None
        if not every_row:
            u = u.clamp(min=_NOTHING)
        if allowed is not None:
            row, column = allowed.any(-1), allowed.any(-2)
            u = torch.where(allowed, u, -torch.inf)
        for side, every in ((-1, every_row), (-2, every_column)):
            if every:  # a shift of a row or column that sums to 1 changes nothing
                most = u.amax(side, keepdim=True)
                u = u - (most if allowed is None else torch.where(torch.isinf(most), 0.0, most))
        spread = (u if allowed is None else torch.where(allowed, u, 0.0)).abs().flatten(1).amax(1)
        if row is not None:
            u = torch.where(row[:, :, None], u, 0.0)
        return Duals(u, spread, row, column, every_row, every_column)

    def take(self, keep: torch.Tensor) -> Duals:
        parts = {name: getattr(self, name) for name in ("u", "spread", "row", "column")}
        return replace(self, **{name: None if part is None else part[keep] for name, part in parts.items()})

    def with_finite(self) -> Duals:
        """Forbidden entries between rows and columns that are there cost more than all the others are worth."""
        least = -(min(self.u.shape[1:]) * self.spread + 1000.0)
        forbidden = torch.isinf(self.u) if self.column is None else torch.isinf(self.u) & self.column[:, None, :]
        return replace(self, u=torch.where(forbidden, least[:, None, None], self.u), spread=-least)

    @property
    def plain(self) -> bool:
        """Whether it is about perfect matchings, and nothing is forbidden."""
        return self.every_column and self.row is None

    @property
    def tolerance(self) -> torch.Tensor:
        """Of column sums, ``(batch,)``: rounding of u - b, and of l where it is told from 1, limits what they reach."""
        roundings = 4 if self.plain else 16
        return roundings * torch.finfo(self.u.dtype).eps * (self.u.shape[-1] + self.spread)

    def scaled(self, scale: torch.Tensor) -> Duals:
        """The same with utilities times ``(batch,)``."""
        return self if bool((scale == 1).all()) else replace(self, u=scale[:, None, None] * self.u)

    def at(self, b: torch.Tensor) -> Point:
        z = self.u - b[..., None, :]
        if self.plain:
            x, level = z.softmax(-1), z[..., 0]
        else:
            level = z.logsumexp(-1)
            x = (z - (level if self.every_row else level.clamp(min=1.0))[..., None]).exp()
            x = x if self.row is None else x * self.row[:, :, None]
        column = x.sum(-2)
        return Point(b, x, level, column, self._error(b, column))

    def _error(self, b: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
        off = (column - 1).abs()
        if not self.every_column:
            off = torch.where(b > 0, off, (column - 1).clamp(min=0.0))
        if self.column is not None:
            off = torch.where(self.column, off, 0.0)
        return off.amax(-1)

    def value(self, b: torch.Tensor) -> torch.Tensor:
        """phi ``(batch,)``."""
        return self.value_of(b, (self.u - b[:, None]).logsumexp(-1))

    def value_of(self, b: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        """phi where l is known."""
        if not self.every_row:
            level = torch.where(level > 1, level, (level - 1).clamp(max=0.0).exp())
        if self.row is not None:
            level = torch.where(self.row, level, 0.0)
        return level.sum(-1) + b.sum(-1)

    def inside(self, b: torch.Tensor) -> torch.Tensor:
        """b with bounds; 0 for columns that are not there."""
        b = b if self.every_column else b.clamp(min=0.0)
        return b if self.column is None else torch.where(self.column, b, 0.0)

    def sinkhorn(self, point: Point) -> torch.Tensor:
        """The best b for the rows' multipliers as they are."""
        return self.inside(point.b + point.column.log().clamp(min=-700.0))

    def tight(self, point: Point) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows and columns that sum to 1, bool; of plain problems, all: none are listed."""
        b, level = point.b, point.level
        if self.plain:
            return b.new_empty(len(b), 0, dtype=torch.bool), b.new_empty(len(b), 0, dtype=torch.bool)
        rows = torch.ones_like(level, dtype=torch.bool) if self.every_row else level > 1
        columns = torch.ones_like(b, dtype=torch.bool) if self.every_column else b > 0
        return self.of_those_there(rows, columns)

    def of_those_there(self, rows: torch.Tensor, columns: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Without rows and columns that are not there."""
        if self.row is None or self.column is None:
            return rows, columns
        return rows & self.row, columns & self.column


def laplacian(x: torch.Tensor) -> torch.Tensor:
    """diag(X'1) - X'X + 11'/n + ridge: positive definite, L plus what fills its null space where all rows are tight."""
    L = 1.0 / x.shape[-1] - x.mT @ x
    L.diagonal(dim1=-2, dim2=-1).add_(x.sum(-2) + _RIDGE)
    return L


def laplacian_of(tight: torch.Tensor, column: torch.Tensor, free: torch.Tensor, perfect: bool) -> torch.Tensor:
    """The same on free columns, 1 on the diagonal of the others; with 11' only where matchings are ``perfect``.

    Args:
        tight: X on tight rows, 0 on others. column: c. free: bool, ``(*batch, m)``.
    """
    fill = 1.0 / free.sum(-1).clamp(min=1)[..., None, None] if perfect else 0.0
    L = torch.where(free[..., :, None] & free[..., None, :], fill - tight.mT @ tight, 0.0)
    ridge = max(_RIDGE, 2 * torch.finfo(L.dtype).eps * L.shape[-1])
    return L + torch.diag_embed(torch.where(free, column + ridge, 1.0))
