"""Slow, plain references that share no code with the library: bisection, dense Newton, enumeration."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from scipy.optimize import linprog

import polytopes
import sst_cvx as sst
from sst_cvx.checks import REGULARIZERS

RESPONSES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "Euclidean": lambda s: s.clamp(0, 1),
    "CategoricalEntropy": lambda s: s.clamp(max=0).exp(),
    "BinaryEntropy": lambda s: 1 / (1 + (-s).exp()),
    "TsallisEntropy": lambda s: (0.5 * s).clamp(0, 1) ** 2,  # alpha = 1.5
}
SLOPES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "Euclidean": lambda x: ((x > 0) & (x < 1)).double(),
    "CategoricalEntropy": lambda x: x * (x < 1),
    "BinaryEntropy": lambda x: x * (1 - x),
    "TsallisEntropy": lambda x: x.sqrt() * (x < 1),
}


def bisection(u: torch.Tensor, k: int, name: str) -> torch.Tensor:
    """x_i = g(u_i - nu) with sum k, for utilities divided by the temperature, (batch, n), float64.

    Centred at the k-th largest entry and cut at +-2000, which moves no entry of x by more than exp(-1000).
    """
    g = RESPONSES[name]
    if k in (0, u.shape[-1]):
        return torch.full_like(u, float(k > 0))
    u = (u - u.topk(k, -1).values[..., -1:]).clamp(-2000, 2000)
    low, high = u.amin(-1, keepdim=True) - 50, u.amax(-1, keepdim=True) + 50
    for _ in range(120):
        middle = 0.5 * (low + high)
        over = g(u - middle).sum(-1, keepdim=True) > k
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    return g(u - 0.5 * (low + high))


def pullback(x: torch.Tensor, v: torch.Tensor, name: str) -> torch.Tensor:
    """(diag(w) - w w' / sum w) v at the solution x."""
    w = SLOPES[name](x)
    mass = w.sum(-1, keepdim=True)
    return w * (v - (w * v).sum(-1, keepdim=True) / torch.where(mass > 0, mass, 1.0))


def sinkhorn(u: torch.Tensor) -> torch.Tensor:
    """Doubly stochastic exp(u - a - b): plain Sinkhorn, then dense Newton steps on all 2n multipliers by lstsq."""
    n = u.shape[-1]
    b = torch.zeros_like(u[..., :1, :])
    for _ in range(2000):
        a = (u - b).logsumexp(-1, keepdim=True)
        b = (u - a).logsumexp(-2, keepdim=True)
    for _ in range(30):
        x = (u - a - b).exp()
        rows, columns = x.sum(-1), x.sum(-2)
        jacobian = torch.cat(
            [torch.cat([torch.diag_embed(rows), x], -1), torch.cat([x.mT, torch.diag_embed(columns)], -1)], -2
        )
        step = (
            torch.linalg.pinv(jacobian, rtol=1e-15, hermitian=True) @ torch.cat([rows - 1, columns - 1], -1)[..., None]
        )
        a, b = a + step[..., :n, :], b + step[..., n:, :].mT
    return (u - a - b).exp()


def marginals(structure: sst.Structure, u: torch.Tensor) -> torch.Tensor:
    """Expected vertex under p(v) proportional to exp <u, v>."""
    points = structure.vertices().flatten(1)
    weights = (u.flatten(-len(structure.event_shape)) @ points.T).softmax(-1)
    return (weights @ points).reshape(u.shape)


def box(u: torch.Tensor, name: str) -> torch.Tensor:
    """phi'(x) = u cut to [0, 1]; Tsallis with alpha = 1.5."""
    shifts = {"CategoricalEntropy": -1.0, "TsallisEntropy": 4 / 3}
    return RESPONSES[name](u + shifts.get(name, 0.0))


def isotonic(u: torch.Tensor, weights: torch.Tensor, name: str) -> torch.Tensor:
    """Soft argmax over the permutations of ``weights`` (n,) for utilities (batch, n): the minimax formula, O(n^2).

    v_i = min_{j <= i} max_{k >= i} m(j, k), m the value of the block of places j to k, and x_i = (phi')^-1 (u_i - v_i).
    """
    z, order = u.sort(-1, descending=True)
    w, n = weights.sort(descending=True).values.expand_as(z), u.shape[-1]
    value = torch.full((len(u), n, n), -torch.inf, dtype=u.dtype)
    for j in range(n):
        for k in range(j, n):
            block = slice(j, k + 1)
            if name == "Euclidean":
                value[:, j, k] = (z - w)[:, block].mean(-1)
            else:
                value[:, j, k] = z[:, block].logsumexp(-1) - w[:, block].sum(-1).log()
    largest = value.flip(-1).cummax(-1).values.flip(-1)
    later = torch.ones(n, n, dtype=torch.bool).tril(-1)  # j > i
    v = largest.masked_fill(later, torch.inf).amin(-2)
    x = z - v if name == "Euclidean" else (z - v).exp()
    return torch.zeros_like(u).scatter(-1, order, x)


def truth(structure: sst.Structure, regularizer: sst.Regularizer, u: torch.Tensor) -> torch.Tensor:
    """The soft argmax at temperature 1 for every fast path of the library, ``(batch, *event_shape)``."""
    name = type(regularizer).__name__
    if name == "ExponentialFamilyEntropy":
        return marginals(structure, u)
    if isinstance(structure, polytopes.Matching):
        if structure.n == structure.m and not structure.partial:
            return sinkhorn(u)
        return sst.SoftArgmax(structure, regularizer, path="interior_point")(u)  # shares nothing with the kernel
    if isinstance(structure, polytopes.Permutahedron):
        return isotonic(u, structure.weights, name)
    if isinstance(structure, polytopes.Hypercube):
        return box(u, name)
    if isinstance(structure, polytopes.AtMostKSubset):
        free = box(u, name)
        return torch.where(free.sum(-1, keepdim=True) > structure.k, bisection(u, structure.k, name), free)
    return bisection(u, structure.k if isinstance(structure, polytopes.KSubset) else 1, name)


@cache  # many files ask while they are collected
def paths_of(structure: sst.Structure) -> list[tuple[sst.Regularizer, str]]:
    """The regularizers that it has a soft argmax for, each with the name of its path."""
    found = []
    for f in REGULARIZERS:
        with contextlib.suppress(ValueError):
            found.append((f, sst.SoftArgmax(structure, f).path))
    return found


def fast_pairs() -> list[tuple[sst.Structure, sst.Regularizer]]:
    """All pairs of an example with a regularizer that have a fast path."""
    structures = (*polytopes.EXAMPLES, polytopes.KSubset(20, 5))
    return [(s, f) for s in structures for f, path in paths_of(s) if path == "fast"]


def not_nearest(points: torch.Tensor, y: torch.Tensor, x: torch.Tensor) -> tuple[float, float]:
    """Two numbers that vanish just where x ``(batch, n)`` is the point of conv(points) nearest to y.

    The L1 distance of x to conv(points), by HiGHS, and max_v <y - x, v - x> over all points.
    """
    count, n = points.shape
    mixture = np.vstack([points.numpy().T, np.ones(count)])
    slack = np.vstack([np.eye(n), np.zeros(n)])
    cost = np.concatenate([np.zeros(count), np.ones(2 * n)])
    rows = np.hstack([mixture, slack, -slack])
    distances = [linprog(cost, A_eq=rows, b_eq=np.append(point, 1.0), method="highs").fun for point in x.numpy()]
    gain = ((y - x) @ points.T).amax(1) - ((y - x) * x).sum(1)
    return max(distances), float(gain.max())


def enumeration(structure: sst.Structure, u: torch.Tensor) -> np.ndarray:
    """Marginals from all vertices, in long doubles."""
    points = structure.vertices().numpy().astype(np.longdouble)
    scores = u.numpy().astype(np.longdouble) @ points.T
    p = np.exp(scores - scores.max(-1, keepdims=True))
    return (p / p.sum(-1, keepdims=True)) @ points


def counting(structure: sst.Structure, u: torch.Tensor) -> np.ndarray:
    """Marginals of k-subsets by counting from both ends, in long doubles: nothing is differentiated."""
    assert isinstance(structure, polytopes.KSubset)
    w, k = u.numpy().astype(np.longdouble), structure.k
    before, after = _counts(w, k), _counts(w[:, ::-1], k)[::-1]
    without = np.logaddexp.reduce(before[:-1, :, :k] + after[1:, :, k - 1 :: -1], axis=-1)  # others choose k - 1
    return np.exp(w + without.T - before[-1, :, k:])


def _counts(w: np.ndarray, k: int) -> np.ndarray:
    """log of the sum over j-subsets of the first i items: ``(n + 1, batch, k + 1)``."""
    found = [np.full((len(w), k + 1), -np.inf, dtype=w.dtype)]
    found[0][:, 0] = 0
    for column in w.T:
        chosen = np.pad(found[-1][:, :-1] + column[:, None], ((0, 0), (1, 0)), constant_values=-np.inf)
        found.append(np.logaddexp(found[-1], chosen))
    return np.stack(found)


def check_along_a_line(f: Callable[..., torch.Tensor], *at: torch.Tensor, step: float = 1e-5) -> None:
    """That gradients of <v, f> are its central differences along random directions, each row of a batch its own."""
    given = [x.detach().requires_grad_() for x in at]
    along = [torch.randn_like(x) for x in at]
    y = f(*given)
    v = torch.randn_like(y)
    gradients = torch.autograd.grad((y * v).sum(), given)
    ours = sum((g * d).flatten(1).sum(1) for g, d in zip(gradients, along, strict=True))
    ends = [f(*(x.detach() + sign * step * d for x, d in zip(at, along, strict=True))) for sign in (1, -1)]
    theirs = ((ends[0] - ends[1]) * v).flatten(1).sum(1) / (2 * step)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-5)
