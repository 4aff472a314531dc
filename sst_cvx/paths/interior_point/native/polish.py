"""Newton's method on the active set of one element, as ``..polish``."""

from __future__ import annotations

from math import inf, isfinite

from sst_cvx.paths.interior_point.native import layout as at
from sst_cvx.paths.interior_point.native import phi
from sst_cvx.paths.interior_point.native.active import factor_active, refined
from sst_cvx.paths.interior_point.native.inner import inner
from sst_cvx.paths.interior_point.native.interior import shorter_step
from sst_cvx.paths.interior_point.native.systems import copy, dual_residual, fill, larger, residual


@inner
def polish(s, start):
    """From the interior-point solution ``near`` to ``point``; whether it is right. ``start``: a point of the hull, from
    which distances are measured, or nothing."""
    _guess(s, s.k[at.ACTIVE])
    weak, events = s.c[at.SCRATCH], s.events
    fill(weak, 0.0)
    for b in range(s.b.shape[1]):
        weak[s.barrier[b]] += s.b[at.Z, b]
    for j in range(s.c.shape[1]):
        # Multipliers of auxiliary columns and their rows are rarely unique, so small signs mean nothing.
        vague = s.k[at.HAS_AUXILIARY] != 0.0 and j >= events
        s.c[at.WRONG, j] = s.k[at.WRONG_SIGN] if weak[j] < s.k[at.WEAK] and not vague else inf
    accepted = _settle(s)
    if not accepted:
        accepted = _newton(s, s.k[at.MANY_ROUNDS])
    if s.k[at.HAS_AUXILIARY] != 0.0 and s.k[at.STEEP] != 0.0 and _pulls(s):
        return False  # one bound too many is fixed: the tensor code tries with fewer
    if s.k[at.MOVES] != 0.0:
        _lean(s)
    distance, size = 0.0, 0.0
    for i in range(events):
        beyond = s.c[at.NEAR, i] - (start[i] if start.shape[0] else 0.0)
        distance, size = larger(distance, abs(s.c[at.W, i] - s.c[at.NEAR, i])), larger(size, abs(beyond))
    finite = True
    for j in range(s.c.shape[1]):
        finite = finite and isfinite(s.c[at.W, j])
    near_enough = distance <= s.k[at.NEARBY] * (1.0 + size)
    return accepted and finite and near_enough and _outside(s) <= s.k[at.ACCEPTED_OUTSIDE]


@inner
def _guess(s, ratio):
    """Bounds are active whose multipliers are ``ratio`` times their gaps; of two close ones, that with the larger."""
    fill(s.c[at.SIDE], 0.0)
    for b in range(s.b.shape[1]):
        j = s.barrier[b]
        if s.b[at.Z, b] > ratio * (s.b[at.SIGN, b] * s.c[at.NEAR, j] - s.b[at.ENDS, b]):
            s.c[at.SIDE, j] -= s.b[at.SIGN, b] * s.b[at.Z, b]
    for j in range(s.c.shape[1]):
        vote = s.c[at.SIDE, j]
        s.c[at.SIDE, j] = -1.0 if s.c[at.PINNED, j] != 0.0 or vote < 0.0 else (1.0 if vote > 0.0 else 0.0)
    copy(s.c[at.W], s.c[at.NEAR])
    copy(s.r[at.Y], s.r[at.NEAR_Y])
    pin(s)


@inner
def pin(s):
    """Active columns to their bounds."""
    for j in range(s.c.shape[1]):
        if s.c[at.SIDE, j] < 0.0:
            s.c[at.W, j] = s.c[at.LOWER, j]
        elif s.c[at.SIDE, j] > 0.0:
            s.c[at.W, j] = s.c[at.UPPER, j]


@inner
def _outside(s):
    """Largest distance beyond a bound."""
    found = -inf
    for j in range(s.c.shape[1]):
        found = larger(found, max(s.c[at.LOWER, j] - s.c[at.W, j], s.c[at.W, j] - s.c[at.UPPER, j]))
    return found


@inner
def _push(s):
    """u - t f'(x) - M' y into ``s.c[DUAL]``: zero on free columns, the multiplier of the bound on others."""
    dual_residual(s, s.c[at.LINEAR], s.r[at.Y], s.c[at.DUAL])
    for i in range(s.events):
        s.c[at.DUAL, i] -= s.c[at.TEMPERATURE, i] * phi.slope(s.k[at.KIND], s.k[at.ALPHA], s.c[at.W, i])


@inner
def _pulls(s):
    """Whether a fixed column pulls inwards as only one that should be free does."""
    _push(s)
    most = -inf
    for j in range(s.c.shape[1]):
        most = larger(most, -s.c[at.SIDE, j] * s.c[at.DUAL, j])
    return not most <= s.k[at.WRONG_AUXILIARY] * s.k[at.COLDEST]


