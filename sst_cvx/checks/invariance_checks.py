"""Checks of what must not matter: batches, dtypes, ties and huge ranges, forbidden items."""

from __future__ import annotations

from contextlib import suppress

import torch

from sst_cvx.checks.inputs import degenerate_utilities, enumerate_vertices, sample_utilities
from sst_cvx.checks.pair import BATCH, Found, Pair, flat, found_at, worst_of
from sst_cvx.checks.report import Input, NotApplicable, Worst, at
from sst_cvx.checks.value_checks import loss_beyond, marginals, off_the_ends
from sst_cvx.errors import SolveError

_REPEATS = 11  # of six utilities, in one large batch
_SINGLE = 2e-6  # error of a value in float32, in units of the hull
_SINGLE_GRADIENT = 1e-4
_FAR, _ROUNDING = 50.0, 5e-7  # utilities over t from which on their own rounding in sums counts, times this


def batch_shapes(pair: Pair) -> Found:
    """No element sees the others, whatever the batch shape and size; an empty batch is an empty answer."""
    t, event = 0.5, pair.structure.event_shape
    rows, some = ((2, 3), slice(None)) if pair.own else ((2, 2), slice(0, 4, 3))  # solvers are slow, and ours
    scales = torch.tensor([1.0, 30.0]).double().reshape(2, *[1] * (1 + len(event)))
    u = pair.around(sample_utilities(pair.structure, rows, pair.seed) * scales, t)
    whole, empty = pair.answer(u, t), u[:0]
    alone = u.reshape(-1, *event)[some]
    singles = torch.stack([pair.answer(v, t) for v in alone])
    if whole.shape != u.shape or pair.answer(empty, t).shape != empty.shape:
        raise ValueError(f"shape {tuple(whole.shape)} came back for utilities of shape {tuple(u.shape)}.")
    worst = Worst()
    worst.see(*worst_of((whole.reshape(-1, *event)[some] - singles) / pair.reach, alone, f"t={t:g}", t))
    if pair.own:
        many = alone.expand(_REPEATS, *alone.shape)
        with at(f"batch shape {tuple(many.shape[:2])}"):
            error = (pair.answer(many, t) - singles).abs() / pair.reach
        name = f"t={t:g}, in a batch of {_REPEATS} x {len(alone)}"
        worst.see(*worst_of(error.transpose(0, 1), alone, name, t))
    return worst.figure, pair.soft.accuracy().batches, worst.where


def dtypes(pair: Pair) -> Found:
    """float32 against float64 at the same utilities, values and gradients; near 0 and at some 128, too."""
    worst, some = Worst(), sample_utilities(pair.structure, (BATCH,), pair.seed + 1)
    batches = [("float32, t=0.5", some, 0.5)]
    if pair.own:
        far = 128 * some.round().clamp(-1, 1) + (16 * some.flip(0)).round() / 16  # exact in float32
        batches += [("float32, small utilities, t=0.5", some / 50, 0.5), ("float32, large utilities, t=1", far, 1.0)]
    for name, u, t in batches:
        try:
            with at(name):
                worst.see(*_single_error(pair, pair.around(u, t).float(), t, name))
        except SolveError as error:
            if pair.plain:
                raise
            raise NotApplicable(f"guards do not take float32 at this scale: {error}") from None
    return worst.figure, _SINGLE, worst.where


def _single_error(pair: Pair, u: torch.Tensor, t: float, name: str) -> tuple[float, Input]:
    cotangent = pair.cotangent()
    narrow, wide = u.clone().requires_grad_(), u.double().requires_grad_()
    with torch.set_grad_enabled(pair.own):
        single, double = pair.answer(narrow, t), pair.answer(wide, t)
    if single.dtype != torch.float32:
        raise ValueError(f"{single.dtype} came back for float32 utilities.")
    size = max(pair.extent.length, float(pair.extent.centre.abs().max()))
    far = float((u.double() - t * pair.offset).abs().max()) / (t * pair.unit)
    room = size * max(1.0, far * _ROUNDING / _SINGLE if far > _FAR else 0.0)
    error = flat(single.detach().double() - double.detach()).abs().amax(1) / room
    if pair.own:
        g, g_wide = (
            torch.autograd.grad((x * cotangent.to(x.dtype)).sum(), v)[0] for x, v in ((single, narrow), (double, wide))
        )
        excess = flat(g.double() - g_wide).abs().amax(1) * t * pair.unit / room
        error = torch.maximum(error, excess * (_SINGLE / _SINGLE_GRADIENT))
    return worst_of(error, u, name, t)


