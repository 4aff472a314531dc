"""Label sequences against their enumeration, written here anew, and against torch-struct."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
import torch

import polytopes
import sst_cvx as sst
from sst_cvx import native

FAMILY = sst.ExponentialFamilyEntropy()


def score(unary: torch.Tensor, pairwise: torch.Tensor, labels: tuple[int, ...]) -> torch.Tensor:
    """Of one sequence, by its definition: pairwise ``(n - 1, labels, labels)``."""
    steps = itertools.pairwise(labels)
    terms = [unary[i, a] for i, a in enumerate(labels)] + [pairwise[i, a, b] for i, (a, b) in enumerate(steps)]
    return torch.stack(terms).sum()


def enumerated(unary: torch.Tensor, pairwise: torch.Tensor, length: int) -> tuple[list, torch.Tensor]:
    """All sequences of this length, and their scores."""
    every = list(itertools.product(range(unary.shape[-1]), repeat=length))
    return every, torch.stack([score(unary, pairwise, labels) for labels in every])


def events(every: list, n: int, labels: int) -> torch.Tensor:
    """The elements of sequences of one length, by their definition; a single label goes into label 0."""
    x = torch.zeros(len(every), n - 1, labels, labels, dtype=torch.float64)
    for row, sequence in zip(x, every, strict=True):
        for i, (a, b) in enumerate(zip(sequence, sequence[1:] if len(sequence) > 1 else (0,), strict=False)):
            row[i, a, b] = 1
    return x


def projection(points: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """The nearest point of a hull of few points, by Wolfe's algorithm of the engine on the list: another structure."""
    flat = points.flatten(1)

    def argmax(v: torch.Tensor) -> torch.Tensor:
        return flat[(v.double() @ flat.T).argmax(-1)].to(v.dtype)

    listed = sst.Structure.from_argmax((flat.shape[1],), argmax)
    return sst.SoftArgmax(listed, sst.Euclidean())(u.reshape(-1)).reshape(points.shape[1:])


def random(n: int, labels: int, *batch: int, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    unary = scale * torch.randn(*batch, n, labels, dtype=torch.float64)
    return unary, scale * torch.randn(*batch, n - 1, labels, labels, dtype=torch.float64)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0, 1e4])