@inner
def _lean(s):
    """Pinned columns to the bound against which they push: with that one they move."""
    _push(s)
    for j in range(s.c.shape[1]):
        if s.c[at.PINNED, j] != 0.0:
            push = s.c[at.DUAL, j]
            if j < s.events:  # phi' is infinite at a steep end: only away from it
                push = inf if s.c[at.W, j] == s.k[at.STEEP_LOW] else push
                push = -inf if s.c[at.W, j] == s.k[at.STEEP_HIGH] else push
            s.c[at.SIDE, j] = 1.0 if push > 0.0 else -1.0
    pin(s)


@inner
def _settle(s):
    """Newton steps and changes of the active set by turns; whether it is right."""
    accepted = False
    for _ in range(int(s.k[at.CHANGES])):
        accepted = _newton(s, s.k[at.ROUNDS])
        if not _change(s):
            return accepted
    return False


@inner
def _change(s):
    """Fix columns that left the bounds, release those that pull inwards; whether the active set changed."""
    _push(s)
    changed = not _outside(s) <= s.k[at.OUTSIDE]
    for j in range(s.c.shape[1]):
        if s.c[at.SIDE, j] == 0.0:
            if s.c[at.W, j] < s.c[at.LOWER, j]:
                s.c[at.SIDE, j] = -1.0
            elif s.c[at.W, j] > s.c[at.UPPER, j]:
                s.c[at.SIDE, j] = 1.0
        elif -s.c[at.SIDE, j] * s.c[at.DUAL, j] > s.c[at.WRONG, j] and s.c[at.PINNED, j] == 0.0:
            changed = True
            s.c[at.SIDE, j] = 0.0
            s.c[at.W, j] = s.c[at.NEAR, j]  # not from the bound, where the curvature may be infinite
    pin(s)
    return changed


@inner
def _errors(s):
    """Right sides of a Newton step into p, q and d of ``s``; the error, in units of x."""
    events, worst = s.events, 0.0
    _push(s)
    for j in range(s.c.shape[1]):
        free = s.c[at.SIDE, j] == 0.0
        left = s.c[at.DUAL, j] if free else 0.0
        if j < events:
            t, x = s.c[at.TEMPERATURE, j], s.c[at.W, j]
            if s.k[at.INVERTS] != 0.0:  # what x would be with these multipliers: where x is tiny, that may be far away
                implied = phi.inverse_slope(
                    s.k[at.KIND], s.k[at.ALPHA], phi.slope(s.k[at.KIND], s.k[at.ALPHA], x) + left / t
                )
                if s.k[at.STEEP_EVERYWHERE] != 0.0:  # no coordinate sticks to an end where its curvature is infinite
                    s.c[at.W, j] = implied if free else x
                    left = 0.0
                else:
                    worst = larger(worst, abs(implied - x))
            s.c[at.D, j] = phi.inverse_curvature(s.k[at.KIND], s.k[at.ALPHA], s.c[at.W, j]) / t
            if s.k[at.INVERTS] == 0.0:
                worst = larger(worst, abs(left * s.c[at.D, j]))
            if not free:
                s.c[at.D, j] = 0.0
            if s.c[at.D, j] == 0.0:
                left = 0.0
        else:
            worst = larger(worst, abs(left) / s.k[at.COLDEST])
            s.c[at.D, j] = 1.0 / (s.k[at.PROXIMAL_ACTIVE] * s.k[at.COLDEST]) if free else 0.0
        s.c[at.P, j] = left
    residual(s, s.r[at.RIGHT], s.c[at.W], s.r[at.Q])
    primal, size = 0.0, 0.0
    for i in range(s.r.shape[1]):
        primal, size = larger(primal, abs(s.r[at.Q, i])), larger(size, abs(s.r[at.RIGHT, i]))
    return larger(worst, primal / (1.0 + size))


@inner
def _newton(s, rounds):
    """Solve with the active set as it is; whether the residuals are those of a solution."""
    worst = inf
    for attempt in range(rounds + 1):
        worst = _errors(s)
        if attempt == rounds or (attempt and worst <= 10.0 * s.k[at.EXACT]):
            break
        if not factor_active(s, s.k[at.COLDEST]):
            return False
        proximal = s.k[at.PROXIMAL_ACTIVE] * s.k[at.COLDEST]
        refined(s, 1.0, s.k[at.NEWTON_REFINEMENTS], proximal)
        for j in range(s.c.shape[1]):
            dx = s.c[at.DW, j]
            if j < s.events and s.k[at.INVERTS] != 0.0 and s.k[at.STEEP_EVERYWHERE] == 0.0:
                x = s.c[at.W, j]
                slope, curvature = (
                    phi.slope(s.k[at.KIND], s.k[at.ALPHA], x),
                    phi.curvature(s.k[at.KIND], s.k[at.ALPHA], x),
                )
                s.c[at.W, j] = shorter_step(s, x, dx, slope, curvature)
            else:
                s.c[at.W, j] += dx
        for i in range(s.r.shape[1]):
            s.r[at.Y, i] += s.r[at.DY, i]
    return worst <= s.k[at.ACCEPTED]
