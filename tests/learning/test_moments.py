"""Exponential families as torch distributions: mode, variance, support, divergences; the same of the tricks."""

from __future__ import annotations

import cvxpy as cp
import pytest
import torch
from torch.distributions import Categorical, Distribution, Gumbel, Independent, MixtureSameFamily, Normal, kl_divergence

import polytopes
import sst_cvx as sst

STRUCTURES = [
    polytopes.OneHot(4),
    polytopes.KSubset(5, 2),
    polytopes.Segment(5, 1, 3),
    polytopes.Matching(3),
    polytopes.SpanningTree(4),
    polytopes.Permutahedron(torch.tensor([0.5, -1.0, 2.0, 2.0])),
]


class Levels(sst.Structure):
    """{ -1, 0, 3 }^2 by a log-partition of its own, and equal to every other one."""

    def __init__(self) -> None:
        x = cp.Variable(2)
        super().__init__(x, [x >= -1, x <= 3])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Levels)

    def __hash__(self) -> int:
        return 7

    def argmax(self, u, **parameters):
        return torch.where(u > 0, 3.0, -1.0).to(u)

    def log_partition(self, u):
        return (u[..., None] * torch.tensor([-1.0, 0.0, 3.0]).to(u)).logsumexp(-1).sum(-1)


def probabilities(structure: sst.Structure, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Vertices ``(count, *event)``, and their probabilities ``(*batch, count)``."""
    vertices = structure.vertices()
    return vertices, (u.flatten(-len(structure.event_shape)) @ vertices.flatten(1).T).softmax(-1)


@pytest.mark.parametrize("structure", STRUCTURES, ids=str)
def test_mode_and_variance_are_those_of_the_list_of_elements(structure):
    u = torch.randn(3, *structure.event_shape, dtype=torch.float64)
    family = sst.ExponentialFamily(structure, u)
    vertices, p = probabilities(structure, u)
    mean = torch.tensordot(p, vertices, 1)
    spread = torch.tensordot(p, vertices**2, 1) - mean**2
    torch.testing.assert_close(family.mode, vertices[p.argmax(-1)])
    torch.testing.assert_close(family.variance, spread)
    torch.testing.assert_close(family.stddev, spread.clamp(min=0).sqrt())
    assert torch.equal(family.log_prob(family.mode), family.log_prob(vertices[:, None]).amax(0))


@pytest.mark.parametrize("structure", [polytopes.KSubset(5, 2), STRUCTURES[-1]], ids=str)
def test_variance_is_differentiable_and_keeps_dtypes(structure):
    u = torch.randn(structure.event_shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: sst.ExponentialFamily(structure, v).variance, u)
    for dtype in (torch.float32, torch.float16):
        family = sst.ExponentialFamily(structure, u.detach().to(dtype))
        assert family.variance.dtype == family.mode.dtype == dtype
        exact = sst.ExponentialFamily(structure, u.detach().to(dtype).double()).variance
        torch.testing.assert_close(family.variance, exact.to(dtype))
    with torch.inference_mode():
        assert sst.ExponentialFamily(structure, u * 1).variance.shape == structure.event_shape


def test_mode_and_variance_under_masks():
    structure, u = polytopes.KSubset(5, 2), torch.tensor([9.0, 1.0, 2.0, 3.0, 0.0])
    u[0] = torch.nan  # hidden
    mask = torch.tensor([False, True, True, True, True])
    family = sst.ExponentialFamily(structure, u, mask=mask)
    assert family.mode.tolist() == [0, 0, 1, 1, 0]
    small = sst.ExponentialFamily(polytopes.KSubset(4, 2), u[1:])
    torch.testing.assert_close(family.variance, torch.cat([torch.zeros(1), small.variance]))


def test_variance_of_other_entries_without_a_list():
    u = torch.randn(4, 2, dtype=torch.float64)
    family = sst.ExponentialFamily(Levels(), u)
    levels = torch.tensor([-1.0, 0.0, 3.0], dtype=torch.float64)
    p = (u[..., None] * levels).softmax(-1)
    mean = (p * levels).sum(-1)
    torch.testing.assert_close(family.mean, mean)
    torch.testing.assert_close(family.variance, (p * levels**2).sum(-1) - mean**2)


def test_families_are_distributions():
    structure = polytopes.KSubset(4, 2)
    u, v = torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    p, q = sst.ExponentialFamily(structure, u), sst.ExponentialFamily(structure, v)
    assert isinstance(p, Distribution)
    assert (p.batch_shape, p.event_shape, p.has_rsample) == ((2, 3), (4,), False)
    torch.testing.assert_close(kl_divergence(p, q), p.kl_divergence(q))
    x = structure.vertices()
    exact = (p.log_prob(x[:, None, None]).exp() * (p.log_prob(x[:, None, None]) - q.log_prob(x[:, None, None]))).sum(0)
    torch.testing.assert_close(kl_divergence(p, q), exact)
    rows = Independent(p, 1), Independent(q.expand((2, 3)), 1)
    torch.testing.assert_close(kl_divergence(*rows), exact.sum(1))
    sample = rows[0].sample((5,))
    torch.testing.assert_close(rows[0].log_prob(sample), p.log_prob(sample).sum(-1))
    torch.testing.assert_close(p.perplexity(), p.entropy().exp())
    mixture = MixtureSameFamily(Categorical(torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)), q)
    torch.testing.assert_close(mixture.log_prob(x).exp().sum(), torch.ones((), dtype=torch.float64))
    torch.testing.assert_close(mixture.variance.shape, torch.Size([4]))
    assert "KSubset(n=4, k=2)" in repr(p)


def test_support_tells_elements():
    structure = polytopes.SpanningTree(4)
    mask = structure.length_mask(torch.tensor([3, 4]))
    family = sst.ExponentialFamily(structure, torch.zeros(2, 6), mask=mask)
    trees = structure.masked_argmax(torch.randn(2, 6), mask)
    assert family.support.is_discrete
    assert family.support.event_dim == 1
    assert family.support.check(trees).tolist() == [True, True]
    assert family.support.check(trees[0]).tolist() == [True, False]
    assert family.support.check(torch.stack([trees, 0.5 * trees, mask.float()])).tolist() == [
        [True, True],
        [False, False],
        [False, False],
    ]
    assert bool(sst.ExponentialFamily(structure, torch.zeros(6)).support.check(trees[1]))
    assert not bool(sst.ExponentialFamily(structure, torch.zeros(6)).support.check(trees[1] * torch.nan))


def test_validate_args_leaves_out_the_check_of_elements_alone():
    structure = polytopes.KSubset(3, 1)
    u, wrong = torch.zeros(3), torch.ones(3)
    with pytest.raises(ValueError, match="conv"):
        sst.ExponentialFamily(structure, u).log_prob(wrong)
    fast = sst.ExponentialFamily(structure, u, validate_args=False)
    assert fast.log_prob(wrong).isfinite()
    assert fast.expand((2,)).log_prob(wrong).isfinite().all()
    with pytest.raises(ValueError, match="shape"):
        fast.log_prob(wrong[:2])
    with pytest.raises(ValueError, match="finite"):
        sst.ExponentialFamily(structure, u / 0, validate_args=False)


def test_divergences_of_equal_structures_and_not_of_others():
    u, v = torch.randn(2, dtype=torch.float64), torch.randn(2, dtype=torch.float64)
    p, q = sst.ExponentialFamily(Levels(), u), sst.ExponentialFamily(Levels(), v)
    assert p.structure is not q.structure
    levels = torch.tensor([-1.0, 0.0, 3.0], dtype=torch.float64)
    log_p, log_q = ((w[:, None] * levels).log_softmax(-1) for w in (u, v))
    torch.testing.assert_close(kl_divergence(p, q), (log_p.exp() * (log_p - log_q)).sum())
    with pytest.raises(ValueError, match="same structure"):
        kl_divergence(p, sst.ExponentialFamily(polytopes.KSubset(2, 1), v))
    with pytest.raises(NotImplementedError):
        kl_divergence(p, Normal(0.0, 1.0))


def test_an_argmax_in_closed_form_is_categorical():
    logits = torch.randn(3, 4, dtype=torch.float64)
    mask = torch.tensor([True, True, False, True])
    structure = polytopes.OneHot(4)
    for kept in (None, mask):
        trick = sst.StochasticArgmax(structure, Gumbel(2 * logits, 2.0), mask=kept)
        shown = logits if kept is None else logits.masked_fill(~mask, -1e9)
        categorical = torch.distributions.OneHotCategorical(logits=shown)
        torch.testing.assert_close(trick.mean, categorical.mean)
        torch.testing.assert_close(trick.mode, categorical.mode)
        torch.testing.assert_close(trick.variance, categorical.variance)
    p = sst.StochasticArgmax(structure, Gumbel(logits, 1.0))
    q = sst.StochasticArgmax(structure, Gumbel(logits.flip(0)[:1], 1.0))
    of = [torch.distributions.OneHotCategorical(logits=shown) for shown in (logits, logits.flip(0)[:1])]
    torch.testing.assert_close(kl_divergence(p, q), kl_divergence(*of))
    masked = sst.StochasticArgmax(structure, Gumbel(logits, 1.0), mask=mask)
    assert kl_divergence(p, masked).isinf().all()
    assert kl_divergence(masked, p).isfinite().all()
    torch.testing.assert_close(kl_divergence(masked, masked), torch.zeros(3).double())
    with pytest.raises(ValueError, match="structures must be equal"):
        kl_divergence(p, sst.StochasticArgmax(polytopes.KSubset(4, 1), Gumbel(logits, 1.0)))


def test_what_has_no_closed_form_says_where_to_look():
    logits = torch.zeros(2, 5)
    soft = sst.SoftArgmax(polytopes.KSubset(5, 2), sst.Euclidean())
    relaxed = sst.StochasticSoftmax(soft, Gumbel(logits, 1.0), 1.0)
    hard = relaxed.hard()
    for call in (
        lambda: relaxed.log_prob(relaxed.sample()),
        lambda: relaxed.entropy(),
        lambda: relaxed.mean,
        lambda: relaxed.mode,
        lambda: relaxed.variance,
        lambda: kl_divergence(relaxed, relaxed),
        lambda: kl_divergence(hard, relaxed),
    ):
        with pytest.raises(NotImplementedError, match=r"(?s)hard\(\).*kl_divergence\(p\.utilities, q\.utilities\)"):
            call()
    with pytest.raises(NotImplementedError, match=r"one-hot.*p\.utilities"):
        kl_divergence(hard, hard)
    for call in (lambda: hard.mean, lambda: hard.mode, lambda: hard.variance, lambda: hard.entropy()):
        with pytest.raises(NotImplementedError, match=r"ExponentialFamily .* samples"):
            call()
    assert kl_divergence(relaxed.utilities, relaxed.utilities).shape == (2, 5)
