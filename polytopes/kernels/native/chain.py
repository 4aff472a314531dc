"""Sweeps over label sequences, one row of a batch after the other; arrays as in ``chain_sums``: scores, shares and
points ``(batch, steps, labels, labels)``, the label that is left before the one that is entered, which is contiguous;
``ends`` ``(batch,)``, how many steps each row has.

A log-sum takes three passes over a run of steps that stays in the first cache: best values v, and what each transition
misses of them; exponentials of all of these; sums s of exponentials, whence log-sums v + log s. These are kept apart,
as a logarithm for each label would cost as much as the rest: s is at least 1, at most the number of ways since v was a
log-sum, and v becomes one before float64 holds that number no more.
"""

from __future__ import annotations

import numpy as np

from sst_cvx.native import compiled

_RUN = 1024  # entries of a run
_WAYS = 620.0  # the logarithm of how many ways float64 holds
_LEAST = -708.0  # exponentials of less are no normal numbers
_ROUNDS = 6755399441055744.0  # 1.5 * 2^52: a number that is added to it is rounded to an integer, in its last bits


def _exponentials(x):  # type: ignore[no-untyped-def]
    """exp of numbers of at most 0, in place, within 2 units in the last place: 2^k e^r, |r| <= log(2) / 2, as vectors
    (Cody and Waite 1980). Four times as fast as torch's."""
    for i in range(len(x)):
        v = max(x[i], _LEAST)
        z = v * 1.4426950408889634 + _ROUNDS
        k = z - _ROUNDS
        r = (v - k * 6.93145751953125e-1) - k * 1.42860682030941723212e-6
        p = 1 / 6227020800.0
        p = p * r + 1 / 479001600.0
        p = p * r + 1 / 39916800.0
        p = p * r + 1 / 3628800.0
        p = p * r + 1 / 362880.0
        p = p * r + 1 / 40320.0
        p = p * r + 1 / 5040.0
        p = p * r + 1 / 720.0
        p = p * r + 1 / 120.0
        p = p * r + 1 / 24.0
        p = p * r + 1 / 6.0
        p = p * r + 0.5
        p = p * r + 1.0
        p = p * r + 1.0
        bits = (np.float64(z).view(np.int64) << 52) + np.float64(p).view(np.int64)
        power = np.int64(bits).view(np.float64)
        x[i] = power if x[i] >= _LEAST else (0.0 if x[i] < _LEAST else np.nan)


exponentials = compiled(_exponentials, fastmath={"contract"})


@compiled
def _missed(scores, allowed, masked, v, new, part):  # type: ignore[no-untyped-def]
    """One step: best values, ``v`` before and after, and what each transition misses of them; -inf without any way."""
    labels = len(v)
    for b in range(labels):
        new[b] = -np.inf
    for a in range(labels):
        value, row, out = v[a], scores[a], part[a]
        for b in range(labels):
            out[b] = value + row[b]
        if masked:
            may = allowed[a]
            for b in range(labels):
                out[b] = out[b] if may[b] else -np.inf
        for b in range(labels):
            new[b] = new[b] if new[b] >= out[b] else out[b]
    for b in range(labels):
        v[b] = new[b] if new[b] != -np.inf else 0.0
    for a in range(labels):
        out = part[a]
        for b in range(labels):
            out[b] -= v[b]
    for b in range(labels):
        v[b] = new[b]


@compiled
def _summed(part, s, total):  # type: ignore[no-untyped-def]
    """One step of sums: ``part``, exponentials, becomes the terms of the sums, ``total``."""
    labels = len(s)
    for b in range(labels):
        total[b] = 0.0
    for a in range(labels):
        factor, row = s[a], part[a]
        for b in range(labels):
            row[b] *= factor
            total[b] += row[b]
    for b in range(labels):
        s[b] = total[b]


@compiled
def _share(part, total, share):  # type: ignore[no-untyped-def]
    """Terms over sums; 0 without any."""
    labels = len(total)
    for b in range(labels):
        total[b] = 1.0 / total[b] if total[b] != 0.0 else 0.0
    for a in range(labels):
        row, out = part[a], share[a]
        for b in range(labels):
            out[b] = row[b] * total[b]


@compiled
def _ended(v, s, last):  # type: ignore[no-untyped-def]
    """The log-sum of a row from those of its last labels, v + log s, and the share of each."""
    top = -np.inf
    for b in range(len(v)):
        v[b] += np.log(s[b])
        top = top if top >= v[b] else v[b]
    total = 0.0
    for b in range(len(v)):
        last[b] = np.exp(v[b] - top) if v[b] != -np.inf else 0.0
        total += last[b]
    for b in range(len(v)):
        last[b] = last[b] / total if total != 0.0 else 0.0
    return top + np.log(total) if total != 0.0 else top


