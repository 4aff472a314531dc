"""SoftArgmax.log against arithmetic of several hundred digits, against the tableau, and against enumeration."""

from __future__ import annotations

import itertools

import cvxpy as cp
import mpmath
import numpy as np
import pytest
import torch

import polytopes
import sst_cvx as sst

COLD, COLDEST = (pytest.param(0.01, marks=pytest.mark.slow), pytest.param(0.001, marks=pytest.mark.exhaustive))
CATEGORICAL, BINARY, FAMILY = sst.CategoricalEntropy(), sst.BinaryEntropy(), sst.ExponentialFamilyEntropy()


def order_ideals() -> sst.Structure:
    x = cp.Variable(6)
    below = [(0, 1), (1, 2), (0, 3), (3, 4), (5, 4)]
    return sst.Structure(x, [x >= 0, x <= 1, *(x[i] <= x[j] for i, j in below)])


def transport() -> sst.Structure:
    x = cp.Variable((3, 4))
    rows, columns = [0.5, 0.25, 0.25], [0.25, 0.375, 0.125, 0.25]
    return sst.Structure(x, [x >= 0, cp.sum(x, axis=1) == rows, cp.sum(x, axis=0) == columns], integral=False)


def subset() -> sst.Structure:
    x = cp.Variable(7)
    return sst.Structure(x, [x >= 0, x <= 1, cp.sum(x) == 3])


def flow() -> sst.Structure:
    return polytopes.Path(torch.tensor([[0, 0, 1, 1, 2, 3, 2], [1, 2, 2, 3, 3, 4, 4]]), 0, 4)


def utilities(structure: sst.Structure, count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *structure.event_shape, dtype=torch.float64, generator=generator)


