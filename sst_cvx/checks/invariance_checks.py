"""Checks of what must not matter: batches, dtypes, ties and huge ranges, forbidden items."""

from __future__ import annotations

import torch

from sst_cvx.checks.pair import BATCH, Found, Pair, flat, found_at, worst_of
from sst_cvx.checks.report import NotApplicable, Worst, at
from sst_cvx.checks.structure_checks import degenerate_utilities, enumerate_vertices, sample_utilities
from sst_cvx.checks.value_checks import loss_beyond, marginals, off_the_ends
from sst_cvx.regularizers import ExponentialFamilyEntropy


def batch_shapes(pair: Pair) -> Found:
    """No element sees the others, whatever the batch shape; an empty batch is an empty answer."""
    u = sample_utilities(pair.structure, (2, 3), pair.seed) * torch.tensor([1.0, 30.0]).double().reshape(
        2, *[1] * (1 + len(pair.structure.event_shape))
    )
    t = 0.5
    whole = pair.answer(u, t)
    singles = torch.stack([pair.answer(v, t) for v in u.reshape(6, *pair.structure.event_shape)])
    empty = u[:0]
    if whole.shape != u.shape or pair.answer(empty, t).shape != empty.shape:
        raise ValueError(f"shape {tuple(whole.shape)} came back for utilities of shape {tuple(u.shape)}.")
    alone = u.reshape(singles.shape)
    return found_at(whole.reshape(singles.shape) - singles, pair.soft.accuracy().batches, alone, f"t={t:g}")


def dtypes(pair: Pair) -> Found:
    u = pair.utilities()
    single = pair.answer(u.float(), 0.5)
    if single.dtype != torch.float32:
        raise ValueError(f"{single.dtype} came back for float32 utilities.")
    return found_at(single.double() - pair.answer(u.float().double(), 0.5), 2e-6, u, "float32, t=0.5")


def degenerate(pair: Pair) -> Found:
    """Ties, zeros, huge ranges: an answer inside the hull with a vanishing gap, and finite gradients."""
    worst = Worst()
    for name, u in degenerate_utilities(pair.structure, pair.seed).items():
        if pair.soft.path == "layer" and name == "range 1e4":
            continue  # refused or resolved, by design: the layer's business is t near the utilities' scale
        with at(f"{name}, t=1"):
            error = _degenerate_error(pair, name, u) / (1 + float(u.abs().max()))
        worst.see(*worst_of(error, u, f"{name}, t=1"))
    return worst.figure, pair.soft.accuracy().gap, worst.where


def _degenerate_error(pair: Pair, name: str, u: torch.Tensor) -> torch.Tensor:
    v = u.clone().requires_grad_()
    x = pair.answer(v, 1.0)
    (g,) = torch.autograd.grad((x * x).sum(), v)
    if not bool(torch.isfinite(g).all()):
        raise ValueError("the gradient is not finite.")
    x = x.detach()
    if isinstance(pair.regularizer, ExponentialFamilyEntropy):
        error = (flat(x) - marginals(pair, u)).abs().amax(1)
    else:
        error = pair.soft.gap(u, x, 1.0, **pair.parameters).abs()
    if name == "range 1e4":  # f' has no digits left at entries within rounding of 1, so neither has the gap
        loss = loss_beyond(pair, u, pair.structure.argmax(u, **pair.parameters), 1.0)
        return min(error, loss, key=lambda e: worst_of(e, u)[0])
    return error


def masked(pair: Pair) -> Found:
    """With all but the items of two elements forbidden: those at exactly 0, and the best of what is left."""
    if pair.parameters or not pair.structure.binary:
        raise NotApplicable("masks are for sets of 0/1 arrays without parameters")
    u, t = pair.utilities(), 0.5
    corners = [pair.structure.argmax(sample_utilities(pair.structure, (BATCH,), pair.seed + i)) for i in (3, 4)]
    mask = torch.stack(corners).amax(0) > 0
    x = pair.soft(u.masked_fill(~mask, torch.nan), t, mask=mask)
    if bool((x[~mask] != 0).any()):
        raise ValueError("forbidden items are not at exactly 0.")
    if isinstance(pair.regularizer, ExponentialFamilyEntropy):
        points = enumerate_vertices(pair.structure)
        outside = flat(~mask).to(points.dtype) @ points.T > 1e-9
        weights = (flat(u) @ points.T / t).masked_fill(outside, -torch.inf).softmax(-1)
        return found_at(flat(x) - weights @ points, 1e-8, u, f"t={t:g}")
    bound, size = pair.soft.accuracy().gap, 1 + float(u.abs().max())
    found = found_at(pair.soft.gap(u, x, t, mask=mask) / size, bound, u, f"t={t:g}")
    if pair.soft.path == "interior_point":  # as in ``optimality_gap``
        gaps = pair.soft.gap(u, off_the_ends(pair, x), t, mask=mask) / size
        found = min(found, found_at(gaps.clamp(min=0), bound, u, f"t={t:g}"))
    return found
