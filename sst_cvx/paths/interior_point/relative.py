"""Entropies with relative accuracy: log x and log (1 - x), where x has no digits left or underflows.

From an approximate solution, by Newton's method in the tableau (``tableau``). Columns without entropy, slacks and
auxiliary ones, get a categorical one of a lower temperature, by ``LEVELS``: no active set has to be guessed, a bound is
active where the logarithm of the distance is low. That moves the logarithms of the event by the last level times those
of such distances.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from sst_cvx.paths.interior_point import tolerances
from sst_cvx.paths.interior_point.problem import Batched
from sst_cvx.paths.interior_point.standard_form import StandardForm
from sst_cvx.paths.interior_point.tableau import Equations, Tableau, eliminate, logarithms
from sst_cvx.regularizers import BinaryEntropy, SeparableRegularizer


class LiftedRows:
    """A standard form with every bound as the zero of a column: { w = origin + sign v : M v = r, v >= 0 }.

    Bounds of event columns within the domain, and second bounds of others, are further rows with a slack.

    Attributes:
        matrix: M in units of w, ``(rows, columns)``.
        bounded: columns that have a bound, ``(columns,)``.
        events: number of event columns.
    """

    def __init__(self, form: StandardForm, f: SeparableRegularizer, device: torch.device):
        self.events, columns = form.event_columns, form.columns
        event, there = np.arange(columns) < self.events, ~np.isinf(form.ends)  # NaN: depends on parameters
        for side in (0, 1):
            there[side] &= ~event | (form.ends[side] != f.domain[side])
        low, high = np.flatnonzero(there[0] & event), np.flatnonzero(there[1] & (there[0] | event))
        column, total = np.concatenate([low, high]), columns + low.size + high.size
        further = np.zeros((column.size, total))
        further[np.arange(column.size), column] = 1.0
        further[:, columns:] = np.diag(np.repeat([-1.0, 1.0], [low.size, high.size]))
        matrix = np.vstack([np.pad(form.matrix.toarray(), ((0, 0), (0, total - columns))), further])
        bounded = np.pad(there.any(0) | event, (0, total - columns), constant_values=True)
        lists = low, high, column, np.flatnonzero(there[0] & ~event), np.flatnonzero(~there[0] & there[1] & ~event)
        self._low, self._high, self._further, self._from_below, self._from_above = (
            torch.as_tensor(part, device=device) for part in lists
        )
        self.matrix, self.bounded = torch.as_tensor(matrix, device=device), torch.as_tensor(bounded, device=device)

    def right(self, right: torch.Tensor, bounds: torch.Tensor) -> torch.Tensor:
        """r, ``(batch, rows)``, in units of w."""
        return torch.cat([right, bounds[:, 0, self._low], bounds[:, 1, self._high]], 1)

    def origin(self, bounds: torch.Tensor, pinned: torch.Tensor) -> torch.Tensor:
        """Of all columns, ``(batch, columns)``; pinned ones stay there."""
        lower, upper = bounds.unbind(1)
        base = torch.zeros_like(lower)
        base = base.index_copy(1, self._from_below, lower[:, self._from_below])
        base = base.index_copy(1, self._from_above, upper[:, self._from_above])
        return torch.nn.functional.pad(torch.where(pinned, lower, base), (0, self._further.numel()))

    def sign(self, like: torch.Tensor) -> torch.Tensor:
        """-1 for columns that count from above, else 1, ``(batch, columns)``."""
        return like.new_ones(len(like), len(self.bounded)).index_fill(1, self._from_above, -1.0)

    def moving(self, pinned: torch.Tensor) -> torch.Tensor:
        """Columns that are not pinned, nor slacks of those."""
        return ~torch.cat([pinned, pinned[:, self._further]], 1)

    def distances(self, w: torch.Tensor, bounds: torch.Tensor) -> torch.Tensor:
        """v of the columns beyond the event, positive."""
        lower, upper = bounds.unbind(1)
        v = torch.where(torch.isfinite(lower), w - lower, torch.where(torch.isfinite(upper), upper - w, 1.0))
        slack = [(w - lower)[:, self._low], (upper - w)[:, self._high]]
        return torch.cat([v[:, self.events :], *slack], 1).clamp(min=tolerances.NEAREST)


@dataclass
class Given(Batched):
    """What the equations of each element are made of, in units of w.

    Attributes:
        linear, t: utilities and temperatures of the event columns.
        right, origin: ``(batch, rows)`` and ``(batch, columns)``.
        sign, moving: of all columns.
    """

    linear: torch.Tensor
    t: torch.Tensor
    right: torch.Tensor
    origin: torch.Tensor
    sign: torch.Tensor
    moving: torch.Tensor


@dataclass
class Relative(Batched):
    """Where the equations of each element are solved.

    Attributes:
        s: slopes of all columns, of the event in units of x, of others in units of v.
        sign: of all columns, -1 for event columns counted from their upper end.
        matrix, transform, basic: the tableau.
        level: the last one that is solved; infinite if none is.
    """

    s: torch.Tensor
    sign: torch.Tensor
    matrix: torch.Tensor
    transform: torch.Tensor
    basic: torch.Tensor
    level: torch.Tensor

    @property
    def tableau(self) -> Tableau:
        return Tableau(self.matrix, self.transform, self.basic)


def refine(f: SeparableRegularizer, rows: LiftedRows, given: Given, s: torch.Tensor) -> Relative:
    """Solve at slopes with relative accuracy, from approximate ones ``s`` of all columns."""
    if len(rows.bounded) == rows.events:
        return _descend(f, rows, given, s, tolerances.LEVELS[-1:])
    answer = _descend(f, rows, given, s, tolerances.LEVELS)
    for levels in tolerances.PATIENT_LEVELS:
        again = torch.nonzero(answer.level > tolerances.LEVELS[-1]).flatten()
        if not again.numel():
            break
        answer.put(again, _descend(f, rows, given.take(again), s[again], levels))
    return answer


def _descend(
    f: SeparableRegularizer, rows: LiftedRows, given: Given, s: torch.Tensor, levels: tuple[float, ...]
) -> Relative:
    """By one schedule of levels, each from the solution of the one before."""
    answer: Relative | None = None
    for level in levels:
        todo = torch.arange(len(s), device=s.device)
        for _ in range(tolerances.ELIMINATIONS):
            found = _solve(f, rows, given.take(todo), s[todo], level)
            if answer is None:
                answer = found
            else:
                answer.put(todo, found)
            s = answer.s.clone()
            todo = todo[found.level > level]
            if not todo.numel():
                break
    assert answer is not None
    return answer


def equations(f: SeparableRegularizer, rows: LiftedRows, given: Given, at: Relative, level: float) -> Equations:
    """Of the tableau; differentiable in what is given."""
    further = len(rows.bounded) - rows.events
    flipped = torch.nn.functional.pad((at.sign[:, : rows.events] < 0).to(given.t.dtype), (0, further))
    linear = torch.nn.functional.pad(given.linear * at.sign[:, : rows.events], (0, further))
    right = given.right - (given.origin + flipped) @ rows.matrix.T
    t = _temperatures(rows, given, level)
    return Equations(f, at.tableau, linear, t, right, rows.bounded, given.moving, rows.events)


def _temperatures(rows: LiftedRows, given: Given, level: float) -> torch.Tensor:
    """Of all columns: those beyond the event have the coldest of the event, times the level."""
    coldest = given.t.amin(1, keepdim=True)
    return torch.cat([given.t, (level * coldest).expand(-1, len(rows.bounded) - rows.events)], 1)


def _solve(f: SeparableRegularizer, rows: LiftedRows, given: Given, s: torch.Tensor, level: float) -> Relative:
    """One elimination, by the slopes as they are, and Newton's method while it fits."""
    sign, events = given.sign.clone(), rows.events
    if isinstance(f, BinaryEntropy):
        nearer = torch.where((s[:, :events] > 0) & given.moving[:, :events], -1.0, 1.0)
        sign[:, :events] = nearer
        s = torch.cat([s[:, :events] * nearer, s[:, events:]], 1)
    t = _temperatures(rows, given, level)
    priority = torch.cat([logarithms(f, s[:, :events])[1], s[:, events:] - 1], 1) - t.log()
    priority = torch.where(rows.bounded, priority, torch.inf)
    tableau = eliminate(rows.matrix * sign[:, None, :], torch.where(given.moving, priority, -torch.inf))
    never = torch.full_like(t[:, 0], torch.inf)
    at = Relative(s, sign, tableau.matrix, tableau.transform, tableau.basic, never)
    system = equations(f, rows, given, at, level)
    mu, solved = _newton(system, system.unknowns(s), events)
    slopes = system.slopes(mu)
    solved &= ~_misfits(system, mu, events, tolerances.FITS)
    if isinstance(f, BinaryEntropy):
        solved &= (slopes[:, :events] < tolerances.FITS).all(1)
    solved &= _largest_term(system, mu) < tolerances.LARGEST_TERM
    good = torch.isfinite(slopes).all(1, keepdim=True)
    slopes = torch.where(good, slopes, s)
    at.s = torch.cat(
        [slopes[:, :events] * sign[:, :events].where(given.moving[:, :events], 1.0), slopes[:, events:]], 1
    )
    at.level = torch.where(solved & good[:, 0], torch.full_like(at.level, level), torch.inf)
    return at


