"""Score functions are biased where the support of the utilities moves: refused in every disguise, allowed elsewhere."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import (
    AffineTransform,
    Categorical,
    ComposeTransform,
    CumulativeDistributionTransform,
    Distribution,
    Exponential,
    ExpTransform,
    Gamma,
    GeneralizedPareto,
    Gumbel,
    HalfNormal,
    Independent,
    IndependentTransform,
    Kumaraswamy,
    LogNormal,
    LowerCholeskyTransform,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    Pareto,
    PowerTransform,
    ReshapeTransform,
    SigmoidTransform,
    SoftplusTransform,
    StudentT,
    TanhTransform,
    Transform,
    TransformedDistribution,
    Uniform,
    Weibull,
    constraints,
)

import polytopes
import sst_cvx as sst

ONE = torch.ones(3, dtype=torch.float64)
FIXED = Exponential(ONE)


def learned(value: float = 0.5) -> torch.Tensor:
    return torch.full((3,), value, dtype=torch.float64, requires_grad=True)


class Mixture(MixtureSameFamily):
    """With a reparameterised draw (of its first component: enough to pass for one)."""

    has_rsample = True

    def rsample(self, sample_shape=()):
        return self.component_distribution.rsample(sample_shape)[..., 0]


class Wrapped(Distribution):
    """A user's distribution that repeats what another one does."""

    arg_constraints = {}  # noqa: RUF012
    has_rsample = True

    def __init__(self, inner: Distribution):
        self.inner = inner
        super().__init__(inner.batch_shape)

    def rsample(self, sample_shape=()):
        return self.inner.rsample(sample_shape)

    def log_prob(self, value):
        return self.inner.log_prob(value)


class Declared(Wrapped):
    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self):
        return self.inner.support


class Bounded(Wrapped):
    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self):
        return constraints.less_than(self.inner.base_dist.rate.sum())


class Flow(Transform):
    """A user's bijection of vectors."""

    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, shift: torch.Tensor):
        super().__init__()
        self.shift = shift

    def _call(self, x):
        return x.flip(-1) + self.shift

    def _inverse(self, y):
        return (y - self.shift).flip(-1)

    def log_abs_det_jacobian(self, x, y):
        return x.sum(-1) * 0


def through(base: Distribution, *transforms: Transform) -> TransformedDistribution:
    return TransformedDistribution(base, list(transforms))


def mixture(component: Distribution) -> Mixture:
    return Mixture(Categorical(torch.ones(3, 2, dtype=torch.float64)), component)


