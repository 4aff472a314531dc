"""Random utilities and the tricks: distributions against Monte Carlo and closed forms, shapes, seeds, masks, errors."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Gumbel, Independent, Normal, kl_divergence

import polytopes
import sst_cvx as sst
from examples.estimator_bias_variance import basis_probabilities

_DISTRIBUTIONS = {
    "Logistic": lambda: sst.Logistic(torch.tensor([0.5, -1.0]).double(), torch.tensor([1.0, 2.0]).double()),
    "NegativeExponential": lambda: sst.NegativeExponential(torch.tensor([0.5, 2.0]).double()),
}


def near(samples, expected, dim=0):
    """Means within five standard errors."""
    error = (samples.mean(dim) - expected).abs() / (samples.std(dim) / samples.shape[dim] ** 0.5).clamp(min=1e-12)
    return float(error.max()) < 5


@pytest.mark.parametrize("name", _DISTRIBUTIONS)
def test_distributions_are_consistent(name):
    torch.manual_seed(0)
    d = _DISTRIBUTIONS[name]()
    x = d.rsample((100_000,))
    assert near(x, d.mean)
    assert near((x - d.mean) ** 2, d.variance)
    assert near(-d.log_prob(x), d.entropy())
    assert near((x <= d.mean).double(), d.cdf(d.mean))
    torch.testing.assert_close(d.cdf(d.icdf(torch.tensor([0.1, 0.9]).double())), torch.tensor([0.1, 0.9]).double())
    wide = d.expand((3, 2))
    assert wide.rsample((4,)).shape == (4, 3, 2)
    at = d.mean.clone().requires_grad_()
    (density,) = torch.autograd.grad(d.cdf(at).sum(), at)
    torch.testing.assert_close(density, d.log_prob(d.mean).exp())
    with pytest.raises(ValueError, match="constraint"):
        type(d)(*[torch.tensor([-1.0])] * (2 if name == "Logistic" else 1))


@pytest.mark.parametrize(
    ("p", "q"),
    [
        (sst.NegativeExponential(0.7), sst.NegativeExponential(2.0)),
        (Gumbel(0.3, 1.0), Gumbel(0.0, 1.0)),
        (Gumbel(-1.0, 0.8), Gumbel(0.5, 1.5)),
        (Normal(1.0, 2.0), Normal(0.0, 1.0)),
        (sst.Logistic(1.5, 0.8), sst.Logistic(0.0, 0.8)),
        (sst.Logistic(0.05, 1.0), sst.Logistic(0.0, 1.0)),
        (sst.Logistic(0.4, 0.5), sst.Logistic(0.0, 1.5)),
        (sst.Logistic(-1.0, 3.0), sst.Logistic(0.0, 1.0)),
    ],
    ids=str,
)
def test_divergences_against_monte_carlo(p, q):
    torch.manual_seed(1)
    x = p.sample((400_000,))
    assert near((p.log_prob(x) - q.log_prob(x)).double(), kl_divergence(p, q).double())


def test_divergence_of_logistics_is_smooth():
    d = torch.tensor([0.0, 1e-3, 0.0999999, 0.1000001, 3.0], dtype=torch.float64)
    value = kl_divergence(sst.Logistic(d, 1.0), sst.Logistic(torch.zeros_like(d), 1.0))
    assert value[0] == 0
    torch.testing.assert_close(value[1], torch.tensor(1e-6 / 6, dtype=torch.float64), rtol=1e-6, atol=0)
    torch.testing.assert_close(value[2], value[3], rtol=1e-5, atol=0)


def test_densities_outside_their_support_and_of_integers_are_refused():
    with pytest.raises(ValueError, match="support"):
        sst.NegativeExponential(1.0).log_prob(torch.tensor(1.0))
    assert sst.NegativeExponential(1.0, validate_args=False).log_prob(torch.tensor(1.0)) == -torch.inf
    with pytest.raises(TypeError, match="floating"):
        sst.NegativeExponential(torch.tensor([1, 2]))


def test_gumbel_to_standard_gumbel_is_the_papers_formula():
    mu = torch.randn(5, dtype=torch.float64)
    divergence = kl_divergence(Gumbel(mu, torch.ones_like(mu)), Gumbel(torch.zeros_like(mu), torch.ones_like(mu)))
    torch.testing.assert_close(divergence, mu + (-mu).exp() - 1)


@pytest.mark.parametrize(
    "structure", [polytopes.OneHot(4), polytopes.KSubset(4, 2), polytopes.SpanningTree(4)], ids=str
)
def test_gumbel_argmax_has_the_probabilities_of_plackett_and_luce(structure):
    torch.manual_seed(2)
    theta, vertices = torch.randn(structure.event_shape, dtype=torch.float64), structure.vertices()
    x = sst.StochasticArgmax(structure, Gumbel(theta, torch.ones_like(theta))).sample((40_000,))
    seen = (x[:, None] == vertices).all(-1).double()
    exact = basis_probabilities(vertices, theta)
    torch.testing.assert_close(exact.sum(), torch.ones_like(exact[0]))
    assert near(seen, exact)


def test_one_hot_gumbel_is_categorical():
    logits = torch.randn(3, 4, dtype=torch.float64)
    trick = sst.StochasticArgmax(polytopes.OneHot(4), Independent(Gumbel(logits * 2, torch.full_like(logits, 2.0)), 1))
    categorical = torch.distributions.OneHotCategorical(logits=logits)
    x = trick.sample()
    torch.testing.assert_close(trick.log_prob(x), categorical.log_prob(x))
    torch.testing.assert_close(trick.entropy(), categorical.entropy())
    same = sst.StochasticArgmax(polytopes.KSubset(4, 1), Gumbel(logits, 1.0))
    torch.testing.assert_close(same.log_prob(x), categorical.log_prob(x))
    for other in (polytopes.KSubset(4, 2), polytopes.AtMostKSubset(4, 1), polytopes.Permutahedron(torch.arange(4))):
        with pytest.raises(NotImplementedError, match="one-hot"):
            sst.StochasticArgmax(other, Gumbel(logits, 1.0)).log_prob(x)
    with pytest.raises(NotImplementedError, match="one common scale"):
        sst.StochasticArgmax(polytopes.OneHot(4), Gumbel(logits, logits.exp())).entropy()


def test_masked_one_hot_is_categorical_over_the_rest():
    logits, mask = torch.randn(2, 4, dtype=torch.float64), sst.length_mask(torch.tensor([3, 2]), 4)
    trick = sst.StochasticArgmax(polytopes.OneHot(4), Gumbel(logits, 1.0), mask=mask)
    categorical = torch.distributions.OneHotCategorical(logits=logits.masked_fill(~mask, -1e9))
    x = trick.sample((5,))
    torch.testing.assert_close(trick.log_prob(x), categorical.log_prob(x))
    torch.testing.assert_close(trick.entropy(), categorical.entropy())
    one = torch.eye(4, dtype=torch.float64)[0]
    torch.testing.assert_close(trick.log_prob(one), categorical.log_prob(one.expand(2, 4)))
    empty = torch.tensor([[True], [False]]).expand(2, 4)
    for what in ("entropy", "sample"):
        with pytest.raises(sst.SolveError, match="element 1"):
            getattr(sst.StochasticArgmax(polytopes.OneHot(4), Gumbel(logits, 1.0), mask=empty), what)()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_seeds_and_straight_through(dtype):
    structure = polytopes.KSubset(5, 2)
    logits = torch.randn(2, 3, 5, dtype=dtype, requires_grad=True)
    soft = sst.SoftArgmax(structure, sst.BinaryEntropy())
    trick = sst.StochasticSoftmax(soft, Gumbel(logits, torch.ones_like(logits)), 0.5)
    assert (trick.batch_shape, trick.event_shape) == ((2, 3), (5,))

    def generator():
        return torch.Generator().manual_seed(3)

    relaxed = trick.rsample((4,), generator=generator())
    hard = trick.sample((4,), generator=generator())
    through = trick.rsample((4,), straight_through=True, generator=generator())
    pair = trick.sample_pair((4,), generator=generator())
    assert relaxed.shape == hard.shape == (4, 2, 3, 5)
    assert relaxed.dtype == hard.dtype == dtype
    assert not hard.requires_grad
    assert torch.equal(through, hard)
    assert torch.equal(pair[0], relaxed)
    assert torch.equal(pair[1], hard)
    assert torch.equal(trick.hard().sample((4,), generator=generator()), hard)
    weights = torch.randn_like(relaxed)
    (a,) = torch.autograd.grad((relaxed * weights).sum(), logits)
    (b,) = torch.autograd.grad((through * weights).sum(), logits)
    torch.testing.assert_close(a, b)
    assert trick.expand((7, 2, 3)).rsample().shape == (7, 2, 3, 5)
    gamma = sst.StochasticArgmax(structure, torch.distributions.Gamma(torch.ones(5), torch.ones(5)))
    with pytest.raises(NotImplementedError, match="icdf"):
        gamma.sample(generator=generator())


def test_masks_reach_both_samples():
    structure = polytopes.KSubset(5, 2)
    mask = sst.length_mask(torch.tensor([5, 3]), 5)
    logits = torch.zeros(2, 5, requires_grad=True)
    soft = sst.SoftArgmax(structure, sst.ExponentialFamilyEntropy())
    trick = sst.StochasticSoftmax(soft, Gumbel(logits, 1.0), 1.0, mask=mask)
    for x in (*trick.sample_pair((50,)), trick.hard().sample((50,)), trick.expand((4, 2)).sample()):
        assert bool((x[..., 1, 3:] == 0).all())
        torch.testing.assert_close(x.sum(-1), torch.full(x.shape[:-1], 2.0))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "structure",
    [polytopes.KSubset(5, 2), polytopes.Segment(5, 1, 3), polytopes.Matching(3), polytopes.SpanningTree(4)],
    ids=str,
)
def test_exponential_family(structure, masked):
    torch.manual_seed(4)
    u, vertices = torch.randn(structure.event_shape, dtype=torch.float64), structure.vertices()
    mask = None
    if masked:
        mask = vertices[:2].amax(0) > 0
        vertices = vertices[~((vertices > 0) & ~mask).flatten(1).any(1)]
    family = sst.ExponentialFamily(structure, u, mask=mask)
    exact = (vertices * u).flatten(1).sum(1).softmax(0)
    batch = sst.ExponentialFamily(structure, u.expand(len(vertices), *u.shape), mask=mask)
    torch.testing.assert_close(batch.log_prob(vertices).exp(), exact)
    torch.testing.assert_close(family.entropy(), -(exact * exact.log()).sum())
    torch.testing.assert_close(family.mean.flatten(), exact @ vertices.flatten(1))
    x = family.sample((20_000,), generator=torch.Generator().manual_seed(0))
    assert near((x[:, None] == vertices).flatten(2).all(-1).double(), exact)
    with pytest.raises(ValueError, match="permanent"):
        sst.ExponentialFamily(polytopes.Matching(20), torch.zeros(20, 20))


@pytest.mark.parametrize("structure", [polytopes.KSubset(5, 2), polytopes.Matching(3)], ids=str)
def test_log_prob_broadcasts_as_distributions_do(structure):
    u, x = torch.randn(2, 3, *structure.event_shape), structure.vertices()[:4].float()
    family = sst.ExponentialFamily(structure, u)
    expected = torch.stack([family.log_prob(v.expand(u.shape)) for v in x])
    torch.testing.assert_close(family.log_prob(x[0]), expected[0])
    torch.testing.assert_close(family.log_prob(x[:, None, None]), expected)
    masked = sst.ExponentialFamily(structure, u, mask=torch.ones(u.shape, dtype=torch.bool))
    torch.testing.assert_close(masked.log_prob(x[0]), expected[0])
    torch.testing.assert_close(family.expand((7, 2, 3)).log_prob(x[0])[4], expected[0])


def test_divergence_of_exponential_families():
    structure = polytopes.SpanningTree(4)
    u, v, mask = torch.randn(6).double(), torch.randn(6).double(), torch.ones(6, dtype=torch.bool)
    mask[0] = False
    p, q, masked = (sst.ExponentialFamily(structure, w, mask=m) for w, m in ((u, None), (v, None), (v, mask)))
    x = structure.vertices()
    exact = (p.log_prob(x).exp() * (p.log_prob(x) - q.log_prob(x))).sum()
    torch.testing.assert_close(p.kl_divergence(q), exact)
    assert p.kl_divergence(masked) == torch.inf
    x = x[x[:, 0] == 0]
    exact = (masked.log_prob(x).exp() * (masked.log_prob(x) - q.log_prob(x))).sum()
    torch.testing.assert_close(masked.kl_divergence(q), exact)
    padded = structure.length_mask(torch.tensor(3))
    small = sst.ExponentialFamily(structure, u, mask=padded)
    assert small.kl_divergence(q) == torch.inf  # no spanning tree of four vertices
    assert small.kl_divergence(sst.ExponentialFamily(structure, v, mask=padded)).isfinite()
    with pytest.raises(ValueError, match="same structure"):
        p.kl_divergence(sst.ExponentialFamily(polytopes.KSubset(6, 3), u))


def test_exponential_families_keep_their_digits_in_float32():
    u = 1000 * torch.randn(8, 190)
    family = sst.ExponentialFamily(polytopes.SpanningTree(20), u)
    assert bool((family.entropy() >= 0).all())
    assert bool((family.log_prob(family.sample()) <= 1e-9).all())
    exact = sst.ExponentialFamily(family.structure, u.double())
    torch.testing.assert_close(family.entropy(), exact.entropy().float())


def test_lists_of_elements_are_sampled_past_hidden_utilities():
    structure, mask = polytopes.Matching(3), torch.ones(2, 3, 3, dtype=torch.bool)
    u = torch.zeros(2, 3, 3)
    mask[1, 0, 0], u[1, 0, 0] = False, torch.nan
    x = sst.ExponentialFamily(structure, u, mask=mask).sample((50,))
    assert x.shape == (50, 2, 3, 3)
    assert bool((x[:, 1, 0, 0] == 0).all())
    assert bool((x.sum(-1) == 1).all())
    mask[1, 0] = False
    with pytest.raises(sst.SolveError, match="element 1"):
        sst.ExponentialFamily(structure, u, mask=mask).sample()


@pytest.mark.parametrize("structure", [polytopes.KSubset(5, 2), polytopes.Segment(5), polytopes.Matching(3)], ids=str)
def test_inference_mode(structure):
    u = torch.randn(structure.event_shape)
    with torch.inference_mode():
        family = sst.ExponentialFamily(structure, u * 1)
        mean, soft = family.mean, sst.SoftArgmax(structure, sst.ExponentialFamilyEntropy())(u * 1)
    torch.testing.assert_close(mean, soft)
    torch.testing.assert_close(mean, sst.ExponentialFamily(structure, u).mean)


def test_half_precision_masks():
    u = (torch.randn(3000) * 40).half()
    x = polytopes.KSubset(3000, 5).masked_argmax(u, torch.arange(3000) < 2000)
    assert x.dtype == torch.float16
    assert (x.sum(), (x * u)[:2000].sum()) == (5, u[:2000].topk(5).values.sum())


def test_schedules():
    for schedule, middle in (
        (sst.LinearSchedule(1.0, 0.1, 10), 0.55),
        (sst.ExponentialSchedule(1.0, 0.01, 10), 0.1),
        (sst.CosineSchedule(1.0, 0.2, 10), 0.6),
    ):
        assert schedule(0) == schedule.start
        assert schedule(5) == pytest.approx(middle)
        assert schedule(10) == schedule(1000) == schedule.end
        with pytest.raises(ValueError, match="step"):
            schedule(-1)
        with pytest.raises(ValueError, match="step"):
            schedule(float("nan"))
    with pytest.raises(ValueError, match="positive"):
        sst.LinearSchedule(1.0, 0.0, 10)
    with pytest.raises(TypeError, match="steps"):
        sst.LinearSchedule(1.0, 0.1, float("nan"))  # type: ignore[arg-type]
    assert sst.ExponentialSchedule(1e-300, 1e300, 2)(1) == pytest.approx(1.0)


@pytest.mark.parametrize("kind", [sst.LinearSchedule, sst.ExponentialSchedule, sst.CosineSchedule])
def test_schedules_reach_their_ends_exactly_and_stay_between(kind):
    for start in torch.rand(300, dtype=torch.float64).tolist():
        for end in (0.1, 0.3, 0.7, 1e-3):
            schedule = kind(start, end, 7)
            values = [schedule(step) for step in range(10)]
            assert (values[0], *values[7:]) == (start, end, end, end)
            assert min(start, end) <= min(values)
            assert max(values) <= max(start, end)


def test_wrong_arguments_are_refused():
    soft = sst.SoftArgmax(polytopes.KSubset(5, 2), sst.Euclidean())
    with pytest.raises(TypeError, match="torch distribution"):
        sst.StochasticSoftmax(soft, torch.zeros(5), 1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="reparameterisable"):
        sst.StochasticSoftmax(soft, torch.distributions.Bernoulli(torch.full((5,), 0.5)), 1.0)
    with pytest.raises(ValueError, match="must end with the event shape"):
        sst.StochasticSoftmax(soft, Gumbel(torch.zeros(5, 4), 1.0), 1.0)
    with pytest.raises(ValueError, match="temperature"):
        sst.StochasticSoftmax(soft, Gumbel(torch.zeros(5), 1.0), 0.0)
    good = sst.StochasticSoftmax(soft, Gumbel(torch.zeros(2, 3, 5), 1.0), 1.0)
    with pytest.raises(ValueError, match="does not expand"):
        good.expand((5,))
    with pytest.raises(TypeError, match="sample_shape"):
        good.rsample(4)
    with pytest.raises(TypeError, match="SoftArgmax"):
        sst.StochasticSoftmax(polytopes.KSubset(5, 2), Gumbel(torch.zeros(5), 1.0), 1.0)  # type: ignore[arg-type]


PAIR = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0])
ALLOWED = torch.tensor([False, True, True, True, True])


@pytest.mark.parametrize(
    ("x", "mask", "match"),
    [
        (torch.full((5,), 0.4), None, "elements of"),
        (PAIR.flip(0) + PAIR, None, "conv"),
        (PAIR * torch.nan, None, "finite"),
        (PAIR, ALLOWED, "0 where mask is False"),
        (PAIR[:4], None, "shape"),
    ],
)
def test_log_prob_refuses_what_is_no_element(x, mask, match):
    family = sst.ExponentialFamily(polytopes.KSubset(5, 2), torch.randn(3, 5), mask=mask)
    with pytest.raises(ValueError, match=match):
        family.log_prob(x)
    assert torch.isfinite(family.log_prob(PAIR.roll(1))).all()


def test_log_prob_of_a_masked_tree_knows_its_vertices():
    structure = polytopes.SpanningTree(4)
    mask = structure.length_mask(torch.tensor([3, 4]))
    family = sst.ExponentialFamily(structure, torch.randn(2, 6), mask=mask)
    trees = structure.masked_argmax(torch.randn(2, 6), mask)
    assert trees.sum(-1).tolist() == [2, 3]
    assert (family.log_prob(trees) <= 0).all()
    with pytest.raises(ValueError, match="conv"):
        family.log_prob(mask.to(trees.dtype))  # too many edges
    cycle = torch.tensor([[1.0, 1, 0, 0, 0, 0], [1.0, 1, 0, 1, 0, 0]])
    with pytest.raises(ValueError, match="elements of"):
        family.log_prob(cycle)


def test_wrong_arguments_are_refused_at_construction():
    gumbel = Gumbel(torch.zeros(3, 5), 1.0)
    structure = polytopes.KSubset(5, 2)
    with pytest.raises(ValueError, match="does not broadcast"):
        sst.StochasticArgmax(structure, gumbel, mask=torch.ones(4, dtype=torch.bool))
    with pytest.raises(TypeError, match="bool tensor"):
        sst.StochasticArgmax(structure, gumbel, mask=torch.ones(5))
    with pytest.raises(ValueError, match="shape"):
        sst.ExponentialFamily(structure, torch.zeros(3, 4))
    with pytest.raises(ValueError, match="finite"):
        sst.ExponentialFamily(structure, torch.zeros(3, 5) / 0.0)
    hidden = torch.tensor([torch.nan, 0.0, 0.0, 0.0, 0.0])
    assert torch.isfinite(sst.ExponentialFamily(structure, hidden, mask=ALLOWED).mean).all()