def _flows(steps, share, last, flow, x):  # type: ignore[no-untyped-def]
    """Of one row, from its shares to its marginals; ``flow`` (2, labels) is scratch."""
    labels, here, before = len(last), flow[0], flow[1]
    for b in range(labels):
        here[b] = last[b]
    for step in range(steps):
        p, out = share[steps - 1 - step], x[steps - 1 - step]
        for a in range(labels):
            row, to, total = p[a], out[a], 0.0
            for b in range(labels):
                term = row[b] * here[b]
                to[b] = term
                total += term
            before[a] = total
        for b in range(labels):
            here[b] = before[b]


flows = compiled(_flows, fastmath={"contract", "reassoc"})


@compiled
def sums(scores, allowed, ends, value, last, shared, share, x):  # type: ignore[no-untyped-def]
    """Log-sums ``(batch,)``, shares of the last labels ``(batch, labels)``; if ``shared``, of transitions; marginals.

    ``allowed``, bool of the shape of the scores, may have no rows: all are. ``share`` may have one row, which is then
    scratch, ``x`` none: marginals are then not asked for. Without any way: -inf, and all zeros.
    """
    batch, labels = scores.shape[0], scores.shape[2]
    run = max(1, _RUN // (labels * labels))
    part, nothing = np.empty((run, labels, labels)), np.zeros((1, 1, 1), np.bool_)
    v, s, new, total = np.empty(labels), np.empty(labels), np.empty(labels), np.empty(labels)
    flow, masked, each = np.empty((2, labels)), len(allowed) > 0, run * np.log(labels)
    for r in range(batch):
        own, mine = share[min(r, len(share) - 1)], allowed[r] if masked else nothing
        v[:], s[:], ways, low, end = 0.0, 1.0, 0.0, 0, ends[r]
        while low < end:
            high = min(low + run, end)
            ways += each
            if ways > _WAYS:
                ways = each
                for b in range(labels):
                    v[b] += np.log(s[b])
                    s[b] = 1.0 if s[b] != 0.0 else 0.0
            for i in range(low, high):
                _missed(scores[r, i], mine[i if masked else 0], masked, v, new, part[i - low])
            exponentials(part[: high - low].reshape((high - low) * labels * labels))
            for i in range(low, high):
                _summed(part[i - low], s, total)
                if shared:
                    _share(part[i - low], total, own[i])
            low = high
        value[r] = _ended(v, s, last[r])
        if shared:
            own[end:] = 0.0
        if len(x):
            flows(end, own, last[r], flow, x[r])
            x[r, end:] = 0.0


def _turned(steps, share, last, x, g, rise, fall, out):  # type: ignore[no-untyped-def]
    """Of one row: the Hessian of the log-sum times g, which counts only where there is a share; ``rise``
    ``(steps + 1, labels)`` and ``fall (2, labels)`` are scratch.

    With D_i+1[b] = sum_a p_i[a, b] (D_i[a] + g_i[a, b]), the derivative of log-sums, marginals change by
    x (D_i[a] + g) + p h_i+1[b], where h_i[a] = sum_b (x g + p h_i+1[b]) and at the end h = -last <last, D>.
    """
    labels = len(last)
    for b in range(labels):
        rise[0, b] = 0.0
    for i in range(steps):
        new, old = rise[i + 1], rise[i]
        for b in range(labels):
            new[b] = 0.0
        for a in range(labels):
            value, p, row = old[a], share[i, a], g[i, a]
            for b in range(labels):
                new[b] += p[b] * (value + (row[b] if p[b] != 0.0 else 0.0))
    here, before, mean = fall[0], fall[1], 0.0
    for b in range(labels):
        mean += last[b] * rise[steps, b]
    for b in range(labels):
        here[b] = -last[b] * mean
    for step in range(steps):
        i = steps - 1 - step
        for a in range(labels):
            value, p, y, row, to, total = rise[i, a], share[i, a], x[i, a], g[i, a], out[i, a], 0.0
            for b in range(labels):
                term = y[b] * (row[b] if p[b] != 0.0 else 0.0) + p[b] * here[b]
                to[b] = y[b] * value + term
                total += term
            before[a] = total
        for b in range(labels):
            here[b] = before[b]


turned = compiled(_turned, fastmath={"contract", "reassoc"})


@compiled
def curvature(ends, share, last, x, g, out):  # type: ignore[no-untyped-def]
    """The Hessian of every row's log-sum times g, of the shape of the scores."""
    steps, labels = share.shape[1], share.shape[2]
    rise, fall = np.empty((steps + 1, labels)), np.empty((2, labels))
    for r in range(len(share)):
        turned(ends[r], share[r], last[r], x[r], g[r], rise, fall, out[r])
        out[r, ends[r] :] = 0.0


def _linear(up, weight, x):  # type: ignore[no-untyped-def]
    """x_i+1[b] += sum_a weight_i[a, b] x_i[a], in the order of the steps; ``up``, from the end: x_i[a] += sum_b
    weight_i[a, b] x_i+1[b]. ``x`` is ``(batch, steps + 1, labels)``."""
    batch, steps, labels, _ = weight.shape
    for r in range(batch):
        for step in range(steps):
            i = steps - 1 - step if up else step
            old, new = x[r, i], x[r, i + 1]
            for a in range(labels):
                row = weight[r, i, a]
                if up:
                    total = 0.0
                    for b in range(labels):
                        total += row[b] * new[b]
                    old[a] += total
                else:
                    value = old[a]
                    for b in range(labels):
                        new[b] += row[b] * value


linear = compiled(_linear, fastmath={"contract", "reassoc"})


@compiled
def best(scores, allowed, ends, x):  # type: ignore[no-untyped-def]
    """Viterbi: a sequence of largest score to each row of ``x``, zeros; the first of equal labels, from the end. All
    zeros, where ``allowed`` (no rows: all are) leaves none."""
    batch, steps, labels, _ = scores.shape
    value, new = np.empty(labels), np.empty(labels)
    entered, masked = np.empty((steps, labels), np.int64), len(allowed) > 0
    for r in range(batch):
        value[:] = 0.0
        for i in range(ends[r]):
            into = entered[i]
            if masked:
                new[:], into[:] = -np.inf, 0
            for a in range(labels):
                row, here = scores[r, i, a], value[a]
                if masked:
                    may = allowed[r, i, a]
                    for b in range(labels):
                        term = here + row[b] if may[b] else -np.inf
                        into[b] = a if term > new[b] else into[b]
                        new[b] = term if term > new[b] else new[b]
                elif a == 0:
                    for b in range(labels):
                        new[b], into[b] = here + row[b], 0
                else:
                    for b in range(labels):
                        term = here + row[b]
                        into[b] = a if term > new[b] else into[b]
                        new[b] = term if term > new[b] else new[b]
            value[:] = new
        label = np.argmax(value)
        for step in range(ends[r] if value[label] != -np.inf else 0):
            i = ends[r] - 1 - step
            x[r, i, entered[i, label], label] = 1.0
            label = entered[i, label]


@compiled
def drawn(share, last, uniform, x):  # type: ignore[no-untyped-def]
    """A sequence to each row of ``x``, zeros, from the last label back, by shares; ``uniform (batch, steps + 1)``."""
    batch, steps, labels, _ = share.shape
    for r in range(batch):
        label, rest = 0, uniform[r, steps] * last[r].sum()
        for b in range(labels):
            if last[r, b] > 0.0:
                label = b
                rest -= last[r, b]
                if rest < 0.0:
                    break
        for step in range(steps):
            i, total = steps - 1 - step, 0.0
            for a in range(labels):
                total += share[r, i, a, label]
            rest, before = uniform[r, i] * total, 0
            for a in range(labels):
                if share[r, i, a, label] > 0.0:
                    before = a
                    rest -= share[r, i, a, label]
                    if rest < 0.0:
                        break
            x[r, i, before, label] = 1.0
            label = before


def _imbalance(steps, x, entered, into):  # type: ignore[no-untyped-def]
    """Of one row: how far it is from nonnegative unit flow; NaN if an entry is. ``entered``, ``into``: scratch."""
    labels, worst, low, begun = x.shape[1], 0.0, 0.0, -1.0
    for i in range(steps):
        for b in range(labels):
            into[b] = 0.0
        for a in range(labels):
            row, left = x[i, a], 0.0
            for b in range(labels):
                left += row[b]
                into[b] += row[b]
                low = row[b] if row[b] < low else low
            if i == 0:
                begun += left
            else:
                off = abs(left - entered[a])
                worst = off if not off <= worst else worst
        for b in range(labels):
            entered[b] = into[b]
    total = 0.0
    for b in range(labels):
        total += entered[b]
    off = max(worst, abs(begun), -low)
    return off if total == total and worst == worst and begun == begun else np.nan


_imbalanced = compiled(_imbalance, fastmath={"contract", "reassoc"})


@compiled
def imbalance(x, ends, found):  # type: ignore[no-untyped-def]
    """``found``, ``(batch,)``: how far points are from nonnegative unit flow."""
    entered, into = np.empty(x.shape[2]), np.empty(x.shape[2])
    for r in range(len(x)):
        found[r] = _imbalanced(ends[r], x[r], entered, into)


@compiled
def lengths(allowed, ends):  # type: ignore[no-untyped-def]
    """``ends``, ``(batch,)``: after how many steps ``allowed`` allows nothing; all, where it allows nothing at all."""
    batch, steps, labels, _ = allowed.shape
    for r in range(batch):
        end, found = steps, False
        while end > 0 and not found:
            for a in range(labels):
                for b in range(labels):
                    if allowed[r, end - 1, a, b]:
                        found = True
                        break
                if found:
                    break
            end -= not found
        ends[r] = end if found else steps
