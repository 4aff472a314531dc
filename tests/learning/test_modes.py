"""Whatever mode torch is in, and whatever the dtype: inference mode, default devices, autocast, 16 bits, float32."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch.distributions import Gumbel, kl_divergence

import polytopes
import sst_cvx as sst

MASK = [True, True, False, True, True]


class TestInferenceTensors:
    """Made under ``torch.inference_mode``, and used in training."""

    @staticmethod
    def inference(*values: torch.Tensor) -> list[torch.Tensor]:
        with torch.inference_mode():
            return [v.clone() for v in values]

    def test_exponential_families(self):
        structure = polytopes.KSubset(5, 2)
        u = torch.randn(5, dtype=torch.float64, requires_grad=True)
        mask, x, fixed = self.inference(torch.tensor(MASK), torch.tensor([1.0, 1, 0, 0, 0]).double(), u.detach())
        for kept in (None, mask):
            p, q = sst.ExponentialFamily(structure, u, mask=kept), sst.ExponentialFamily(structure, fixed, mask=kept)
            for value in (p.mean, p.variance, p.entropy(), p.log_prob(x), p.log_partition(), p.kl_divergence(q)):
                assert torch.autograd.grad(value.sum(), u)[0].isfinite().all()
            assert torch.autograd.grad(q.kl_divergence(p), u)[0].isfinite().all()
        with torch.inference_mode():
            inside = sst.ExponentialFamily(structure, u * 1, mask=mask).expand((2,))
        assert inside.mean.shape == (2, 5)
        assert torch.autograd.grad(p.kl_divergence(inside).sum(), u)[0].isfinite().all()

    @pytest.mark.parametrize("regularizer", [sst.Euclidean(), sst.ExponentialFamilyEntropy()], ids=str)
    def test_losses(self, regularizer):
        u = torch.randn(5, requires_grad=True)
        mask, y, t = self.inference(torch.tensor(MASK), torch.tensor([1.0, 1, 0, 0, 0]), torch.tensor(0.5))
        loss = sst.FenchelYoungLoss(sst.SoftArgmax(polytopes.KSubset(5, 2), regularizer))
        for kept in (None, mask):
            (g,) = torch.autograd.grad(loss(u, y, t, mask=kept), u)
            assert g.isfinite().all()
        learned = torch.tensor(0.5, requires_grad=True)
        fixed = self.inference(u.detach())[0]
        assert torch.autograd.grad(loss(fixed, y, learned, mask=mask), learned)[0].isfinite()

    def test_tricks(self):
        logits = torch.randn(5, requires_grad=True)
        mask, t = self.inference(torch.tensor(MASK), torch.tensor(0.5))
        trick = sst.StochasticSoftmax(
            sst.SoftArgmax(polytopes.KSubset(5, 2), sst.BinaryEntropy()), Gumbel(logits, 1.0), t, mask=mask
        )
        for estimator in (sst.Relaxed(), sst.StraightThrough(), sst.ScoreFunction(), sst.ImplicitMLE()):
            assert torch.autograd.grad(estimator(lambda x: x[..., 0], trick), logits)[0].isfinite().all()
        one = sst.StochasticArgmax(polytopes.OneHot(5), Gumbel(logits, 1.0), mask=mask)
        (x,) = self.inference(one.sample())
        assert torch.autograd.grad(one.log_prob(x), logits)[0].isfinite().all()


@contextlib.contextmanager
def default_device():
    """As of a script that calls ``torch.set_default_device``, here of one that nothing can be computed on."""
    with torch.device("meta"):
        yield


@pytest.mark.parametrize("masked", [False, True])
def test_a_default_device_changes_nothing(masked):
    logits = torch.randn(2, 5, requires_grad=True)
    structure, soft = polytopes.KSubset(5, 2), sst.SoftArgmax(polytopes.KSubset(5, 2), sst.BinaryEntropy())
    one = polytopes.OneHot(5)
    mask = torch.tensor(MASK) if masked else None
    t = torch.tensor([0.5, 1.0])
    zero, many = torch.zeros(2, 5), torch.full((2, 5), 1.3)
    uniform = torch.distributions.Uniform(zero, many)
    shifted = torch.distributions.TransformedDistribution(
        torch.distributions.Exponential(many), [torch.distributions.AffineTransform(0.0, logits.detach().exp())]
    )
    generator = torch.Generator().manual_seed(0)

    def everything() -> list[torch.Tensor]:
        torch.manual_seed(0)
        trick = sst.StochasticSoftmax(soft, Gumbel(logits, torch.ones_like(logits)), t, mask=mask)
        hard = sst.StochasticArgmax(one, Gumbel(logits, torch.ones_like(logits)), mask=mask)
        logistic = sst.Logistic(logits, many)
        family = sst.ExponentialFamily(structure, logits, mask=mask)
        found = [trick.rsample(), trick.sample((3,)), *trick.sample_pair(), trick.expand((3, 2)).sample()]
        found += [trick.rsample(generator=generator.manual_seed(1)), trick.hard().sample()]
        found += [hard.log_prob(hard.sample()), hard.entropy(), hard.mode, hard.variance, kl_divergence(hard, hard)]
        found += [logistic.rsample(), kl_divergence(logistic, sst.Logistic(zero, zero + 1))]
        found += [family.mean, family.variance, family.mode, family.entropy(), family.sample((4,))]
        found += [family.log_prob(family.sample()), kl_divergence(family, family), family.expand((3, 2)).mean]
        for regularizer in (sst.Euclidean(), sst.ExponentialFamilyEntropy()):
            loss = sst.FenchelYoungLoss(sst.SoftArgmax(structure, regularizer))
            found.append(loss(logits, family.mode, t, mask=mask))
        for estimator in (
            sst.Relaxed(),
            sst.StraightThrough(),
            sst.ScoreFunction("leave_one_out"),
            sst.ScoreFunction("moving_average"),
            sst.ImplicitMLE(),
            sst.PerturbedOptimizer(),
        ):
            value = estimator(lambda x: (x**2 * logits).sum(-1), trick, samples=2)
            found += [value, *torch.autograd.grad(value.sum(), logits, retain_graph=True)]
        found += [sst.ScoreFunction()(lambda x: x.sum(-1), family)]
        for utilities in (uniform, shifted):
            found.append(sst.ScoreFunction()(lambda x: x.sum(-1), sst.StochasticArgmax(one, utilities)))
        return found

    expected = everything()
    with default_device():
        found = everything()
    for a, b in zip(found, expected, strict=True):
        assert a.device.type == "cpu"
        assert torch.equal(a, b)


class TestAutocast:
    """Checks of membership multiply in float32: in bfloat16 they refused right answers."""

    @pytest.mark.parametrize("structure", [polytopes.SpanningTree(12), polytopes.Matching(12)], ids=str)
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_right_targets_and_elements_pass(self, structure, dtype):
        u = torch.randn(64, *structure.event_shape)
        soft = sst.SoftArgmax(structure, sst.Euclidean(), path="active_set")
        elements = structure.argmax(u)
        mean = torch.rand(64, 64).softmax(-1) @ elements.flatten(1)
        loss = sst.FenchelYoungLoss(soft)
        targets = (elements, mean.reshape(u.shape))
        plain = [loss(u, y) for y in targets]
        with torch.autocast("cpu", dtype=dtype):
            for y, expected in zip(targets, plain, strict=True):
                torch.testing.assert_close(loss(u, y), expected)
            if structure.has_log_partition():
                family = sst.ExponentialFamily(structure, u)
                inside = family.log_prob(elements)
                assert family.support.check(elements).all()
        if structure.has_log_partition():
            torch.testing.assert_close(family.log_prob(elements), inside)

    def test_one_hot(self):
        trick = sst.StochasticArgmax(polytopes.OneHot(300), Gumbel(torch.randn(20, 300), 1.0))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert trick.log_prob(trick.sample()).isfinite().all()


EDGES = torch.tensor([[0, 0, 1, 2], [1, 2, 3, 3]])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "structure",
    [
        polytopes.Path(EDGES, 0, 3),
        polytopes.CorrelatedKSubset(4, 2),
        polytopes.SpanningTree(4),
        polytopes.Arborescence(4),
        polytopes.Segment(5, 1, 3),
        polytopes.KSubset(5, 2),
        polytopes.AtMostKSubset(5, 2),
        polytopes.Hypercube(3),
        polytopes.Matching(3),
        polytopes.OneHot(4),
    ],
    ids=str,
)
def test_sixteen_bits_are_sampled_and_scored_in_sixty_four(structure, dtype):
    u = (torch.randn(3, *structure.event_shape) * 30).to(dtype)
    mask = structure.vertices()[:2].amax(0) > 0
    for kept in (None, mask):
        family = sst.ExponentialFamily(structure, u, mask=kept)
        exact = sst.ExponentialFamily(structure, u.double(), mask=kept)
        x = family.sample((20,), generator=torch.Generator().manual_seed(0))
        assert x.dtype == dtype
        assert torch.equal(x.double(), exact.sample((20,), generator=torch.Generator().manual_seed(0)))
        pairs = [
            (family.log_prob(x), exact.log_prob(x.double())),
            (family.mean, exact.mean),
            (family.entropy(), exact.entropy()),
            (family.mode, exact.mode),
            (family.variance, exact.variance),
            (kl_divergence(family, family), kl_divergence(exact, exact)),
            (family.log_partition(), exact.log_partition()),
        ]
        for ours, expected in pairs:
            assert ours.dtype == dtype
            torch.testing.assert_close(ours, expected.to(dtype))


FAMILIES = [
    (polytopes.KSubset(50, 10), sst.ExponentialFamilyEntropy()),
    (polytopes.KSubset(50, 10), sst.CategoricalEntropy()),
    (polytopes.KSubset(50, 10), sst.Euclidean()),
    (polytopes.OneHot(50), sst.BinaryEntropy()),
    (polytopes.SpanningTree(8), sst.ExponentialFamilyEntropy()),
    (polytopes.Matching(5), sst.Euclidean()),
]


@pytest.mark.parametrize(("structure", "regularizer"), FAMILIES, ids=str)
def test_fenchel_young_losses_of_float32_have_all_their_digits(structure, regularizer):
    """Omega* and <u, y> nearly cancel: in float32 losses were negative, by 0.02 at utilities of size 1e4."""
    loss = sst.FenchelYoungLoss(sst.SoftArgmax(structure, regularizer), "none")
    for scale, offset in ((1, 0), (1, 1000), (30, 0), (1e3, 0), (1e4, 0)):
        u = torch.randn(100, *structure.event_shape) * scale + offset
        y = structure.argmax(u + 0.3 * torch.randn(u.shape))
        u.requires_grad_()
        ours, exact = loss(u, y), loss(u.detach().double(), y.double())
        assert ours.dtype == torch.float32
        assert torch.equal(ours, exact.float())
        assert float(ours.detach().min()) >= -1e-9 * scale
        (g,) = torch.autograd.grad(ours.sum(), u)
        wide = loss.soft_argmax(u.detach().double())
        torch.testing.assert_close(g, (wide - y.double()).float(), rtol=0, atol=1e-7)
        if isinstance(regularizer, sst.ExponentialFamilyEntropy):
            family = sst.ExponentialFamily(structure, u.detach())
            torch.testing.assert_close(ours, -family.log_prob(y), rtol=1e-6, atol=1e-9)


def test_targets_of_other_dtypes_keep_their_digits_and_their_rounding():
    structure = polytopes.OneHot(3)
    loss = sst.FenchelYoungLoss(sst.SoftArgmax(structure, sst.CategoricalEntropy()))
    u, y = torch.randn(20, 3), torch.randn(20, 3).double().softmax(-1)
    torch.testing.assert_close(loss(u, y), loss(u.double(), y).float(), rtol=0, atol=0)
    coarse = torch.randn(50, 3).half().softmax(-1)  # rows sum to 1 within 1e-3
    assert loss(torch.randn(50, 3), coarse).isfinite()
    assert loss(torch.randn(50, 3).half(), coarse.float()).isfinite()
    whole = torch.nn.functional.one_hot(torch.tensor([0, 2]), 3)  # integers
    assert loss(torch.zeros(2, 3), whole).isfinite()