MOVING = {
    "uniform": lambda: Uniform(learned(), 2 * ONE),
    "upper end": lambda: Uniform(0 * ONE, learned()),
    "expanded": lambda: Independent(Uniform(learned(), 2 * ONE).expand((2, 3)), 1),
    "shifted exponential": lambda: through(FIXED, AffineTransform(learned(), 1.0)),
    "independent": lambda: Independent(through(FIXED, AffineTransform(learned(), 1.0)), 1),
    "expanded, shifted": lambda: through(FIXED, AffineTransform(learned(), 1.0)).expand((2, 3)),
    "nested": lambda: through(through(FIXED, AffineTransform(learned(), 1.0)), AffineTransform(0.0, 2 * ONE)),
    "composed": lambda: through(FIXED, ComposeTransform([AffineTransform(learned(), 1.0), ExpTransform()])),
    "of an event": lambda: through(FIXED, IndependentTransform(AffineTransform(learned(), 1.0), 1)),
    "affine of an event": lambda: through(FIXED, AffineTransform(learned(), 1.0, event_dim=1)),
    "inverse": lambda: through(FIXED, AffineTransform(learned(), 1.0).inv),
    "negative": lambda: through(FIXED, AffineTransform(learned(), -ONE)),
    "scaled end": lambda: through(FIXED, ExpTransform(), AffineTransform(0.0, learned())),
    "shifted, then exp": lambda: through(FIXED, AffineTransform(learned(), 1.0), ExpTransform()),
    "scaled uniform": lambda: through(Uniform(0 * ONE, ONE), AffineTransform(0.0, learned())),
    "pareto": lambda: Pareto(learned(), ONE),
    "log of pareto": lambda: through(Pareto(learned(), ONE), ExpTransform().inv),
    "generalized pareto": lambda: GeneralizedPareto(torch.zeros(3), learned().float(), torch.full((3,), -0.5)),
    "half normal": lambda: through(HalfNormal(ONE), AffineTransform(learned(), 1.0)),
    "squashed, then scaled": lambda: through(Normal(0 * ONE, ONE), TanhTransform(), AffineTransform(0.0, learned())),
    "scaled about another point": lambda: through(FIXED, AffineTransform(1.0, ONE), AffineTransform(0.0, learned())),
    "vectors": lambda: through(Independent(FIXED, 1), Flow(learned())),
    "mixture": lambda: mixture(
        through(Exponential(torch.ones(3, 2).double()), AffineTransform(learned()[:, None], 1.0))
    ),
    "uniform mixture": lambda: mixture(Uniform(learned()[:, None].expand(3, 2), 2.0)),
    "wrapped": lambda: Declared(through(FIXED, AffineTransform(learned(), 1.0))),
    "wrapped uniform": lambda: Declared(Uniform(learned(), 2 * ONE)),
    "declared bound": lambda: Bounded(through(Exponential(learned()), AffineTransform(0.0, 1.0))),
    "undeclared": lambda: Wrapped(Normal(learned(), ONE)),
}

STAYING = {
    "gumbel": lambda: Gumbel(learned(), 1.0),
    "normal": lambda: Normal(learned(), learned()),
    "student": lambda: StudentT(ONE, learned(), ONE),
    "logistic": lambda: sst.Logistic(learned(), learned()),
    "negative exponential": lambda: sst.NegativeExponential(learned()),
    "exponential": lambda: Exponential(learned()),
    "gamma": lambda: Gamma(learned(2.0), learned()),
    "log-normal": lambda: LogNormal(learned(), ONE),
    "weibull": lambda: Weibull(learned(), learned()),
    "kumaraswamy": lambda: Kumaraswamy(learned(), learned()),
    "multivariate normal": lambda: MultivariateNormal(learned(), torch.eye(3, dtype=torch.float64)),
    "uniform, constant": lambda: Uniform(0 * ONE, 2 * ONE),
    "exponential, constant shift": lambda: through(Exponential(learned()), AffineTransform(ONE, 2 * ONE)),
    "shifted normal": lambda: through(Normal(0 * ONE, ONE), AffineTransform(learned(), learned())),
    "scaled exponential": lambda: through(FIXED, AffineTransform(0.0, learned())),
    "negative scaled exponential": lambda: through(FIXED, AffineTransform(0.0, -1.0), AffineTransform(0.0, learned())),
    "scaled about its end": lambda: through(FIXED, AffineTransform(1.0, learned())),
    "scaled event": lambda: through(FIXED, AffineTransform(0.0, learned(), event_dim=1)),
    "log of exponential": lambda: through(FIXED, ExpTransform().inv, AffineTransform(learned(), learned())),
    "logistic by torch's recipe": lambda: through(
        Uniform(0 * ONE, ONE), SigmoidTransform().inv, AffineTransform(learned(), learned())
    ),
    "gumbel by hand": lambda: through(
        Uniform(0 * ONE, ONE),
        ExpTransform().inv,
        AffineTransform(0.0, -1.0),
        ExpTransform().inv,
        AffineTransform(learned(), -ONE),
    ),
    "power": lambda: through(FIXED, PowerTransform(learned())),
    "softplus of normal": lambda: through(Normal(learned(), ONE), SoftplusTransform(), AffineTransform(0.0, learned())),
    "constant maps": lambda: through(
        Exponential(learned()), AffineTransform(1.0, ONE), ReshapeTransform((3,), (3,)), ExpTransform()
    ),
    "flow": lambda: through(Normal(learned(), ONE), Flow(learned()), Flow(learned())),
    "its own distribution function": lambda: through(
        Normal(learned(), ONE), CumulativeDistributionTransform(Normal(learned(), ONE)), SigmoidTransform().inv
    ),
    "normal mixture": lambda: mixture(Normal(learned()[:, None].expand(3, 2), 1.0)),
    "generalized pareto without an end": lambda: GeneralizedPareto(
        torch.zeros(3), learned().float(), torch.full((3,), 0.5)
    ),
    "wrapped": lambda: Declared(Normal(learned(), ONE)),
    "undeclared, constant": lambda: Wrapped(Uniform(0 * ONE, ONE)),
}