@pytest.mark.parametrize(("n", "labels"), [(2, 1), (2, 3), (3, 2), (5, 1), (4, 3)])
def test_against_enumeration(n, labels, scale, compiled):
    chain = polytopes.Chain(n, labels)
    unary, pairwise = random(n, labels, 2, scale=scale)
    u = chain.scores(unary, pairwise)
    with native.switched(compiled):
        value, x = chain.log_partition(u), sst.SoftArgmax(chain, FAMILY)(u)
        y, best, sequence = chain.labels(x), chain.argmax(u), chain.decode(u)
    for r in range(2):
        every, scores = enumerated(unary[r], pairwise[r], n)
        chances, points = scores.softmax(0), events(every, n, labels)
        torch.testing.assert_close(value[r], scores.logsumexp(0), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(x[r], torch.einsum("v,viab->iab", chances, points), rtol=0, atol=1e-11)
        of_labels = torch.stack([torch.eye(labels, dtype=torch.float64)[list(s)] for s in every])
        torch.testing.assert_close(y[r], torch.einsum("v,vil->il", chances, of_labels), rtol=0, atol=1e-11)
        found = tuple(sequence[r].tolist())
        assert scores[every.index(found)] >= scores.max() - 1e-9 * scale
        assert torch.equal(best[r], events([found], n, labels)[0])
    assert len(chain.vertices()) == labels**n


@pytest.mark.parametrize("compiled", [True, False])
def test_shorter_sequences(compiled):
    """Every length in one batch: log-partition, marginals, best sequences and samples are those of the short ones."""
    n, labels = 4, 3
    chain, lengths = polytopes.Chain(n, labels), torch.arange(1, n + 1)
    unary, pairwise = random(n, labels, n)
    u, mask = chain.scores(unary, pairwise, lengths), chain.length_mask(lengths)
    with native.switched(compiled):
        x = sst.SoftArgmax(chain, FAMILY)(u, mask=mask)
        value, best = chain.masked_log_partition(u, mask), chain.masked_argmax(u, mask)
        sequence = chain.decode(u, lengths)
        sparse = sst.SoftArgmax(chain, sst.Euclidean())(u, mask=mask)
        inner = sst.SoftArgmax(chain, sst.Euclidean(), path="interior_point")(u, mask=mask)
        drawn = sst.ExponentialFamily(chain, u, mask=mask).sample((50,))
    for r, length in enumerate(lengths.tolist()):
        every, scores = enumerated(unary[r], pairwise[r], length)
        points, y = events(every, n, labels), chain.labels(x, lengths)[r]
        torch.testing.assert_close(value[r], scores.logsumexp(0))
        torch.testing.assert_close(x[r], torch.einsum("v,viab->iab", scores.softmax(0), points), rtol=0, atol=1e-12)
        of_first = torch.stack([scores.softmax(0)[[s[0] == a for s in every]].sum() for a in range(labels)])
        torch.testing.assert_close(y[0], of_first)
        assert bool((y[length:] == 0).all())
        right = every[int(scores.argmax())]
        assert tuple(sequence[r].tolist()) == right + (0,) * (n - length)
        assert torch.equal(best[r], events([right], n, labels)[0])
        nearest = projection(points, u[r])
        torch.testing.assert_close(sparse[r], nearest, rtol=0, atol=1e-9)
        torch.testing.assert_close(inner[r], nearest, rtol=0, atol=1e-7)
        assert all(any(torch.equal(d, p) for p in points) for d in drawn[:, r])


def test_helpers_agree_on_lengths():
    """<scores, event> is the score of a sequence; labels of its event are the sequence; gradients reach what counts."""
    n, labels = 5, 3
    chain, lengths = polytopes.Chain(n, labels), torch.tensor([1, 2, 4, 5])
    unary, pairwise = random(n, labels, 4)
    unary[0, 2:] = torch.nan  # padding holds anything
    unary.requires_grad_()
    sequence = torch.randint(labels, (4, n))
    padded = torch.where(sst.length_mask(lengths, n), sequence, -100)
    x = chain.event(padded, lengths, dtype=torch.float64)
    values = (chain.scores(unary, pairwise, lengths) * x).sum((1, 2, 3))
    (slope,) = torch.autograd.grad(values.sum(), unary)
    for r, length in enumerate(lengths.tolist()):
        own = tuple(sequence[r, :length].tolist())
        torch.testing.assert_close(values[r], score(unary[r], pairwise[r], own))
        assert chain.labels(x, lengths)[r, :length].argmax(-1).tolist() == list(own)
        assert bool((chain.labels(x, lengths)[r, length:] == 0).all())
    torch.testing.assert_close(slope, chain.labels(x, lengths))
    table = torch.randn(labels, labels, dtype=torch.float64)
    every = table.expand(n - 1, labels, labels)
    clean = unary.detach().nan_to_num()
    assert torch.equal(chain.scores(clean, table), chain.scores(clean, every))
    assert torch.equal(chain.scores(clean), chain.scores(clean, torch.zeros_like(table)))
    assert torch.equal(chain.labels(chain.event(sequence)).argmax(-1), sequence)


def test_fenchel_young_of_labels_is_the_crf_likelihood():
    n, labels = 4, 3
    chain, (unary, pairwise) = polytopes.Chain(n, labels), random(n, labels, 2)
    sequence = torch.randint(labels, (2, n))
    u = chain.scores(unary, pairwise)
    loss = sst.FenchelYoungLoss(sst.SoftArgmax(chain, FAMILY), reduction="none")(u, chain.event(sequence).double())
    for r in range(2):
        every, scores = enumerated(unary[r], pairwise[r], n)
        likelihood = scores.logsumexp(0) - scores[every.index(tuple(sequence[r].tolist()))]
        torch.testing.assert_close(loss[r], likelihood)


@pytest.mark.parametrize("compiled", [True, False])
def test_any_mask(compiled):
    """Random masks against the list of what they leave, gradients too; forbidden utilities and cotangents count not."""
    chain = polytopes.Chain(4, 3)
    points, soft = chain.vertices(), sst.SoftArgmax(chain, FAMILY)
    u = torch.randn(12, *chain.event_shape, dtype=torch.float64)
    mask = torch.rand(u.shape) < 0.75
    mask[:, torch.arange(3), [0, 1, 2], [1, 2, 0]] = True
    mask[:3, 2] = False  # a sequence that ends
    left = torch.where(mask[:, None], 0.0, points).flatten(2).sum(2) == 0
    shorter = torch.where(mask[:3, None, :2], 0.0, points[:, :2]).flatten(2).sum(2) == 0
    left[:3] = shorter & (points[:, 2, :, 0].sum(1) == 1)  # one of all that differ after the end
    v = torch.where(mask, u, 1e30).requires_grad_()
    kept = torch.where(mask[:, None], points, 0.0).flatten(2)
    w = u.clone().requires_grad_()
    chances = torch.einsum("ri,rvi->rv", w.flatten(1), kept).masked_fill(~left, -torch.inf).softmax(1)
    right = torch.einsum("rv,rvi->ri", chances, kept).reshape(u.shape)
    g = torch.randn_like(u)
    (expected,) = torch.autograd.grad(right, w, g)
    with native.switched(compiled):
        x = soft(v, mask=mask)
        (slope,) = torch.autograd.grad(x, v, torch.where(mask, g, torch.inf))
    torch.testing.assert_close(x, right, rtol=0, atol=1e-12)
    torch.testing.assert_close(slope, expected * mask, rtol=0, atol=1e-11)
    assert bool((x[~mask] == 0).all())
    assert bool((slope[~mask] == 0).all())


def test_masks_that_leave_nothing():
    chain = polytopes.Chain(4, 2)
    u = torch.randn(3, *chain.event_shape)
    mask = torch.ones(u.shape, dtype=torch.bool)
    mask[0] = False
    mask[1, 1] = False  # a gap
    soft = sst.SoftArgmax(chain, FAMILY)
    asked = (lambda: soft(u, mask=mask), lambda: chain.masked_argmax(u, mask))
    for ask in (*asked, lambda: chain.masked_log_partition(u, mask)):
        with pytest.raises(sst.SolveError, match="no element") as caught:
            ask()
        assert list(caught.value.elements) == [(0,), (1,)]
    with sst.guard("nan"):
        x = soft(u, mask=mask)
        assert x.isnan().flatten(1).any(1).tolist() == [True, True, False]
        with pytest.raises(sst.SolveError, match="no element"):
            sst.synchronize()
    u[mask] = torch.nan
    with pytest.raises(ValueError, match="finite"):
        chain.masked_argmax(u, mask)


@pytest.mark.parametrize("compiled", [True, False])
def test_derivatives(compiled):
    """First to third of the log-partition, with lengths and without, backwards and forwards; batched, mapped."""
    chain, lengths = polytopes.Chain(3, 2), torch.tensor([2, 1])
    u = torch.randn(2, *chain.event_shape, dtype=torch.float64, requires_grad=True)
    soft, mask = sst.SoftArgmax(chain, FAMILY), chain.length_mask(lengths)
    for masked in (None, mask):

        def ask(v, masked=masked):
            return soft(v, mask=masked)

        with native.switched(compiled):
            assert torch.autograd.gradcheck(ask, u, check_forward_ad=True, check_batched_grad=True)
            assert torch.autograd.gradgradcheck(ask, u)
            rows = torch.func.vmap(lambda v, ask=ask: ask(v))(torch.stack([u.detach(), 2 * u.detach()]))
            torch.testing.assert_close(rows[1], ask(2 * u).detach())
            slopes = torch.func.jacrev(ask)(u.detach())
            torch.testing.assert_close(slopes, torch.autograd.functional.jacobian(ask, u.detach()))
    with native.switched(compiled):
        assert torch.autograd.gradgradcheck(chain.log_partition, u)
        assert torch.autograd.gradgradcheck(lambda v: chain.masked_log_partition(v, mask), u)


@pytest.mark.parametrize("compiled", [True, False])
def test_float32_of_large_utilities(compiled):
    """At 1000 times the usual scale, within 1e-5 of float64; nothing underflows in long chains."""
    chain = polytopes.Chain(60, 7)
    soft = sst.SoftArgmax(chain, FAMILY)
    for scale in (1.0, 1000.0):
        u = (scale * torch.randn(3, *chain.event_shape)).requires_grad_()
        wide = u.detach().double().requires_grad_()
        g = torch.randn_like(u)
        found = []
        for v, compiled_too in ((u, compiled), (wide, False)):
            with native.switched(compiled_too):
                x = soft(v)
                found.append((chain.log_partition(v), x, *torch.autograd.grad(x, v, g.to(v))))
        for ours, right in zip(*found, strict=True):
            assert ours.dtype == torch.float32
            torch.testing.assert_close(ours.double(), right, rtol=1e-5, atol=1e-5)


def test_long_chains_of_equal_scores():
    """More sequences than float64 counts: their number is folded into values on the way."""
    chain = polytopes.Chain(700, 5)
    u = torch.zeros(1, *chain.event_shape, dtype=torch.float64)
    torch.testing.assert_close(chain.log_partition(u), torch.tensor([700 * np.log(5)]), rtol=1e-13, atol=0)
    x = sst.SoftArgmax(chain, FAMILY)(u)
    torch.testing.assert_close(x, torch.full_like(x, 1 / 25), rtol=1e-10, atol=0)


@pytest.mark.parametrize("compiled", [True, False])
def test_samples(compiled):
    chain, generator = polytopes.Chain(3, 2), torch.Generator().manual_seed(0)
    u = torch.randn(chain.event_shape, dtype=torch.float64)
    with native.switched(compiled):
        drawn = chain.sample(u.expand(20_000, *chain.event_shape), generator)
    chances = (chain.vertices() * u).flatten(1).sum(1).softmax(0)
    counts = (drawn.flatten(1) @ chain.vertices().flatten(1).T == 2).double().mean(0)
    torch.testing.assert_close(counts, chances, rtol=0, atol=0.02)


def test_as_graph():
    """Paths of its graph are its sequences; on the same scores, both recursions say the same."""
    chain = polytopes.Chain(4, 3)
    tails, heads, source, target, items = chain._as_graph()
    path = polytopes.Path(torch.from_numpy(np.stack([tails, heads])), source, target)
    u = torch.randn(5, *chain.event_shape, dtype=torch.float64)
    scores = torch.where(torch.from_numpy(items >= 0), u.flatten(1)[:, items], 0.0)
    torch.testing.assert_close(chain.log_partition(u), path.log_partition(scores))
    assert torch.equal(
        chain.argmax(u).flatten(1)[:, items[items >= 0]], path.argmax(scores)[:, torch.from_numpy(items >= 0)]
    )
    assert len(path.vertices()) == len(chain.vertices())


def test_batches_and_builds():
    began = time.perf_counter()
    polytopes.Chain(128, 20)
    assert time.perf_counter() - began < 0.05
    chain = polytopes.Chain(3, 2)
    soft = sst.SoftArgmax(chain, FAMILY)
    for shape in ((), (0,), (2, 0), (2, 3)):
        u = torch.randn(*shape, *chain.event_shape)
        assert soft(u).shape == chain.argmax(u).shape == chain.sample(u).shape == u.shape
        assert chain.log_partition(u).shape == shape
        assert chain.labels(u).shape == (*shape, 3, 2)
        assert chain.decode(u).shape == (*shape, 3)
    turned = torch.randn(4, 2, 2, 2).mT[::2]  # not contiguous
    assert torch.equal(soft(turned), soft(turned.contiguous()))


def test_errors():
    chain = polytopes.Chain(4, 3)
    for wrong, error, match in (
        (lambda: polytopes.Chain(1, 2), ValueError, "n must be at least 2"),
        (lambda: polytopes.Chain(3, 0), ValueError, "labels must be at least 1"),
        (lambda: chain.scores(torch.zeros(3, 3)), ValueError, "unary"),
        (lambda: chain.scores(torch.zeros(4, 3), torch.zeros(2, 2)), ValueError, "pairwise"),
        (lambda: chain.scores(torch.zeros(4, 3), 1.0), TypeError, "pairwise"),  # pyright: ignore
        (lambda: chain.labels(torch.zeros(4, 3)), ValueError, "x must"),
        (lambda: chain.event(torch.zeros(4)), TypeError, "labels"),
        (lambda: chain.event(torch.zeros(3, dtype=torch.long)), ValueError, "labels"),
        (lambda: chain.event(torch.full((4,), 3)), ValueError, "labels must be 0 to 2"),
        (lambda: chain.length_mask(torch.tensor([0, 2])), ValueError, "at least 1"),
        (lambda: chain.length_mask(torch.tensor([5])), ValueError, "lengths"),
        (lambda: chain.scores(torch.zeros(2, 4, 3), lengths=torch.tensor([1, 2, 3])), ValueError, "lengths"),
    ):
        with pytest.raises(error, match=match):
            wrong()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_against_torch_struct():
    torch_struct = pytest.importorskip("torch_struct")
    for n, labels in ((2, 2), (6, 3), (9, 5)):
        chain = polytopes.Chain(n, labels)
        u = torch.randn(3, *chain.event_shape, dtype=torch.float64, requires_grad=True)
        theirs = torch_struct.LinearChainCRF(u.mT)  # from the second label to the first
        torch.testing.assert_close(chain.log_partition(u), theirs.partition, rtol=0, atol=1e-10)
        x = sst.SoftArgmax(chain, FAMILY)(u)
        torch.testing.assert_close(x, theirs.marginals.mT, rtol=0, atol=1e-10)
        torch.testing.assert_close(sst.ExponentialFamily(chain, u).entropy(), theirs.entropy, rtol=0, atol=1e-10)
        assert torch.equal(chain.argmax(u), torch_struct.LinearChainCRF(u.detach().mT).argmax.mT)
    lengths = torch.tensor([2, 5, 9])
    theirs = torch_struct.LinearChainCRF(u.detach().mT, lengths=lengths)
    mask = chain.length_mask(lengths)
    torch.testing.assert_close(chain.masked_log_partition(u.detach(), mask), theirs.partition, rtol=0, atol=1e-10)
    torch.testing.assert_close(
        sst.SoftArgmax(chain, FAMILY)(u.detach(), mask=mask), theirs.marginals.mT, rtol=0, atol=1e-10
    )