def _misfits(system: Equations, mu: torch.Tensor, events: int, margin: float) -> torch.Tensor:
    """Elements with a row of the event in which another term is larger than that of the basic column, by the margin."""
    log_v, _ = system.logarithms(mu)
    own = torch.where(system.there & (system.place < events), log_v.gather(1, system.place), torch.inf)
    larger = (system.T != 0) & system.moving & (log_v[:, None, :] > own[:, :, None] + margin)
    return larger.flatten(1).any(1)


def _newton(system: Equations, mu: torch.Tensor, events: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Damped steps; and which elements' event has settled. Others stop where the tableau does not fit any more."""
    going = torch.ones(len(mu), dtype=torch.bool, device=mu.device)
    solved = ~going
    residual = _residual(system, mu, events)
    for _ in range(tolerances.RELATIVE_STEPS):
        step = newton_step(system, mu, events)
        going = going & torch.isfinite(step).all(1)
        step = torch.where(going[:, None], step, 0.0)
        change = (system.along(step) / system.t)[:, :events].abs()
        size = (change / (1 + system.slopes(mu)[:, :events].abs())).amax(1)
        taken, residual = _shortened(system, mu, step, residual, events)
        mu, going = mu + taken, going & taken.any(1) | (size == 0)
        solved = solved | (going & (torch.maximum(size, residual.amax(1)) <= tolerances.RELATIVE))
        going = going & ~solved & ~_misfits(system, mu, events, tolerances.FITS_STILL)
        if not bool(going.any()):
            break
    return mu, solved


def _shortened(
    system: Equations, mu: torch.Tensor, step: torch.Tensor, residual: torch.Tensor, events: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """As much of the step that residuals fall, or nothing; and those there."""
    fraction, worst = torch.ones_like(mu[:, :1]), residual.amax(1, keepdim=True)
    for _ in range(tolerances.HALVINGS):
        there = _residual(system, mu + fraction * step, events)
        short = ~(there.amax(1, keepdim=True) <= worst * (1 - 0.1 * fraction) + tolerances.RELATIVE)
        if not bool(short.any()):
            break
        fraction = torch.where(short, fraction / 2, fraction)
    fraction = torch.where(short, 0.0, fraction)
    return fraction * step, torch.where(short, residual, there)


def _largest_term(system: Equations, mu: torch.Tensor) -> torch.Tensor:
    """Logarithm of the largest term of any row, ``(batch,)``: no column of a bounded set is large."""
    positive, negative = system.sides(system.logarithms(mu)[0])
    return torch.maximum(positive, negative).amax(1)


def newton_step(system: Equations, mu: torch.Tensor, events: int) -> torch.Tensor:
    """Of all rows, or where these have none, of those that count."""
    step = system.step(mu)
    none = ~torch.isfinite(step.detach()).all(1, keepdim=True)
    if not bool(none.any()):
        return step
    return torch.where(none, system.step(mu, _counts(system, mu.detach(), events)), step)


def _residual(system: Equations, mu: torch.Tensor, events: int) -> torch.Tensor:
    """Of the rows that count, by how much they do."""
    ratios = system.ratios(*system.sides(system.logarithms(mu)[0]))
    weight = torch.where(system.place < events, 1.0, tolerances.RELATIVE_OTHERS)
    return torch.where(_counts(system, mu, events), weight * ratios, 0.0)


def _counts(system: Equations, mu: torch.Tensor, events: int) -> torch.Tensor:
    """Rows whose terms are not too small to count beside any entry of the event."""
    log_v, _ = system.logarithms(mu)
    event = torch.where(system.moving[:, 0, :events], log_v[:, :events], torch.inf)
    least = event.amin(1, keepdim=True) - tolerances.INSIGNIFICANT
    return torch.maximum(*system.sides(log_v)) >= least
