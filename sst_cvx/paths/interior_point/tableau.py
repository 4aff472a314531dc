"""M eliminated by columns in the order of their size, and Newton's method for entropies in what comes of it.

An entry of 1e-20 has no digits in equations of order 1. With coordinates counted from their nearer end (v = x or 1 - x,
of a binary entropy), columns sorted by inverse curvature d = v / t and M v = r eliminated in this order, equations read

    v_b + sum_n T_bn v_n = beta_b    for every basic column b,    T_bn = 0 unless d_n <= d_b:

all terms are of the order of v_b, and where beta_b is 0, nothing that matters cancels. The optimality conditions
t phi'(v) + M'y = u hold exactly if slopes s = phi' follow from mu_b = t_b s_b - u_b of the basic columns,

    t_n s_n = u_n + sum_b T_bn mu_b,

so that these are all unknowns. With the equations as log(positive terms / negative terms) = 0, which are nearly linear
in slopes, and rows scaled by d_b, Newton's matrix is T diag(d) T' / d_b: its entries and those of its inverse are
bounded, whatever the sizes of the v. (Weighted least squares at any scale: Vavasis, SIAM J. Matrix Anal. 15, 1994.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sst_cvx.paths.interior_point import tolerances
from sst_cvx.regularizers import BinaryEntropy, CategoricalEntropy, SeparableRegularizer

_NOTHING = -1e30  # logarithm of terms that are not there: finite, for derivatives


def is_entropy(f: SeparableRegularizer) -> bool:
    """Whether phi' is the logarithm of x, or of x / (1 - x)."""
    return type(f) in (BinaryEntropy, CategoricalEntropy)


