"""Random abuse: an error of ours, or a right answer; never a wrong one."""

import math
import random

import pytest
import torch

import polytopes
import sst_cvx as sst
from tests.hulls import pairs
from tests.oracles import bisection, marginals, sinkhorn

REGULARIZERS = ["Euclidean", "CategoricalEntropy", "BinaryEntropy", "TsallisEntropy", "ExponentialFamilyEntropy"]
NASTY = [
    0.0,
    -0.0,
    1.0,
    1e-300,
    -1e-300,
    1e-30,
    1e30,
    -1e30,
    1e300,
    -1e300,
    5e3,
    float("nan"),
    float("inf"),
    -float("inf"),
]
TEMPERATURES = [1.0, 0.5, 0.1, 3.0, 1e-3, 1e3, 0.0, -1.0, float("nan"), float("inf"), -1e-300, 1e-300, 1e300]


def random_structure(rng):
    kind = rng.choice(["one-hot", "subset", "subset", "matching"])
    if kind == "one-hot":
        return polytopes.OneHot(rng.randint(1, 5))
    if kind == "subset":
        n = rng.randint(1, 6)
        return polytopes.KSubset(n, rng.randint(0, n))
    return polytopes.Matching(rng.randint(1, 3))


def random_utilities(rng, event_shape):
    batch = rng.choice([(), (1,), (2,), (2, 2), (0,), (3, 0)])
    shape = (*batch, *event_shape)
    if rng.random() < 0.1:
        shape = tuple(max(0, n + rng.choice([-1, 0, 1])) for n in shape)
    dtype = rng.choice([torch.float64, torch.float64, torch.float32, torch.float16, torch.int64])
    u = torch.randn(shape, dtype=torch.float64) * rng.choice([1e-12, 1.0, 1.0, 30.0, 1e4, 1e8])
    if rng.random() < 0.3:
        u = u.round()
    if rng.random() < 0.4 and u.numel():
        flat = u.reshape(-1)
        for _ in range(rng.randint(1, 3)):
            flat[rng.randrange(flat.numel())] = rng.choice(NASTY)
    return u.nan_to_num().clamp(-1e9, 1e9).long() if dtype == torch.int64 else u.to(dtype)


def truth(structure, name, scaled):
    spread = float(scaled.max() - scaled.min())
    if isinstance(structure, polytopes.Matching):
        if name == "ExponentialFamilyEntropy":
            return marginals(structure, scaled) if spread < 1e6 else None
        return sinkhorn(scaled) if spread < 30 else None
    k = structure.k if isinstance(structure, polytopes.KSubset) else 1
    if name == "ExponentialFamilyEntropy":  # a shift changes nothing, and spares the sums over vertices 1e300
        centre = scaled.topk(max(k, 1), -1).values[..., -1:]
        return marginals(structure, (scaled - centre).clamp(-2000, 2000))
    return bisection(scaled, k, name)


def truth_without_absent(structure, name, scaled):
    """The same where items at -inf are not there; of matchings, nothing is known."""
    absent = scaled == -math.inf
    if not absent.any():
        return truth(structure, name, scaled)
    if isinstance(structure, polytopes.Matching):
        return None
    k, rows = structure.k if isinstance(structure, polytopes.KSubset) else 1, []
    for row, gone in zip(scaled, absent, strict=True):
        left = int((~gone).sum())
        x = (~gone).double() if left == k else torch.zeros_like(row)
        if 0 < k < left:
            x[~gone] = truth(polytopes.KSubset(left, k), name, row[None, ~gone])[0]
        rows.append(x)
    return torch.stack(rows)


def valid(u, event_shape, t):  # -inf forbids an item
    shaped = u.dim() >= len(event_shape) and u.shape[u.dim() - len(event_shape) :] == event_shape
    return u.is_floating_point() and shaped and bool((u < math.inf).all()) and math.isfinite(t) and t > 0


