"""Tsallis entropies of any alpha, one a row and learnable, and sizes of subsets that are given with each call."""

from __future__ import annotations

import mpmath
import pytest
import torch

import polytopes
import sst_cvx as sst
from sst_cvx import native

STRUCTURES = [polytopes.OneHot(6), polytopes.KSubset(6, 2), polytopes.AtMostKSubset(6, 3), polytopes.Hypercube(6)]
ALPHAS = [0.3, 0.5, 0.9, 2.5, 5.0]
KINDS = [polytopes.KSubset, polytopes.AtMostKSubset]
SEPARABLE = [
    sst.Euclidean(),
    sst.CategoricalEntropy(),
    sst.BinaryEntropy(),
    *[sst.TsallisEntropy(a) for a in (0.5, 1.5, 3.0)],
]
SLOWLY = pytest.mark.parametrize("on", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["compiled", "tensors"])
BOTH = pytest.mark.parametrize("on", [True, False], ids=["compiled", "tensors"])


def draw(*shape: int, scale: float = 2.0) -> torch.Tensor:
    return scale * torch.randn(*shape, dtype=torch.float64)


@SLOWLY
@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("structure", STRUCTURES, ids=repr)
def test_any_alpha_is_optimal_and_differentiable(structure, alpha, on):
    soft = sst.SoftArgmax(structure, sst.TsallisEntropy(alpha))
    with native.switched(on):
        for scale in (1e-2, 2.0, 1e3):
            u = draw(40, 6, scale=scale)
            x = soft(u, 0.7)
            assert float(soft.gap(u, x, 0.7).abs().max()) < 1e-11 * scale + 1e-12
            with sst.guard("nan"):
                torch.testing.assert_close(soft(u, 0.7), x, rtol=0, atol=1e-10)
            single = soft(u.float(), 0.7).double()
            torch.testing.assert_close(single, soft(u.float().double(), 0.7), rtol=0, atol=1e-6)
        u = draw(3, 6).requires_grad_()
        assert torch.autograd.gradcheck(lambda w: soft(w, 0.7), u, eps=1e-7, atol=1e-4, fast_mode=True)


@BOTH
def test_entries_next_to_zero_above_two(on):
    """x follows u like (u - nu)^(1 / (alpha - 1)): against as many digits as it takes."""
    u, alpha = torch.tensor([[0.0, 0.4, 0.4 - 1e-13, -3.0]], dtype=torch.float64), 5.0
    u = u + torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, -0.15, 0.0, 0.0], [0.25, 0.0, 0.0, 0.0]], dtype=torch.float64)
    exact = mpmath.MPContext()
    exact.dps = 60
    with native.switched(on):
        found = sst.SoftArgmax(polytopes.OneHot(4), sst.TsallisEntropy(alpha))(u)
    for row, x in zip(u.tolist(), found.tolist(), strict=True):
        z = [4 * exact.mpf(v) for v in row]
        low, high = max(z) - 1, max(z)
        for _ in range(190):
            tau = (low + high) / 2
            if exact.fsum(exact.root(max(v - tau, 0), 4) for v in z) > 1:
                low = tau
            else:
                high = tau
        for v, entry in zip(z, x, strict=True):
            assert abs(exact.root(max(v - high, 0), 4) - entry) < 1e-12