def logarithms(f: SeparableRegularizer, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """log v, and log(1 / phi''(v)), at slopes s = phi'(v)."""
    if isinstance(f, BinaryEntropy):
        low, high = torch.nn.functional.logsigmoid(s), torch.nn.functional.logsigmoid(-s)
        return low, low + high
    return s - 1, s - 1


@dataclass
class Tableau:
    """Of each element of a batch.

    Attributes:
        matrix: T with the basic columns, rows in the order of M, ``(batch, rows, columns)``.
        transform: R, of which T = R M, ``(batch, rows, rows)``.
        basic: the basic column of each row, ``(batch, rows)``; -1 where a row depends on others.
    """

    matrix: torch.Tensor
    transform: torch.Tensor
    basic: torch.Tensor


def eliminate(matrix: torch.Tensor, priority: torch.Tensor) -> Tableau:
    """Gauss and Jordan's, of ``(batch, rows, columns)``, columns of high priority first, those of -inf never."""
    batch, rows, columns = matrix.shape
    eye = torch.eye(rows, dtype=matrix.dtype, device=matrix.device).expand(batch, -1, -1)
    work, every = torch.cat([matrix, eye], 2), torch.arange(batch, device=matrix.device)
    basic = torch.full((batch, rows), -1, device=matrix.device)
    if not rows:
        return Tableau(matrix, eye, basic)
    order, size = priority.argsort(dim=1, descending=True, stable=True), matrix.abs().amax(1)
    for place in range(columns):
        column = order[:, place]
        entries = work[every, :, column]
        largest, row = torch.where(basic < 0, entries.abs(), 0.0).max(1)
        enters = (largest > tolerances.DEPENDENT * size[every, column]) & (priority[every, column] > -torch.inf)
        if not bool(enters.any()):
            if bool((basic >= 0).all()):
                break
            continue
        pivotal = work[every, row] / torch.where(enters, entries[every, row], 1.0)[:, None]
        factor = torch.where(enters[:, None], entries, 0.0)
        factor[every, row] = 0.0
        work = torch.baddbmm(work, factor[:, :, None], pivotal[:, None, :], alpha=-1)
        work[every, row] = torch.where(enters[:, None], pivotal, work[every, row])
        unit = torch.zeros_like(entries)
        unit[every, row] = 1.0
        work[every, :, column] = torch.where(enters[:, None], unit, work[every, :, column])
        basic[every, row] = torch.where(enters, column, basic[every, row])
    work = torch.where(work.abs() <= tolerances.ELIMINATED, 0.0, work)
    return Tableau(work[:, :, :columns], work[:, :, columns:], basic)


class Equations:
    """Those of a tableau for a batch; differentiable in the numbers.

    Args:
        f: the entropy.
        tableau: of columns in units of v.
        linear: u of the event, 0 of other columns, ``(batch, columns)``.
        t: temperatures of all columns.
        right: r, ``(batch, rows)``.
        bounded, moving: columns with an entropy; those that are not pinned.
        events: how many columns are the event's: others have the categorical entropy.
    """

    def __init__(
        self,
        f: SeparableRegularizer,
        tableau: Tableau,
        linear: torch.Tensor,
        t: torch.Tensor,
        right: torch.Tensor,
        bounded: torch.Tensor,
        moving: torch.Tensor,
        events: int,
    ):
        self._f, self._events, self.T, self.t, self._linear = f, events, tableau.matrix, t, linear
        self.moving = (moving & bounded)[:, None, :]
        self.place = tableau.basic.clamp(min=0)
        self.there = (tableau.basic >= 0) & bounded[self.place]  # rows of others only say what these are
        self._u = linear.gather(1, self.place)
        beta = (tableau.transform @ right[:, :, None])[:, :, 0]
        size = (tableau.transform.abs() @ right.detach().abs()[:, :, None])[:, :, 0]
        zero = beta.detach().abs() <= tolerances.CANCELLED * size
        self._change = torch.where(zero, beta - beta.detach(), 0.0)  # of 0: it counts in derivatives alone
        beta = torch.where(zero, 0.0, beta)
        self._signed = [_log_where(sign * self.T) for sign in (1.0, -1.0)]
        self._constants = [_log_where(-sign * beta)[:, :, None] for sign in (1.0, -1.0)]

    def unknowns(self, s: torch.Tensor) -> torch.Tensor:
        """mu at slopes of all columns, ``(batch, rows)``."""
        return torch.where(self.there, self.t.gather(1, self.place) * s.gather(1, self.place) - self._u, 0.0)

    def slopes(self, mu: torch.Tensor) -> torch.Tensor:
        """Of all columns."""
        return (self._linear + self.along(mu)) / self.t

    def along(self, mu: torch.Tensor) -> torch.Tensor:
        """T' mu."""
        return (mu[:, None, :] @ self.T)[:, 0]

    def logarithms(self, mu: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """log v and log d of all columns."""
        s, events = self.slopes(mu), self._events
        log_v, log_curved = logarithms(self._f, s[:, :events])
        rest = s[:, events:] - 1
        return torch.cat([log_v, rest], 1), torch.cat([log_curved, rest], 1) - self.t.log()

    def sides(self, log_v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logarithms of positive and negative terms, ``(batch, rows)``."""
        found = []
        for signed, constant in zip(self._signed, self._constants, strict=True):
            terms = torch.where(self.moving, signed + log_v[:, None, :], _NOTHING)
            found.append(torch.cat([terms, constant], 2).logsumexp(2))
        return found[0], found[1]

    def ratios(self, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
        """Logarithms of the ratios of ``sides``, absolute, ``(batch, rows)``; infinite where a row has no solution."""
        found = torch.where(self.there, positive - negative, 0.0).abs().nan_to_num(torch.inf)
        return torch.where(found < -0.5 * _NOTHING, found, torch.inf)

    def step(self, mu: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        """Newton's, of the ``rows``; NaN where there is none."""
        log_v, log_d = self.logarithms(mu)
        positive, negative = self.sides(log_v)
        wanted = self.there if rows is None else self.there & rows
        solvable = wanted & (positive.detach() > 0.5 * _NOTHING) & (negative.detach() > 0.5 * _NOTHING)
        unit = log_d.gather(1, self.place).detach() - positive  # of a row
        scale = (
            torch.where(self.T > 0, 0.0, (negative - positive)[:, :, None]) + positive[:, :, None] + unit[:, :, None]
        )
        ratio = (log_d[:, None, :] - torch.where(solvable[:, :, None], scale, 0.0)).clamp(max=tolerances.EXPONENT).exp()
        A = torch.where(self.moving & solvable[:, :, None], self.T * ratio, 0.0) @ self.T.mT
        eye = torch.eye(A.shape[1], dtype=A.dtype, device=A.device)
        A = torch.where(solvable[:, :, None] & solvable[:, None, :], A, eye)
        change = self._change * (-positive.detach()).clamp(max=tolerances.EXPONENT).exp()
        right = (negative - positive + change) * (-unit).clamp(max=tolerances.EXPONENT).exp()
        solution, failed = torch.linalg.solve_ex(A, torch.where(solvable, right, 0.0))
        return torch.where((failed != 0)[:, None], torch.nan, solution)


def _log_where(x: torch.Tensor) -> torch.Tensor:
    """log x where x is positive."""
    return torch.where(x > 0, torch.where(x > 0, x, 1.0).log(), _NOTHING)