def first(x: torch.Tensor) -> torch.Tensor:
    return x[..., 0]


@pytest.mark.parametrize("name", MOVING)
def test_utilities_whose_support_moves_are_refused(name):
    trick = sst.StochasticArgmax(polytopes.OneHot(3), MOVING[name]())
    for estimator in (sst.ScoreFunction("leave_one_out"), sst.PerturbedOptimizer()):
        with pytest.raises(ValueError, match=r"support of .* score function is biased"):
            estimator(first, trick, samples=2)
    assert sst.ImplicitMLE()(first, trick, samples=2).isfinite().all()
    with torch.no_grad():  # nothing to be biased
        assert sst.ScoreFunction()(first, trick).isfinite().all()


@pytest.mark.parametrize("name", STAYING)
def test_utilities_whose_support_stays_are_taken(name):
    trick = sst.StochasticArgmax(polytopes.OneHot(3), STAYING[name]())
    for estimator in (sst.ScoreFunction("leave_one_out"), sst.PerturbedOptimizer()):
        assert estimator(first, trick, samples=2).isfinite().all()


def test_what_a_transform_of_matrices_makes_of_all_numbers_may_not_be_shifted():
    one_entry = sst.Structure.from_argmax((2, 2), lambda u: (u == u.amax((-1, -2), keepdim=True)).to(u))
    shift = torch.zeros((2, 2), dtype=torch.float64, requires_grad=True)
    triangles = through(Normal(shift.detach(), 1.0), LowerCholeskyTransform(), AffineTransform(shift, 1.0, event_dim=2))
    with pytest.raises(ValueError, match="biased"):
        sst.ScoreFunction()(lambda x: x.sum((-1, -2)), sst.StochasticArgmax(one_entry, triangles))


def test_the_check_draws_no_numbers_and_leaves_samples_as_they_were():
    trick = sst.StochasticArgmax(polytopes.OneHot(3), STAYING["gumbel by hand"]())
    torch.manual_seed(0)
    sst.ScoreFunction()(first, trick)
    after = torch.rand(())
    torch.manual_seed(0)
    trick.sample((1,))
    assert torch.equal(after, torch.rand(()))


def test_what_is_taken_is_unbiased_and_what_is_refused_was_not():
    """Against enumeration, by a scaled exponential: E_i / r_i is least with probability r_i / sum r."""
    torch.manual_seed(0)
    cost = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    scale = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    negative = through(FIXED, AffineTransform(0.0, -1.0), AffineTransform(0.0, scale))  # argmax: the least cost
    loss = sst.ScoreFunction("leave_one_out")(
        lambda x: (x * cost).sum(-1), sst.StochasticArgmax(polytopes.OneHot(3), negative), samples=200_000
    )
    (ours,) = torch.autograd.grad(loss, scale)
    (exact,) = torch.autograd.grad(((1 / scale) / (1 / scale).sum() * cost).sum(), scale)
    torch.testing.assert_close(ours, exact, rtol=0.05, atol=0.02)