@BOTH
@pytest.mark.parametrize("structure", STRUCTURES, ids=repr)
def test_one_learnable_alpha_a_row(structure, on):
    alpha = torch.tensor([0.4, 1.0, 1.5, 2.0, 3.0, 1 + 1e-7], dtype=torch.float64, requires_grad=True)
    u = draw(6, 6).requires_grad_()
    with native.switched(on):
        soft = sst.SoftArgmax(structure, sst.TsallisEntropy(alpha))
        x = soft(u, 0.7)
        each = [sst.CategoricalEntropy() if a == 1 else sst.TsallisEntropy(a) for a in alpha.tolist()]
        right = [sst.SoftArgmax(structure, f)(w, 0.7) for f, w in zip(each, u, strict=True)]
        torch.testing.assert_close(x, torch.stack(right), rtol=0, atol=1e-8)  # the last but one digits at 1 + 1e-7
        assert float(soft.gap(u, x, 0.7).abs().max()) < 1e-10
        torch.testing.assert_close(soft(u.reshape(2, 3, 6), 0.7), x.reshape(2, 3, 6))

        def map_(w: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
            return sst.SoftArgmax(structure, sst.TsallisEntropy(a))(w, 0.7)

        assert torch.autograd.gradcheck(map_, (u, alpha), eps=1e-6, atol=1e-5, fast_mode=True)
        one = torch.tensor(1.4, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(map_, (u, one), eps=1e-6, atol=1e-5, fast_mode=True)


def test_a_learnable_alpha_is_learned():
    """It is read at each call, also by float32 utilities."""
    alpha = torch.nn.Parameter(torch.tensor(1.2))
    soft, u = sst.SoftArgmax(polytopes.OneHot(8), sst.TsallisEntropy(alpha)), torch.randn(64, 8)
    truth = sst.SoftArgmax(polytopes.OneHot(8), sst.TsallisEntropy(1.8))(u)
    optimizer = torch.optim.Adam([alpha], lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        (soft(u) - truth).square().sum().backward()
        optimizer.step()
    assert abs(float(alpha) - 1.8) < 1e-2


def test_refusals_of_alpha():
    two, tensor = torch.tensor([1.5, 1.7]), sst.TsallisEntropy(torch.tensor(1.5))
    with pytest.raises(ValueError, match="alpha has 2 numbers"):
        sst.SoftArgmax(polytopes.OneHot(4), sst.TsallisEntropy(two))(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="alpha must be one number"):
        sst.TsallisEntropy(torch.ones(2, 3))
    with pytest.raises(ValueError, match="positive and finite"):
        sst.TsallisEntropy(torch.tensor([1.5, 0.0]))
    with pytest.raises(TypeError, match="floating-point"):
        sst.TsallisEntropy(torch.tensor([2]))
    for path in ("interior_point", "layer"):
        with pytest.raises(ValueError, match="a tensor alpha is for the fast paths"):
            sst.SoftArgmax(polytopes.OneHot(4), tensor, path=path)
    with pytest.raises(ValueError, match="a tensor alpha is for the fast paths"):
        sst.SoftArgmax(polytopes.Matching(3), tensor)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_paths_that_solve_take_any_alpha(alpha):
    structure, f = polytopes.KSubset(5, 2), sst.TsallisEntropy(alpha)
    u = draw(10, 5).requires_grad_()
    x, y = sst.SoftArgmax(structure, f)(u), sst.SoftArgmax(structure, f, path="interior_point")(u)
    torch.testing.assert_close(y, x, rtol=0, atol=1e-9)
    v = torch.randn_like(u)
    torch.testing.assert_close(*(torch.autograd.grad(w, u, v)[0] for w in (y, x)), rtol=0, atol=1e-7)


@pytest.mark.parametrize("alpha", [2.5, 4.0])
def test_the_gap_bounds_the_distance_above_two(alpha):
    f, t = sst.TsallisEntropy(alpha), 0.7
    assert f.strong_convexity(polytopes.OneHot(6)) == 0
    soft, u = sst.SoftArgmax(polytopes.OneHot(6), f), draw(200, 6)
    x = soft(u, t)
    moved = 0.5 * (x + torch.rand_like(x).softmax(-1))
    distance = (x - moved).abs().pow(alpha).sum(-1)
    assert bool((t / (alpha * (alpha - 1)) * distance <= soft.gap(u, moved, t)).all())


@SLOWLY
@pytest.mark.parametrize("f", SEPARABLE, ids=repr)
@pytest.mark.parametrize("kind", KINDS)
def test_one_size_a_row(kind, f, on):
    sizes, u = torch.tensor([0, 1, 2, 3, 4, 5, 6], dtype=torch.float64), draw(7, 6).requires_grad_()
    with native.switched(on):
        soft = sst.SoftArgmax(kind(6, None), f)
        assert soft.path == "fast"
        x = soft(u, 0.5, k=sizes)
        right = [sst.SoftArgmax(kind(6, k), f)(w, 0.5) for k, w in enumerate(u)]
        torch.testing.assert_close(x, torch.stack(right), rtol=0, atol=1e-10)
        relaxed = torch.tensor([0.3, 1.2, 2.5, 3.9, 4.4, 5.5, 2.1], dtype=torch.float64, requires_grad=True)
        x = soft(u, 0.5, k=relaxed)
        assert float(soft.gap(u, x, 0.5, k=relaxed).abs().max()) < 1e-10
        reference = sst.SoftArgmax(kind(6, None), f, path="interior_point")(u, 0.5, k=relaxed)
        torch.testing.assert_close(x, reference, rtol=0, atol=1e-8)
        assert torch.autograd.gradcheck(
            lambda w, k: soft(w, 0.5, k=k), (u, relaxed), eps=1e-6, atol=1e-4, fast_mode=True
        )
        with sst.guard("nan"):
            torch.testing.assert_close(soft(u, 0.5, k=relaxed), x, rtol=0, atol=1e-10)


@BOTH
def test_the_derivative_by_the_size_at_vertices(on):
    """It jumps from the last item that is in to the next: half of each, and the only one at 0 and n."""
    soft = sst.SoftArgmax(polytopes.KSubset(3, None), sst.Euclidean())
    u, k = torch.tensor([5.0, 40.0, -9.0], dtype=torch.float64), torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64)
    with native.switched(on):
        jacobian = torch.autograd.functional.jacobian(lambda k: soft(u.expand(4, 3), k=k).sum(0), k)
    halves = [[0.0, 0.5, 0.5, 0.0], [1.0, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 1.0]]
    torch.testing.assert_close(jacobian, torch.tensor(halves, dtype=torch.float64))


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_of_one_size_a_row(kind):
    structure, u, k = kind(5, None), draw(4, 2, 5), torch.tensor([2, 4])
    expected = torch.stack([kind(5, 2).argmax(u[:, 0]), kind(5, 4).argmax(u[:, 1])], 1)
    assert torch.equal(structure.argmax(u, k=k), expected)
    assert torch.equal(structure.argmax(u.abs(), k=torch.tensor(1.5)).sum(-1), torch.full((4, 2), 1.5).double())


@pytest.mark.parametrize("kind", KINDS)
def test_refusals_of_sizes(kind):
    structure, u = kind(4, None), torch.zeros(2, 4)
    soft = sst.SoftArgmax(structure, sst.CategoricalEntropy())
    with pytest.raises(ValueError, match="k must be between 0 and 4"):
        soft(u, k=5.0)
    with pytest.raises(TypeError, match="missing"):
        soft(u)
    with pytest.raises(TypeError, match=r"hull parameters are none.*Other keywords: temperature"):
        kind(4, 2).argmax(u, k=2)
    asked = lambda: structure.sample(u), lambda: structure.log_partition(u), lambda: soft.log(u, k=torch.tensor(2.0))
    for call in asked:
        with pytest.raises(NotImplementedError, match="use the structure with an integer k"):
            call()
    with pytest.raises(ValueError, match="integer k"):
        sst.SoftArgmax(structure, sst.ExponentialFamilyEntropy())
    assert not structure.has_vertices()


@pytest.mark.parametrize("f", [sst.Euclidean(), sst.BinaryEntropy()], ids=repr)
@pytest.mark.parametrize("kind", KINDS)
def test_sizes_under_compilers_and_transforms(kind, f):
    """Before any eager call, and by values, gradients and NaN where a size is none."""

    class Model(torch.nn.Module):
        def forward(self, u, k):
            return sst.SoftArgmax.forward(soft, u, 0.7, k=k)

    soft, u, k = sst.SoftArgmax(kind(6, None), f), draw(4, 6), torch.tensor([1.0, 2.0, 3.5, 6.0], dtype=torch.float64)
    torch._dynamo.reset()
    compiled = torch.compile(Model(), fullgraph=True, backend="aot_eager")
    x = compiled(u, k)
    torch.testing.assert_close(x, soft(u, 0.7, k=k), rtol=0, atol=1e-10)
    assert compiled(u, torch.where(k == 2, 9.0, k)).isnan().any(-1).tolist() == [False, True, False, False]
    torch.testing.assert_close(torch.export.export(Model(), (u, k)).module()(u, k), x)
    one = torch.func.vmap(lambda u, k: soft(u, 0.7, k=k))
    torch.testing.assert_close(one(u, k), x, rtol=0, atol=1e-10)
    mapped = torch.func.vmap(lambda u: soft(u, 0.7, k=torch.tensor(2.0)))
    torch.testing.assert_close(mapped(u), soft(u, 0.7, k=torch.tensor(2.0)), rtol=0, atol=1e-10)
    slope = torch.func.grad(lambda k: soft(u, 0.7, k=k).square().sum())(k)
    known = k.clone().requires_grad_()
    (truth,) = torch.autograd.grad(soft(u, 0.7, k=known).square().sum(), known)
    torch.testing.assert_close(slope, truth, rtol=0, atol=1e-8)