class Truth:
    """log x and its Jacobian in hundreds of digits, more than the smallest entry has zeros.

    From the optimality conditions of an active set, which are then checked. Where Newton's method starts, and which
    active sets are tried, comes from the answer that is tested, but no digit of it survives.
    """

    def __init__(self, structure: sst.Structure, binary: bool, u: np.ndarray, t: float, log_x: np.ndarray):
        hull = structure.declared_hull.at()
        assert hull.event.size == hull.lower.size, "without auxiliary variables"
        rows = hull.rows.toarray()[:, hull.event]
        self.binary, self.n = binary, u.size
        mp = mpmath.mp
        self.digits = mp.dps = 50 + int(2 * np.abs(log_x).max() / np.log(10))
        self.u, self.t = mp.matrix(u.tolist()), mp.mpf(t)
        inequalities = [
            (row, high) for row, low, high in zip(rows, hull.row_lower, hull.row_upper, strict=True) if low != high
        ]
        equalities = [
            (row, high) for row, low, high in zip(rows, hull.row_lower, hull.row_upper, strict=True) if low == high
        ]
        if not binary:
            inequalities += [(np.eye(u.size)[i], h) for i, h in enumerate(hull.upper[hull.event]) if np.isfinite(h)]
        s = log_x - np.log(-np.expm1(np.minimum(log_x, -1e-300))) if binary else log_x + 1
        candidates = self._tight(inequalities, log_x)
        for count in range(len(candidates), -1, -1):
            for tight in itertools.combinations(candidates, count):
                try:
                    self._solve(equalities, [inequalities[i] for i in tight], s)
                except ZeroDivisionError:  # too many: multipliers without bounds
                    continue
                if self._is_optimal([row for i, row in enumerate(inequalities) if i not in tight], len(equalities)):
                    return
        raise AssertionError("no active set satisfies the optimality conditions")

    def _tight(self, inequalities: list, log_x: np.ndarray) -> list[int]:
        """Where the slack is nothing beside its terms."""
        x, tight = [mpmath.exp(v) for v in log_x.tolist()], []
        for i, (row, high) in enumerate(inequalities):
            terms = [mpmath.mpf(float(a)) * v for a, v in zip(row, x, strict=True)]
            size = sum(map(abs, terms)) + abs(float(high))
            if abs(mpmath.mpf(float(high)) - sum(terms)) < 1e-8 * size:
                tight.append(i)
        return tight

    def _solve(self, equalities: list, tight: list, s: np.ndarray) -> None:
        mp = mpmath.mp
        rows = equalities + tight
        M = np.array([row for row, _ in rows]).reshape(-1, self.n)
        keep = _independent(M)
        self.kept = keep
        M, right = mp.matrix(M[keep].tolist()), mp.matrix([rows[i][1] for i in keep])
        self.M, self.right, self.count = M, right, len(equalities)
        reduced = self.u - self.t * mp.matrix(s.tolist())
        y = mp.lu_solve(M * M.T, M * reduced)
        for _ in range(400):
            x, curved = self._at(y)
            H = M * mp.diag([c / self.t for c in curved]) * M.T
            step = mp.lu_solve(H, M * x - right)
            furthest = max(abs(v) for v in M.T * step) / self.t  # of a slope
            y += step * min(1, 50 / furthest) if furthest else step
            if furthest < mp.mpf(10) ** (-self.digits // 2):
                break
        self.y, (self.x, self.curved) = y, self._at(y)
        self.log_x = [mp.log(v) for v in self.x]

    def _at(self, y: mpmath.matrix) -> tuple:
        mp = mpmath.mp
        s = [v / self.t for v in self.u - self.M.T * y]
        if self.binary:
            x = [1 / (1 + mp.exp(-v)) for v in s]
            return mp.matrix(x), [v * (1 / (1 + mp.exp(w))) for v, w in zip(x, s, strict=True)]
        x = [mp.exp(v - 1) for v in s]
        return mp.matrix(x), x

    def _is_optimal(self, loose: list, equalities: int) -> bool:
        mp, small = mpmath.mp, mpmath.mpf(10) ** (-self.digits // 2)
        if any(abs(v) > small for v in self.M * self.x - self.right):
            return False
        sums = [sum(mp.mpf(float(a)) * v for a, v in zip(row, self.x, strict=True)) for row, _ in loose]
        slacks = [mp.mpf(float(high)) - total for (_, high), total in zip(loose, sums, strict=True)]
        multipliers = [self.y[place] for place, number in enumerate(self.kept) if number >= equalities]
        return min([*slacks, *multipliers], default=0) > -small

    def pull(self, v: np.ndarray) -> np.ndarray:
        """J'v of log x: (v' - M' (M D M')^-1 M v' D) / t, v' = v or v (1 - x)."""
        mp = mpmath.mp
        v = [mp.mpf(float(a)) for a in v]
        if self.binary:
            v = [a * c / x for a, c, x in zip(v, self.curved, self.x, strict=True)]
        H = self.M * mp.diag(self.curved) * self.M.T
        z = mp.lu_solve(H, self.M * mp.matrix(v))
        back = self.M.T * z
        return np.array([float((a - d * b) / self.t) for a, d, b in zip(v, self.curved, back, strict=True)])


def _independent(M: np.ndarray) -> list[int]:
    keep: list[int] = []
    for i in range(len(M)):
        if np.linalg.matrix_rank(M[[*keep, i]]) > len(keep):
            keep.append(i)
    return keep


@pytest.mark.parametrize("temperature", [1.0, 0.1, COLD, COLDEST])
@pytest.mark.parametrize("regularizer", [CATEGORICAL, BINARY], ids=repr)
@pytest.mark.parametrize("structure", [subset, transport, order_ideals, flow], ids=lambda f: f.__name__)
def test_hundreds_of_digits(structure, regularizer, temperature):
    structure = structure()
    u = utilities(structure, 2, 3).requires_grad_()
    log_x = sst.SoftArgmax(structure, regularizer, path="interior_point").log(u, temperature)
    v = utilities(structure, 2, 5)
    (g,) = torch.autograd.grad(log_x, u, v)
    flat, answers, cotangents = (a.detach().reshape(2, -1).numpy() for a in (u, log_x, v))
    for row, answer, cotangent, pulled in zip(flat, answers, cotangents, g.reshape(2, -1).numpy(), strict=True):
        truth = Truth(structure, regularizer is BINARY, row, temperature, answer)
        for ours, right in zip(answer, truth.log_x, strict=True):
            assert abs(ours - right) <= 1e-9 * (1 + abs(right))
        assert np.abs(pulled - truth.pull(cotangent)).max() <= 1e-7 / temperature


CERTIFIED = [
    subset(),
    transport(),
    order_ideals(),
    flow(),
    polytopes.SpanningTree(4),
    polytopes.CorrelatedKSubset(5, 2),
]


@pytest.mark.parametrize("temperature", [0.1, COLD, COLDEST])
@pytest.mark.parametrize("regularizer", [CATEGORICAL, BINARY], ids=repr)
@pytest.mark.parametrize("structure", CERTIFIED, ids=repr)
def test_gap_of_logarithms(structure, regularizer, temperature):
    """Over t, it is below 1e-9; where u / t is of order 1e3, its own rounding is ten times that."""
    u = utilities(structure, 8, 1)
    soft = sst.SoftArgmax(structure, regularizer)
    log_x = soft.log(u, temperature)
    gap = soft.gap(u, log_x.exp(), temperature, log=log_x) / temperature
    assert gap.abs().max() < (1e-9 if temperature >= 0.1 else 2e-8)


@pytest.mark.slow
def test_alone_as_in_a_batch():
    for structure, regularizer in ((polytopes.CorrelatedKSubset(5, 2), BINARY), (order_ideals(), CATEGORICAL)):
        soft, u = sst.SoftArgmax(structure, regularizer), utilities(structure, 6, 1)
        alone = torch.cat([soft.log(row[None], 0.1) for row in u])
        assert ((soft.log(u, 0.1) - alone).abs() <= 1e-9 * (1 + alone.abs())).all()


FAST = [polytopes.OneHot(5), polytopes.KSubset(6, 2), polytopes.AtMostKSubset(6, 2), polytopes.Hypercube(3)]


@pytest.mark.parametrize("temperature", [1.0, 0.03, 0.001])
@pytest.mark.parametrize("regularizer", [CATEGORICAL, BINARY], ids=repr)
@pytest.mark.parametrize("structure", FAST, ids=repr)
def test_fast_functions_against_the_tableau(structure, regularizer, temperature):
    u = utilities(structure, 8, 1).requires_grad_()
    fast = sst.SoftArgmax(structure, regularizer)
    declared = sst.SoftArgmax(sst.Structure(structure.variable, structure.constraints), regularizer)
    assert (fast.path, declared.path) == ("fast", "interior_point")
    ours, truth, v = fast.log(u, temperature), declared.log(u, temperature), utilities(structure, 8, 2)
    assert ((ours - truth).abs() <= 1e-9 * (1 + truth.abs())).all()
    pulled, right = (torch.autograd.grad(y, u, v)[0] for y in (ours, truth))
    assert (pulled - right).abs().max() <= 1e-7 / temperature


@pytest.mark.parametrize(
    "structure",
    [pytest.param(s, marks=pytest.mark.slow if s.hull.auxiliary else ()) for s in polytopes.EXAMPLES],
    ids=repr,
)
def test_where_x_has_digits_logarithms_are_its_own(structure):
    u = utilities(structure, 3, 4)
    for regularizer in (CATEGORICAL, BINARY, FAMILY):
        try:
            soft = sst.SoftArgmax(structure, regularizer)
            log_x, x = soft.log(u, 0.2), soft(u, 0.2)
        except (ValueError, NotImplementedError):
            continue
        assert (log_x.exp() - x).abs().max() < 1e-8
        large = x > 1e-4
        assert ((log_x - x.log()).abs()[large] < 1e-4).all()


@pytest.mark.parametrize(
    "structure",
    [
        polytopes.SpanningTree(4),
        flow(),
        polytopes.KSubset(5, 2),
        polytopes.Matching(3),
        polytopes.CorrelatedKSubset(5, 2),
    ],
    ids=repr,
)
@pytest.mark.parametrize("temperature", [1.0, 0.01, 0.001])
def test_marginals_against_enumeration(structure, temperature):
    u = utilities(structure, 2, 6).requires_grad_()
    log_x = sst.SoftArgmax(structure, FAMILY).log(u, temperature)
    v = utilities(structure, 2, 7)
    (g,) = torch.autograd.grad(log_x, u, v)
    points = structure.vertices().flatten(1)
    for row, answer, cotangent, pulled in zip(*(a.detach().flatten(1) for a in (u, log_x, v, g)), strict=True):
        scores = points @ (row / temperature)  # sums of a few terms: logsumexp is their truth to 1e-12
        shares = (scores[:, None] + points.log()).log_softmax(0)  # of the elements with item i
        truth = (scores[:, None] + points.log()).logsumexp(0) - scores.logsumexp(0)
        assert ((answer - truth).abs() <= 1e-9 * (1 + truth.abs())).all()
        means = shares.exp().T @ points - scores.softmax(0) @ points
        assert (pulled - cotangent @ means / temperature).abs().max() <= 1e-7 / temperature


def test_case_09_likelihoods_of_cold_simplices():
    """-log of a declared simplex's soft argmax is that of log_softmax, value and gradient."""
    x = cp.Variable(8)
    soft = sst.SoftArgmax(sst.Structure(x, [x >= 0, cp.sum(x) == 1]), CATEGORICAL)
    u = utilities(soft.structure, 16, 0).requires_grad_()
    for t in (0.1, 0.01, 0.001):
        ours, truth = soft.log(u, t).mean(), (u / t).log_softmax(-1).mean()
        assert abs(ours - truth) <= 1e-12 * abs(truth)
        pair = [torch.autograd.grad(y, u)[0] for y in (ours, truth)]
        assert (pair[0] - pair[1]).abs().max() <= 1e-12 / t


def test_second_derivatives():
    u = utilities(flow(), 2, 8).requires_grad_()
    for structure, regularizer in ((flow(), CATEGORICAL), (polytopes.KSubset(7, 2), BINARY), (flow(), FAMILY)):
        soft = sst.SoftArgmax(structure, regularizer)
        assert torch.autograd.gradgradcheck(lambda v, soft=soft: soft.log(v, 0.5), (u,), fast_mode=True)


def test_temperature_and_parameters():
    x, cap = cp.Variable(5), cp.Parameter(nonneg=True, name="cap")
    soft = sst.SoftArgmax(sst.Structure(x, [x >= 0, x <= cap, cp.sum(x) == 1]), CATEGORICAL)
    u, t = utilities(soft.structure, 3, 9).requires_grad_(), torch.tensor([1.0, 0.5, 0.3]).double().requires_grad_()
    caps = torch.tensor([0.3, 0.5, 0.7], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda u, t, c: soft.log(u, t, cap=c), (u, t, caps), fast_mode=True, atol=1e-4)
    assert (soft.log(u, t, cap=caps).exp() - soft(u, t, cap=caps)).abs().max() < 1e-9


@pytest.mark.parametrize("soft", [sst.SoftArgmax(polytopes.KSubset(5, 2), BINARY), sst.SoftArgmax(flow(), CATEGORICAL)])
def test_masks(soft):
    u = utilities(soft.structure, 3, 10)
    mask = torch.ones(u.shape, dtype=torch.bool)
    mask[1, 2] = mask[2, 3] = False
    log_x, x = soft.log(u, 0.1, mask=mask), soft(u, 0.1, mask=mask)
    assert torch.isneginf(log_x[~mask]).all()
    assert (log_x.exp() - x).abs().max() < 1e-9
    lowered = torch.where(mask, u, torch.nan)
    assert torch.equal(soft.log(lowered, 0.1, mask=mask), log_x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "soft", [sst.SoftArgmax(polytopes.KSubset(5, 2), BINARY), sst.SoftArgmax(transport(), CATEGORICAL)]
)
def test_shapes_and_dtypes(soft, dtype):
    u = utilities(soft.structure, 6, 11).to(dtype).reshape(2, 3, *soft.structure.event_shape)
    log_x = soft.log(u, 0.5)
    assert (log_x.shape, log_x.dtype) == (u.shape, dtype)
    truth = soft.log(u.double(), 0.5)
    assert ((log_x.double() - truth).abs() <= 8 * torch.finfo(dtype).eps * (1 + truth.abs())).all()
    assert soft.log(u[:0]).shape == u[:0].shape


def test_what_has_no_logarithms_says_so():
    u = torch.zeros(4)
    with pytest.raises(NotImplementedError, match="has no logarithms"):
        sst.SoftArgmax(polytopes.KSubset(4, 2), sst.Euclidean()).log(u)
    x = cp.Variable(4)
    ball = sst.Structure(x, [cp.norm(x) <= 1, x >= 0])
    with pytest.raises(NotImplementedError, match="linear constraints"):
        sst.SoftArgmax(ball, CATEGORICAL).log(u)
    with pytest.raises(NotImplementedError, match="log-partition"):
        sst.SoftArgmax(polytopes.Permutahedron(torch.tensor([2.0, 1.0, 0.0])), FAMILY).log(torch.zeros(3))
    with pytest.raises(NotImplementedError, match="eagerly"):
        torch.vmap(sst.SoftArgmax(flow(), CATEGORICAL).log)(torch.zeros(2, 7))


def test_fast_functions_where_the_host_is_not_asked():
    u = torch.randn(3, 5, dtype=torch.float64)
    for structure in (
        polytopes.OneHot(5),
        polytopes.KSubset(5, 2),
        polytopes.AtMostKSubset(5, 2),
        polytopes.Hypercube(5),
    ):
        for regularizer in (CATEGORICAL, BINARY, FAMILY):
            soft = sst.SoftArgmax(structure, regularizer)
            assert torch.allclose(torch.vmap(soft.log)(u), soft.log(u), rtol=1e-12)
            with sst.guard("nan"):
                assert torch.equal(soft.log(u), soft.log(u))
