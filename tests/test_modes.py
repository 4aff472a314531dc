"""Autocast, inference mode and default devices of the caller change nothing, now or later."""

import cvxpy as cp
import pytest
import torch

import polytopes
import sst_cvx as sst
from tests.hulls import pairs, trees_by_martin


def pinned() -> sst.Structure:
    x = cp.Variable(4)
    return sst.Structure(x, [x >= 0, x[0] == 0, cp.sum(x) == 1])


def ball() -> sst.Structure:
    x = cp.Variable(3)
    return sst.Structure(x, [cp.norm(x) <= 1, x >= 0])


def capped() -> sst.Structure:
    x, capacity = cp.Variable(4), cp.Parameter(nonneg=True, name="capacity")
    return sst.Structure(x, [x >= 0, x <= 1, cp.sum(x) <= capacity])


def by_argmax() -> sst.Structure:
    return sst.Structure.from_argmax(5, polytopes.KSubset(5, 2).argmax)


DECLARED = [pairs, pinned, ball, capped, lambda: trees_by_martin(4), by_argmax]


def known(structure: sst.Structure) -> dict[str, torch.Tensor]:
    return {p.name(): torch.tensor(1.5) for p in structure.parameters}


@pytest.mark.parametrize("make", DECLARED)
@pytest.mark.parametrize("device", ["meta"])
def test_default_devices(make, device):
    structure = make()
    u, parameters = torch.randn(3, *structure.event_shape, dtype=torch.float64), known(structure)
    soft = sst.SoftArgmax(structure, sst.Euclidean())
    expected = structure.argmax(u, **parameters), soft(u, 0.5, **parameters)
    with torch.device(device):
        other = make()
        again = sst.SoftArgmax(other, sst.Euclidean())
        answers = other.argmax(u, **parameters), again(u, 0.5, **parameters)
        v = u.clone().requires_grad_()
        again(v, torch.tensor(0.5, device="cpu"), **parameters).sum().backward()
        gap = again.gap(u, answers[1], 0.5, **parameters)
    for answer, right in zip(answers, expected, strict=True):
        torch.testing.assert_close(answer, right, atol=1e-9, rtol=0)
    assert gap.device.type == "cpu"
    assert v.grad is not None


@pytest.mark.parametrize("make", DECLARED)
def test_inference_mode_first(make):
    """What an evaluation makes and keeps is trained with afterwards (Lightning's sanity check)."""
    with torch.inference_mode():
        structure = make()
        soft = sst.SoftArgmax(structure, sst.Euclidean())
        u, parameters = torch.randn(3, *structure.event_shape), known(structure)
        structure.argmax(u, **parameters)
        first = soft(u, 0.5, **parameters)
    v = torch.empty(first.shape).copy_(u).requires_grad_()
    x = soft(v, 0.5, **known(structure))
    x.square().sum().backward()
    torch.testing.assert_close(x.detach(), torch.empty(first.shape).copy_(first))
    assert bool(torch.isfinite(v.grad).all())


@pytest.mark.parametrize("path", ["fast", "interior_point", "active_set", "layer"])
def test_masks_made_in_inference_mode(path):
    with torch.inference_mode():
        mask = torch.tensor([True, True, False, True])
    soft = sst.SoftArgmax(polytopes.KSubset(4, 2), sst.Euclidean(), path=path)
    u = torch.randn(3, 4, requires_grad=True)
    soft(u, 1.0, mask=mask).square().sum().backward()
    assert bool((u.grad[:, 2] == 0).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "structure",
    [
        polytopes.OneHot(5),
        polytopes.KSubset(5, 2),
        polytopes.Matching(3),
        polytopes.MatroidBases.partition(torch.tensor([0, 0, 0, 1, 1]), [1, 1]),
        pairs(),
        by_argmax(),
    ],
    ids=repr,
)
def test_autocast(structure, dtype):
    """Sums in 16 bits put right answers outside the hull."""
    u = torch.randn(40, *structure.event_shape)
    for regularizer in (sst.Euclidean(), sst.CategoricalEntropy(), sst.BinaryEntropy()):
        try:
            soft = sst.SoftArgmax(structure, regularizer)
        except ValueError:  # known by its argmax alone
            continue
        expected, hard = soft(u, 0.5), structure.argmax(u)
        with torch.autocast("cpu", dtype=dtype):
            assert torch.equal(soft(u, 0.5), expected)
            assert torch.equal(structure.argmax(u), hard)
            assert soft(u.to(dtype), 0.5).dtype == dtype
            gap = soft.gap(u, expected, 0.5)
        torch.testing.assert_close(gap, soft.gap(u, expected, 0.5))