def attack(rng, structure, soft, name):
    """One random call; True if it was answered."""
    u, t = random_utilities(rng, structure.event_shape), rng.choice(TEMPERATURES)
    torch_t = rng.random() < 0.3
    try:
        x = soft(u, torch.tensor(t, dtype=torch.float64) if torch_t else t)
    except (TypeError, ValueError, sst.SolveError) as error:
        assert str(error), "an empty message"
        ordinary = valid(u, structure.event_shape, t) and 0.1 <= t <= 3 and (not u.numel() or u.abs().max() < 1e3)
        assert not ordinary, f"refused {u.tolist()} at t={t}: {error}"
        return False
    assert valid(u, structure.event_shape, t), f"accepted {u} at t={t}"
    assert x.shape == u.shape
    assert x.dtype == u.dtype
    if x.numel():
        work = u if u.dtype == torch.float64 else u.float()
        flat = (work / t).double().reshape(-1, *structure.event_shape)
        expected = truth_without_absent(structure, name, flat)
        tolerance = {torch.float64: 1e-7, torch.float32: 1e-4}.get(u.dtype, 2e-3)
        if expected is not None:
            assert (x.double().reshape(flat.shape) - expected).abs().max() < tolerance, f"wrong at {u.tolist()}, t={t}"
        elif (flat == -math.inf).any():  # rows and columns without an allowed partner are not there
            assert (x.reshape(flat.shape)[flat == -math.inf] == 0).all()
            assert (x >= 0).all() and (x.sum(-1) < 1 + tolerance).all() and (x.sum(-2) < 1 + tolerance).all()  # noqa: PT018
        else:
            assert (x.double().sum(-1) - 1).abs().max() < tolerance
            assert (x.double().sum(-2) - 1).abs().max() < tolerance
    return True


def run(count, seed):
    rng = random.Random(seed)
    torch.manual_seed(seed)
    answered = 0
    for _ in range(count):
        structure = random_structure(rng)
        name = rng.choice(REGULARIZERS)
        if isinstance(structure, polytopes.Matching):
            name = rng.choice(["CategoricalEntropy", "ExponentialFamilyEntropy"])
        answered += attack(rng, structure, sst.SoftArgmax(structure, getattr(sst, name)(), path="fast"), name)
    return answered


def test_fuzz_fast_paths():
    assert 50 < run(200, seed=1) < 170


@pytest.mark.slow
def test_fuzz_fast_paths_2_000():
    assert 500 < run(2_000, seed=4) < 1_700


@pytest.mark.exhaustive
def test_fuzz_fast_paths_10_000():
    assert 2_500 < run(10_000, seed=2) < 8_500


def test_fuzz_layer():
    """The layer: refused, or within its promise of the fast path of the same hull."""
    rng = random.Random(3)
    structure = polytopes.KSubset(4, 2)
    for name in ("Euclidean", "BinaryEntropy"):
        layer = sst.SoftArgmax(structure, getattr(sst, name)(), path="layer")
        fast = sst.SoftArgmax(structure, getattr(sst, name)())
        answered = 0
        for _ in range(80):
            u, t = random_utilities(rng, (4,)), rng.choice(TEMPERATURES)
            try:
                x = layer(u, t)
            except (TypeError, ValueError, sst.SolveError) as error:
                assert str(error)
                continue
            answered += 1
            assert valid(u, (4,), t)
            tolerance = 1e-3 if u.dtype == torch.float64 else 1e-2
            assert not x.numel() or (x - fast(u, t)).abs().max() < tolerance, (u.tolist(), t)
        assert answered > 20


def test_fuzz_argmax():
    rng = random.Random(4)
    for structure in (pairs(), polytopes.KSubset(5, 2), polytopes.Matching(3)):
        for _ in range(100):
            u = random_utilities(rng, structure.event_shape)
            try:
                x = structure.argmax(u)
            except (TypeError, ValueError):
                assert not valid(u, structure.event_shape, 1.0)
                continue
            assert x.shape == u.shape
            assert bool(((x == 0) | (x == 1)).all())
