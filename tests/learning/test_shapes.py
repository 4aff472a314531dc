"""Shapes that do not fit are ValueErrors that name them, and what is no shape is a TypeError."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch.distributions import Gumbel, Independent, kl_divergence

import polytopes
import sst_cvx as sst

STRUCTURE = polytopes.OneHot(3)


def family(*batch: int) -> sst.ExponentialFamily:
    return sst.ExponentialFamily(STRUCTURE, torch.zeros(*batch, 3))


def argmax(*batch: int) -> sst.StochasticArgmax:
    return sst.StochasticArgmax(STRUCTURE, Gumbel(torch.zeros(*batch, 3), 1.0))


def softmax(*batch: int) -> sst.StochasticSoftmax:
    return sst.StochasticSoftmax(sst.SoftArgmax(STRUCTURE, sst.Euclidean()), Gumbel(torch.zeros(*batch, 3), 1.0), 1.0)


BROADCAST = {
    "log_prob": lambda: family(2).log_prob(torch.eye(3)),
    "log_prob of an argmax": lambda: argmax(2).log_prob(torch.eye(3)),
    "kl_divergence": lambda: family(2).kl_divergence(family(3)),
    "registered": lambda: kl_divergence(family(2), family(3)),
    "argmaxes": lambda: kl_divergence(argmax(2), argmax(3)),
    "logistics": lambda: kl_divergence(sst.Logistic(torch.zeros(2), 1.0), sst.Logistic(torch.zeros(3), 2.0)),
    "exponentials": lambda: kl_divergence(
        sst.NegativeExponential(torch.ones(2)), sst.NegativeExponential(torch.ones(3))
    ),
}


@pytest.mark.parametrize("name", BROADCAST)
def test_batches_that_do_not_broadcast_are_named(name):
    with pytest.raises(ValueError, match=r"must broadcast: .*\([23],\) and .*\([23],\) do not"):
        BROADCAST[name]()


def test_events_of_another_shape_are_named():
    for each in (family(2), argmax(2)):
        with pytest.raises(ValueError, match=re.escape("x must have shape (*batch, 3), got (4, 4)")):
            each.log_prob(torch.eye(4))
        with pytest.raises(TypeError, match=r"x must be a torch\.Tensor"):
            each.log_prob([0, 0, 1])
        with pytest.raises(TypeError, match="floating-point"):
            each.log_prob(torch.eye(3, dtype=torch.long)[:2])
    loss = sst.FenchelYoungLoss(sst.SoftArgmax(STRUCTURE, sst.Euclidean()))
    with pytest.raises(
        ValueError, match=re.escape("y must be a tensor of the shape of the utilities, (2, 3), got (3,)")
    ):
        loss(torch.zeros(2, 3), torch.zeros(3))
    with pytest.raises(ValueError, match="got list"):
        loss(torch.zeros(3), [0.0, 0.0, 1.0])


@pytest.mark.parametrize("make", [family, argmax, softmax])
def test_expand_takes_batch_shapes_alone(make):
    for wrong in ((3,), (2, 3), (), (3, 2, 3), (0,)):
        with pytest.raises(ValueError, match=re.escape(f"(2,) does not expand to {wrong}")):
            make(2).expand(wrong)
    with pytest.raises(ValueError, match="at least 0"):
        make(2).expand((-1, 2))
    with pytest.raises(TypeError, match=re.escape("batch_shape must be a shape, such as (2,), got 2")):
        make(2).expand(2)
    assert make(1, 2).expand((4, 3, 2)).batch_shape == (4, 3, 2)
    assert make(2).expand([0, 2]).sample().shape == (0, 2, 3)
    assert make(1).expand((0,)).batch_shape == (0,)


DRAWS = {
    "family": family(2).sample,
    "listed": sst.ExponentialFamily(polytopes.Matching(2), torch.zeros(2, 2)).sample,
    "argmax": argmax(2).sample,
    "softmax": softmax(2).sample,
    "rsample": softmax(2).rsample,
    "pair": softmax(2).sample_pair,
    "logistic": sst.Logistic(0.0, 1.0).rsample,
    "sampled logistic": sst.Logistic(0.0, 1.0).sample,
    "exponential": sst.NegativeExponential(1.0).rsample,
    "independent": Independent(sst.Logistic(torch.zeros(2), 1.0), 1).rsample,
}


@pytest.mark.parametrize("name", DRAWS)
def test_sample_shapes_are_shapes(name):
    draw = DRAWS[name]
    for wrong in (3, np.int64(3), 3.0, None, "33", (2.5,)):
        with pytest.raises(TypeError, match="sample_shape must be a shape, such as"):
            draw(wrong)
    with pytest.raises(TypeError, match=re.escape("such as (3,), got 3.")):
        draw(3)
    with pytest.raises(ValueError, match="at least 0"):
        draw((-1,))
    for right in ((), (2,), [2, 1], torch.Size([0])):
        x = draw(right)
        assert (x[0] if isinstance(x, tuple) else x).shape[: len(right)] == tuple(right)
