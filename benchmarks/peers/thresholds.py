"""Items and subsets: softmax, sparsemax, entmax15, k-subsets, large vocabularies, and the exponential family."""

from __future__ import annotations

from collections.abc import Callable

import torch

import polytopes
import sst_cvx as sst
from benchmarks.marginal_peers import by_autograd, marginal_ways
from benchmarks.peers.race import Contest, Row, Way, available, by_jax, by_torch, has, normal, of_marginals
from tests.oracles import bisection, counting


def rows() -> list[Row]:
    found = [Row(f"softmax, n = {n:,}", lambda n=n: _softmax(n)) for n in (20, 30_000)]
    found += [Row(f"sparsemax, n = {n:,}", lambda n=n: _entmax(n, sst.Euclidean())) for n in (20, 100, 30_000)]
    found += [Row(f"entmax15, n = {n:,}", lambda n=n: _entmax(n, sst.TsallisEntropy(1.5))) for n in (20, 100, 30_000)]
    found += [
        Row("KSubset(20, 5) Euclidean", lambda: _subset(sst.Euclidean())),
        Row("KSubset(20, 5) binary (LML)", lambda: _subset(sst.BinaryEntropy())),
    ]
    for n, k, largest in ((20, 5, 256), (100, 10, 256), (1000, 100, 32)):
        found.append(Row(f"KSubset({n}, {k}) exponential family", lambda n=n, k=k: _family(n, k), largest))
    for k, f in (
        (1, sst.Euclidean()),
        *((1000, f) for f in (sst.Euclidean(), sst.CategoricalEntropy(), sst.BinaryEntropy())),
    ):
        name = f"{'OneHot(128000)' if k == 1 else f'KSubset(128000, {k})'} {type(f).__name__}"
        found.append(Row(name, lambda k=k, f=f: _vocabulary(k, f), 32))
    return found


def ours(structure: sst.Structure, regularizer: sst.Regularizer, t: float = 1.0) -> Way:
    soft = sst.SoftArgmax(structure, regularizer)
    return by_torch("ours", soft if t == 1.0 else lambda u: soft(u, t))


def _softmax(n: int) -> Contest:
    peer = by_torch("torch.softmax", lambda u: u.softmax(-1))
    return Contest(normal(n), ours(polytopes.OneHot(n), sst.CategoricalEntropy()), [peer], _long_softmax)


def _long_softmax(u: torch.Tensor) -> torch.Tensor:
    import numpy as np

    z = u.numpy().astype(np.longdouble)
    p = np.exp(z - z.max(-1, keepdims=True))
    return torch.from_numpy((p / p.sum(-1, keepdims=True)).astype(np.float64))


def _entmax(n: int, f: sst.Regularizer) -> Contest:
    """entmax's argument is scaled by alpha - 1 as in the paper, which is ours."""
    name, alpha = type(f).__name__, 2.0 if isinstance(f, sst.Euclidean) else 1.5
    peers = []
    if has("entmax"):
        import entmax

        exact = entmax.sparsemax if alpha == 2 else entmax.entmax15
        peers = [by_torch(f"entmax {exact.__name__}", lambda u: exact(u, dim=-1))]
        if n > 100:
            peers.append(by_torch("entmax k = 100", lambda u: exact(u, dim=-1, k=100)))
        else:  # 50 passes over everything
            peers.append(by_torch("entmax bisect", lambda u: entmax.entmax_bisect(u, alpha=alpha, dim=-1)))
    return Contest(
        normal(n),
        ours(polytopes.OneHot(n), f),
        peers,
        lambda u: bisection(u, 1, name),
        checked=2,
        missing=available("entmax"),
    )


def _subset(f: sst.Regularizer, n: int = 20, k: int = 5) -> Contest:
    name, binary = type(f).__name__, isinstance(f, sst.BinaryEntropy)
    peers = [by_torch("torch bisection", _bisection(k, torch.sigmoid if binary else lambda s: s.clamp(0, 1)))]
    missing = () if not binary else ("lml (the authors' package) is not on PyPI",)
    if not binary:
        missing = available("jaxopt", "entmax")
        if has("jaxopt"):
            import jax.numpy as jnp
            from jaxopt.projection import projection_box_section

            zeros, ones = jnp.zeros(n), jnp.ones(n)
            peers.append(by_jax("jaxopt", lambda u: projection_box_section(u, (zeros, ones, ones, float(k)))))
        if has("entmax"):
            import entmax

            # sum x <= k: binding once every utility is shifted above 1
            peers.append(
                by_torch("entmax budget", lambda u: entmax.budget_bisect(u - u.amin(-1, True) + 1, budget=k, dim=-1))
            )
    return Contest(normal(n), ours(polytopes.KSubset(n, k), f), peers, lambda u: bisection(u, k, name), missing=missing)


def _bisection(
    k: int, response: Callable[[torch.Tensor], torch.Tensor], steps: int = 60
) -> Callable[[torch.Tensor], torch.Tensor]:
    """x = response(u - nu) with sum k, nu by bisection; one Newton step from there has the derivative."""

    def solve(u: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            low, high = u.amin(-1, keepdim=True) - 40, u.amax(-1, keepdim=True) + 40
            for _ in range(steps):
                nu = 0.5 * (low + high)
                over = response(u - nu).sum(-1, keepdim=True) > k
                low, high = torch.where(over, nu, low), torch.where(over, high, nu)
        if not u.requires_grad:
            return response(u - nu)
        with torch.no_grad():
            h = 1e-6
            slope = ((response(u - nu + h) - response(u - nu - h)) / (2 * h)).sum(-1, keepdim=True).clamp(min=1e-12)
        return response(u - nu - (response(u - nu).sum(-1, keepdim=True) - k) / slope)

    return solve


def _family(n: int, k: int) -> Contest:
    """Beside the recursion by ``logaddexp``, whose second derivative is NaN at counts out of reach, one that has it."""
    structure = polytopes.KSubset(n, k)
    mine, plain = (of_marginals(name, way) for name, way in marginal_ways(structure).items())
    stacked = of_marginals("stacked recursion", by_autograd(lambda u: _recursion(u, k)))
    return Contest(
        normal(n),
        mine,
        [plain, stacked],
        lambda u: torch.from_numpy(counting(structure, u).astype("float64")),
        checked=2,
    )


def _recursion(u: torch.Tensor, k: int) -> torch.Tensor:
    """log e_k(exp u), item by item."""
    nothing = u.new_full((len(u), 1), -1e30)
    table = torch.cat([torch.zeros_like(nothing), nothing.expand(-1, k)], 1)
    for w in u.split(1, -1):
        table = torch.stack([table, torch.cat([nothing, table[:, :-1] + w], 1)]).logsumexp(0)
    return table[:, k]


def _vocabulary(k: int, f: sst.Regularizer, n: int = 128_000) -> Contest:
    """The measure is torch.softmax over as many numbers: it is not the same map, so nothing is compared but time."""
    structure = polytopes.OneHot(n) if k == 1 else polytopes.KSubset(n, k)
    softmax = by_torch("torch.softmax", lambda u: u.softmax(-1))
    return Contest(
        normal(n),
        ours(structure, f),
        [softmax],
        lambda u: bisection(u, k, type(f).__name__),
        checked=1,
        another_map=True,
        bound=4.0,
    )
