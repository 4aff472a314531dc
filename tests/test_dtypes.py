"""Every pair in every dtype, at shared offsets and scales of 1e-3 to 1e4, against float64 at the same utilities.

Answers are right to rounding: nothing is decided or accumulated in fewer digits, whatever autocast says, and the
caller's dtype comes back.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import zlib
from collections.abc import Callable, Iterator

import mpmath
import pytest
import torch
from torch.distributions import Gumbel

import polytopes
import sst_cvx as sst
from polytopes.kernels.threshold import SEARCHABLE, threshold_map
from sst_cvx.learning.noise import draw
from tests.inside.table import FAST, SOLVED
from tests.oracles import bisection, pullback

KINDS = {
    "float32": (torch.float32, False),
    "float16": (torch.float16, False),
    "bfloat16": (torch.bfloat16, False),
    "autocast of float32": (torch.float32, True),
    "autocast of float64": (torch.float64, True),
}
OFFSETS, SCALES = (0.0, 1e2, 1e4), (1e-3, 1.0, 1e2, 1e4)
GRID = list(itertools.product(KINDS, OFFSETS, SCALES))
#: Where x is linear in u piece by piece: rounded utilities are often where two pieces meet.
PIECEWISE = (sst.Euclidean, sst.TsallisEntropy)
#: Answers of float64 that solvers find to this, and closed forms to rounding.
NOISE = {"fast": 1e-12, "active_set": 1e-8, "interior_point": 1e-8}


class Cell:
    """One pair, one kind of utilities, one offset and scale."""

    def __init__(self, structure: sst.Structure, f: sst.Regularizer, kind: str, offset: float, scale: float):
        self.structure, self.f, self.soft = structure, f, sst.SoftArgmax(structure, f)
        self.dtype, self.autocast = KINDS[kind]
        self.generator = torch.Generator().manual_seed(zlib.crc32(repr((structure, f, kind, offset, scale)).encode()))
        most = 0.9 * min(torch.finfo(self.dtype).max, 1e30)
        u = scale * self.noise(3, *structure.event_shape) + offset
        self.u, self.eps = u.clamp(-most, most).to(self.dtype), torch.finfo(self.dtype).eps

    def noise(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=self.generator)

    @contextlib.contextmanager
    def mode(self) -> Iterator[None]:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            yield

    def close(self, found: torch.Tensor, truth: torch.Tensor, what: str, roundings: float = 8, least: float = 0.0):
        """To so many roundings of their size, entry by entry, or of ``least``; infinite where the truth overflows."""
        assert found.dtype == self.dtype, what
        fits = truth.abs() < torch.finfo(self.dtype).max * (1 - self.eps)
        error = (found.double() - truth).abs()[fits]
        size = truth.abs()[fits].clamp(min=max(least, torch.finfo(self.dtype).smallest_normal))
        assert not bool((error > roundings * self.eps * size + 1e-9 * least).any()), f"{what}: {error.max()}"

    def check_soft(self) -> None:
        u, wide = self.u.clone().requires_grad_(), self.u.double().clone().requires_grad_()
        v = self.noise(*self.u.shape).to(self.dtype)
        truth = self.soft(wide)
        with self.mode():
            x = self.soft(u)
            (g,) = torch.autograd.grad((x.double() * v.double()).sum(), u)
        size, noise = max(1.0, float(truth.detach().abs().max())), NOISE[self.soft.path]
        self.close(x.detach(), truth.detach(), "soft argmax", least=max(size, noise / self.eps))
        if self.dtype.itemsize == 2 and isinstance(self.f, PIECEWISE):
            return
        (right,) = torch.autograd.grad((truth * v.double()).sum(), wide)
        assert g.dtype == self.dtype
        error = float((g.double() - right).abs().max()) / max(float(v.double().abs().max()) * size**2, 1.0)
        assert error < max(1e-4 if self.dtype == torch.float32 else 4 * self.eps, 1e-7), f"gradient: {error}"

    def check_loss(self) -> None:
        y = self.structure.argmax(self.noise(*self.u.shape))
        y = y.to(self.dtype) if self.structure.binary else y  # others leave the hull by rounding
        loss = sst.FenchelYoungLoss(self.soft, "none")
        truth = loss(self.u.double(), y)
        with self.mode():
            found = loss(self.u, y)
        rounding = 1e-14 * float(self.u.double().abs().amax() + 1) * self.structure.variable.size
        rounding = max(rounding, NOISE[self.soft.path] * float(self.u.double().abs().amax() + 1))
        assert float(found.min()) >= -rounding
        self.close(found, truth, "loss", least=rounding / self.eps)

    def check_rsample(self) -> None:
        trick = sst.StochasticSoftmax(self.soft, Gumbel(self.u, torch.ones_like(self.u)), 1.0)
        with self.mode():
            x = trick.rsample((2,), generator=torch.Generator().manual_seed(1))
        u = draw(trick.utilities, (2,), torch.Generator().manual_seed(1))
        truth = self.soft(u.double())
        size = max(1.0, float(truth.abs().max()), NOISE[self.soft.path] / self.eps)
        self.close(x, truth, "rsample", least=size)

    def check_hard(self) -> None:
        wide = self.u.double()
        with self.mode():
            x = self.structure.argmax(self.u)
        assert x.dtype == self.dtype
        assert torch.equal(x, self.structure.argmax(wide).to(self.dtype))
        self.check_elements(x)

    def check_elements(self, x: torch.Tensor) -> None:
        if self.structure.has_vertices():
            points = self.structure.vertices().to(self.dtype).flatten(1)
            rows = x.reshape(-1, 1, points.shape[1])
            assert bool((rows == points).all(-1).any(-1).all())

    def check_family(self) -> None:
        ours, wide = (sst.ExponentialFamily(self.structure, u) for u in (self.u, self.u.double()))
        y = self.structure.argmax(self.noise(*self.u.shape)).to(self.dtype)
        u = self.u.clone().requires_grad_()
        with self.mode():
            found = ours.mean, ours.entropy(), ours.log_prob(y), ours.log_partition()
            direct = self.structure.log_partition(u)
            (g,) = torch.autograd.grad(direct.double().sum(), u)
            samples = ours.sample((4,), generator=self.generator), self.structure.sample(self.u, self.generator)
        rounding = 1e-14 * float(self.u.double().abs().amax() + 1) * self.structure.variable.size / self.eps
        self.close(found[0], wide.mean, "mean", least=max(1.0, float(wide.mean.abs().max())))
        self.close(found[1], wide.entropy(), "entropy", 2, rounding)
        self.close(found[2], wide.log_prob(y), "log_prob", 2, rounding)
        self.close(found[3], wide.log_partition(), "log_partition", 2, rounding)
        self.close(direct.detach(), wide.log_partition(), "the structure's log_partition", least=1.0)
        self.close(g, wide.mean, "gradient of log_partition", least=max(1.0, float(wide.mean.abs().max())))
        for x in samples:
            assert x.dtype == self.dtype
            self.check_elements(x)

    def checks(self) -> list[Callable[[], None]]:
        found = [self.check_soft, self.check_loss, self.check_rsample]
        if isinstance(self.f, sst.Euclidean | sst.ExponentialFamilyEntropy):
            found.append(self.check_hard)
        return [*found, self.check_family] if isinstance(self.f, sst.ExponentialFamilyEntropy) else found


@pytest.mark.parametrize(("structure", "f"), FAST)
def test_some_of_the_grid(structure, f):
    chosen = random.Random(repr((structure, f)))
    chosen.choice(Cell(structure, f, *chosen.choice(GRID)).checks())()


@pytest.mark.exhaustive
@pytest.mark.parametrize(("structure", "f"), FAST + SOLVED)
def test_the_whole_grid(structure, f):
    for cell in GRID:
        for check in Cell(structure, f, *cell).checks():
            try:
                check()
            except sst.SolveError:  # solvers may refuse temperatures far below the utilities
                assert sst.SoftArgmax(structure, f).path != "fast"


@pytest.mark.parametrize("f", [kind() for kind in SEARCHABLE], ids=repr)
def test_errors_do_not_grow_with_the_size(f):
    """One fractional entry may bear the rounding of 20,000 others."""
    for dtype, (spread, offset) in itertools.product(
        (torch.float32, torch.float16, torch.bfloat16), ((0.5, 0.0), (200.0, 0.0), (1.0, 100.0))
    ):
        u = (torch.randn(50_000) * spread + offset).to(dtype)
        x = threshold_map(u.float(), 20_000, f).to(dtype)  # as paths see 16 bits
        error = (x.double() - threshold_map(u.double(), 20_000, f)).abs().max()
        assert float(error) < 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("f", [sst.Euclidean(), sst.TsallisEntropy(1.5), sst.TsallisEntropy(1.3)], ids=repr)
@pytest.mark.parametrize(("n", "k"), [(6, 3), (80, 5)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_ties_at_a_vertex_do_not_move(f, n, k, dtype):
    """Equal utilities, as in 16 bits, far above the next ones: x is a vertex around there, its gradient 0."""
    spacing = 2.1 * max(1.0, f.unit_slopes)
    u = (spacing * (torch.randn(200, n) * 3).round()).to(dtype)
    ordered = u.sort(-1, descending=True).values
    u = u[ordered[:, k - 1] > ordered[:, k]].requires_grad_()
    for structure in (polytopes.KSubset(n, k), polytopes.AtMostKSubset(n, k)):
        above = u + (spacing - u.detach().amin(-1, keepdim=True))  # all worth choosing
        x = sst.SoftArgmax(structure, f)(above)
        assert torch.equal(x, structure.argmax(above))
        (g,) = torch.autograd.grad((x * torch.randn_like(x)).sum(), u)
        assert bool((g == 0).all())


@pytest.mark.parametrize("numbers", [[1000.0, 0.001, 0.0, 0.0], [1e5, 1.0, -1e3, 0.5], [3.0, 2.0, 2.0, 0.0]])
def test_entropy_of_orders_of_uneven_weights(numbers):
    """A(u) and <u, x> are 1e7 and more, their difference of order 1: right but for the rounding of A."""
    structure, exact = polytopes.Permutahedron(torch.tensor(numbers, dtype=torch.float64)), mpmath.MPContext()
    exact.dps = 50
    for scale in (1.0, 1e2, 1e4):
        u = scale * torch.randn(4, dtype=torch.float64)
        scores = [exact.fdot(u.tolist(), x) for x in structure.vertices().tolist()]
        top = max(scores)
        total = exact.fsum(exact.exp(s - top) for s in scores)
        shares = [exact.exp(s - top) / total for s in scores]
        truth = -exact.fsum(p * exact.log(p) for p in shares)
        found = exact.mpf(float(sst.ExponentialFamily(structure, u).entropy()))
        assert abs(found - truth) < 1e-14 * (1 + abs(top))


@pytest.mark.parametrize("f", [kind() for kind in SEARCHABLE], ids=repr)
@pytest.mark.parametrize("size", [0.01, 1.0, 300.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_thresholds_of_any_size_and_batch(f, size, dtype):
    """Near 0, beyond 100, alone and in batches: values and gradients by halvings and the implicit function theorem."""
    name = type(f).__name__
    u = (size * torch.randn(40, 5, dtype=torch.float64)).to(dtype).requires_grad_()
    v, wide = torch.randn_like(u), u.detach().double()
    x = threshold_map(u, 2, f)
    truth = bisection(wide, 2, name)
    torch.testing.assert_close(x.detach().double(), truth, rtol=0, atol=max(1e-12, 4 * torch.finfo(dtype).eps))
    (g,) = torch.autograd.grad((x * v).sum(), u)
    right = pullback(x.detach().double(), v.double(), name)
    torch.testing.assert_close(g.double(), right, rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-10)
    for count in (1, 6, 7, 35):
        each = torch.cat([threshold_map(part, 2, f) for part in u.detach().split(count)])
        torch.testing.assert_close(each, x.detach(), rtol=0, atol=4 * torch.finfo(dtype).eps)
