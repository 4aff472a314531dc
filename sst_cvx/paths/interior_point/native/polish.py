"""Newton's method on the active set of one element, as ``..polish``."""

from __future__ import annotations

from math import inf, isfinite

from sst_cvx.native import compiled
from sst_cvx.paths.interior_point.native import phi
from sst_cvx.paths.interior_point.native.active import factor_active, refined
from sst_cvx.paths.interior_point.native.interior import shorter_step
from sst_cvx.paths.interior_point.native.systems import dual_residual, larger, residual


@compiled
def polish(hull, rules, tol, element, space, near, point):
    """From the interior-point solution ``near`` to ``point``; whether it is right."""
    _guess(rules, tol, element, near, point, tol.active)
    weak, events = space.column, hull.events
    weak[:] = 0.0
    for b in range(rules.sign.shape[0]):
        weak[rules.barrier[b]] += near.z[b]
    for j in range(weak.shape[0]):
        # Multipliers of auxiliary columns and their rows are rarely unique, so small signs mean nothing.
        vague = rules.auxiliary and j >= events
        space.wrong[j] = tol.wrong if weak[j] < tol.weak and not vague else inf
    accepted = _settle(hull, rules, tol, element, space, near, point)
    if not accepted:
        accepted = _newton(hull, rules, tol, element, space, point, tol.many_rounds)
    if rules.auxiliary and rules.steep and _pulls(hull, rules, tol, element, space, point):
        return False  # one bound too many is fixed: the tensor code tries with fewer
    if rules.moves:
        _lean(hull, rules, element, space, point)
    distance, size = 0.0, 0.0
    for i in range(events):
        distance, size = larger(distance, abs(point.w[i] - near.w[i])), larger(size, abs(near.w[i]))
    finite = True
    for j in range(point.w.shape[0]):
        finite = finite and isfinite(point.w[j])
    near_enough = distance <= tol.nearby * (1.0 + size)
    return accepted and finite and near_enough and _outside(element, point) <= tol.accepted_outside


@compiled
def _guess(rules, tol, element, near, point, ratio):
    """Bounds are active whose multipliers are ``ratio`` times their gaps; of two close ones, that with the larger."""
    point.side[:] = 0.0
    for b in range(rules.sign.shape[0]):
        j = rules.barrier[b]
        if near.z[b] > ratio * (rules.sign[b] * near.w[j] - element.ends[b]):
            point.side[j] -= rules.sign[b] * near.z[b]
    for j in range(point.side.shape[0]):
        vote = point.side[j]
        point.side[j] = -1.0 if element.pinned[j] or vote < 0.0 else (1.0 if vote > 0.0 else 0.0)
    point.w[:] = near.w
    point.y[:] = near.y
    pin(element, point)


@compiled
def pin(element, point):
    """Active columns to their bounds."""
    for j in range(point.w.shape[0]):
        if point.side[j] < 0.0:
            point.w[j] = element.lower[j]
        elif point.side[j] > 0.0:
            point.w[j] = element.upper[j]


@compiled
def _outside(element, point):
    """Largest distance beyond a bound."""
    found = -inf
    for j in range(point.w.shape[0]):
        found = larger(found, max(element.lower[j] - point.w[j], point.w[j] - element.upper[j]))
    return found


@compiled
def _push(hull, rules, element, space, point):
    """u - t f'(x) - M' y into ``space.dual``: zero on free columns, the multiplier of the bound on others."""
    dual_residual(hull, element.values, element.linear, point.y, space.dual)
    for i in range(hull.events):
        space.dual[i] -= element.temperature[i] * phi.slope(rules.kind, rules.alpha, point.w[i])


@compiled
def _pulls(hull, rules, tol, element, space, point):
    """Whether a fixed column pulls inwards as only one that should be free does."""
    _push(hull, rules, element, space, point)
    most = -inf
    for j in range(point.w.shape[0]):
        most = larger(most, -point.side[j] * space.dual[j])
    return not most <= tol.wrong_auxiliary * element.coldest