def degenerate(pair: Pair) -> Found:
    """Ties, zeros, huge ranges: an answer inside the hull with a vanishing gap, and finite gradients."""
    batches = {name: pair.around(u, 1.0) for name, u in degenerate_utilities(pair.structure, pair.seed).items()}
    if "layer" in pair.soft.ways:  # refused or resolved, by design: its business is t near the utilities' scale
        del batches["range 1e4"]
    together = None
    if pair.exact and not pair.own:  # solvers take as long for all as for one
        with suppress(Exception):  # it is raised again below, by name
            together = _answer_and_gradient(pair, torch.cat(list(batches.values())))
    worst, start = Worst(), 0
    for name, u in batches.items():
        with at(f"{name}, t=1"):
            if together is None:
                x, g = _answer_and_gradient(pair, u)
            else:
                x, g = (part[start : start + len(u)] for part in together)
            if not bool(torch.isfinite(g).all()):
                raise ValueError("the gradient is not finite.")
            error = _degenerate_error(pair, name, u, x)
        start += len(u)
        worst.see(*worst_of(error, u, f"{name}, t=1"))
    return worst.figure, pair.soft.accuracy().gap, worst.where


def _answer_and_gradient(pair: Pair, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    v = u.clone().requires_grad_()
    x = pair.answer(v, 1.0)
    return x.detach(), torch.autograd.grad((x * x).sum(), v)[0]


def _degenerate_error(pair: Pair, name: str, u: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    far = 1 + float(u.abs().max()) / pair.unit
    if pair.exponential:
        error = (flat(x) - marginals(pair, u)).abs().amax(1) / (pair.reach * far)
    else:
        error = pair.soft.gap(u, x, 1.0, **pair.parameters).abs() / pair.gap_size(u, 1.0).max()
    if name == "range 1e4":  # f' has no digits left at entries within rounding of 1, so neither has the gap
        loss = loss_beyond(pair, u, pair.hard(u), x, 1.0) / far
        return min(error, loss, key=lambda e: worst_of(e, u)[0])
    return error


def masked(pair: Pair) -> Found:
    """With all but the items of two elements forbidden: those at exactly 0, and the best of what is left."""
    if pair.parameters or not pair.structure.binary:
        raise NotApplicable("masks are for sets of 0/1 arrays without parameters")
    t = 0.5
    u = pair.utilities(t)
    corners = [pair.structure.argmax(sample_utilities(pair.structure, (BATCH,), pair.seed + i)) for i in (3, 4)]
    mask = torch.stack(corners).amax(0) > 0
    if not pair.own:
        mask = torch.stack([mask[0], mask[0], mask[-1], mask[-1]])  # each is a hull to compile
    x = pair.soft(u.masked_fill(~mask, torch.nan), t, mask=mask)
    if bool((x[~mask] != 0).any()):
        raise ValueError("forbidden items are not at exactly 0.")
    if pair.exponential:
        points = enumerate_vertices(pair.structure)
        outside = flat(~mask).to(points.dtype) @ points.T > 1e-9
        weights = (flat(u) @ points.T / t).masked_fill(outside, -torch.inf).softmax(-1)
        return found_at(flat(x) - weights @ points, 1e-8, u, f"t={t:g}", t)
    bound, size = pair.soft.accuracy().gap, 1 + float(u.abs().max())
    found = found_at(pair.soft.gap(u, x, t, mask=mask) / size, bound, u, f"t={t:g}", t)
    if "interior_point" in pair.soft.ways and found[0] > bound:  # as in ``optimality_gap``
        gaps = pair.soft.gap(u, off_the_ends(pair, x), t, mask=mask) / size
        found = min(found, found_at(gaps.clamp(min=0), bound, u, f"t={t:g}", t))
    return found