@compiled
def _lean(hull, rules, element, space, point):
    """Pinned columns to the bound against which they push: with that one they move."""
    _push(hull, rules, element, space, point)
    for j in range(point.w.shape[0]):
        if element.pinned[j]:
            push = space.dual[j]
            if j < hull.events:  # phi' is infinite at a steep end: only away from it
                push = inf if point.w[j] == rules.lower_steep else push
                push = -inf if point.w[j] == rules.upper_steep else push
            point.side[j] = 1.0 if push > 0.0 else -1.0
    pin(element, point)


@compiled
def _settle(hull, rules, tol, element, space, near, point):
    """Newton steps and changes of the active set by turns; whether it is right."""
    accepted = False
    for _ in range(tol.changes):
        accepted = _newton(hull, rules, tol, element, space, point, tol.rounds)
        if not _change(hull, rules, tol, element, space, near, point):
            return accepted
    return False


@compiled
def _change(hull, rules, tol, element, space, near, point):
    """Fix columns that left the bounds, release those that pull inwards; whether the active set changed."""
    _push(hull, rules, element, space, point)
    changed = not _outside(element, point) <= tol.outside
    for j in range(point.w.shape[0]):
        if point.side[j] == 0.0:
            if point.w[j] < element.lower[j]:
                point.side[j] = -1.0
            elif point.w[j] > element.upper[j]:
                point.side[j] = 1.0
        elif -point.side[j] * space.dual[j] > space.wrong[j] and not element.pinned[j]:
            changed = True
            point.side[j] = 0.0
            point.w[j] = near.w[j]  # not from the bound, where the curvature may be infinite
    pin(element, point)
    return changed


@compiled
def _errors(hull, rules, tol, element, space, point):
    """Right sides of a Newton step into p, q and d of ``space``; the error, in units of x."""
    events, worst = hull.events, 0.0
    _push(hull, rules, element, space, point)
    for j in range(point.w.shape[0]):
        free = point.side[j] == 0.0
        left = space.dual[j] if free else 0.0
        if j < events:
            t, x = element.temperature[j], point.w[j]
            if rules.inverts:  # what x would be with these multipliers: where x is tiny, that may be far away
                implied = phi.inverse_slope(
                    rules.kind, rules.alpha, phi.slope(rules.kind, rules.alpha, x) + left / t
                )
                if rules.steep_everywhere:  # no coordinate sticks to an end where its curvature is infinite
                    point.w[j] = implied if free else x
                    left = 0.0
                else:
                    worst = larger(worst, abs(implied - x))
            space.d[j] = phi.inverse_curvature(rules.kind, rules.alpha, point.w[j]) / t
            if not rules.inverts:
                worst = larger(worst, abs(left * space.d[j]))
            if not free:
                space.d[j] = 0.0
            if space.d[j] == 0.0:
                left = 0.0
        else:
            worst = larger(worst, abs(left) / element.coldest)
            space.d[j] = 1.0 / (tol.proximal_active * element.coldest) if free else 0.0
        space.p[j] = left
    residual(hull, element.values, element.right, point.w, space.q)
    primal, size = 0.0, 0.0
    for i in range(space.q.shape[0]):
        primal, size = larger(primal, abs(space.q[i])), larger(size, abs(element.right[i]))
    return larger(worst, primal / (1.0 + size))


@compiled
def _newton(hull, rules, tol, element, space, point, rounds):
    """Solve with the active set as it is; whether the residuals are those of a solution."""
    worst = inf
    for attempt in range(rounds + 1):
        worst = _errors(hull, rules, tol, element, space, point)
        if attempt == rounds or (attempt and worst <= 10.0 * tol.exact):
            break
        if not factor_active(hull, element.values, tol, space, element.coldest):
            return False
        proximal = tol.proximal_active * element.coldest
        refined(hull, element.values, tol, space, 1.0, tol.newton_refinements, proximal)
        for j in range(point.w.shape[0]):
            dx = space.dw[j]
            if j < hull.events and rules.inverts and not rules.steep_everywhere:
                x = point.w[j]
                slope, curvature = phi.slope(rules.kind, rules.alpha, x), phi.curvature(rules.kind, rules.alpha, x)
                point.w[j] = shorter_step(rules, x, dx, slope, curvature)
            else:
                point.w[j] += dx
        for i in range(point.y.shape[0]):
            point.y[i] += space.dy[i]
    return worst <= tol.accepted
