"""Masks: forbidden items at exactly 0, and the answer over what is left, against enumeration."""

from __future__ import annotations

import cvxpy as cp
import pytest
import torch

import polytopes
import sst_cvx as sst

REGULARIZERS = [sst.Euclidean(), sst.CategoricalEntropy(), sst.BinaryEntropy(), sst.TsallisEntropy(1.5)]
LISTED = [s for s in polytopes.EXAMPLES if s.has_vertices() and s.binary]


def masked_problem(structure, dtype, scale=1.0, batch=4):
    """Utilities that are NaN where forbidden, a mask with some element left, and the elements it leaves to each."""
    vertices = structure.vertices()
    generator = torch.Generator().manual_seed(len(vertices))
    chosen = torch.randint(len(vertices), (batch, 2), generator=generator)
    mask = vertices[chosen].amax(1) > 0
    u = scale * torch.randn(batch, *structure.event_shape, dtype=dtype, generator=generator)
    flat = vertices.flatten(1)
    left = [flat[~((flat > 0) & ~m.flatten()).any(1)] for m in mask]
    return u.masked_fill(~mask, torch.nan), mask, left


@pytest.mark.parametrize("scale", [1.0, 100.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("structure", LISTED, ids=str)
def test_argmax_log_partition_and_marginals_against_enumeration(structure, dtype, scale):
    u, mask, left = masked_problem(structure, dtype, scale)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-5
    best = structure.masked_argmax(u, mask)
    assert bool((best[~mask] == 0).all())
    soft = None if structure.log_partition_refusal else sst.SoftArgmax(structure, sst.ExponentialFamilyEntropy())
    for i, points in enumerate(left):
        scores = points @ u[i].double().nan_to_num(0).flatten()
        value = best[i].double().flatten() @ u[i].double().nan_to_num(0).flatten()
        torch.testing.assert_close(value, scores.max(), rtol=tolerance, atol=tolerance * scale)
        if soft is not None:
            marginals = (scores / 0.7).softmax(0) @ points
            x = soft(u, 0.7, mask=mask)
            assert x.dtype == dtype
            assert bool((x[~mask] == 0).all())
            torch.testing.assert_close(x[i].double().flatten(), marginals, rtol=0, atol=tolerance)
            log_z = structure.masked_log_partition(u, mask)[i].double()
            torch.testing.assert_close(log_z, scores.logsumexp(0), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("regularizer", REGULARIZERS, ids=repr)
@pytest.mark.parametrize("structure", LISTED, ids=str)
def test_soft_argmax_is_optimal_among_what_is_left(structure, regularizer):
    u, mask, _ = masked_problem(structure, torch.float64)
    soft = sst.SoftArgmax(structure, regularizer)
    v = u.clone().requires_grad_()
    x = soft(v, 0.5, mask=mask)
    assert bool((x[~mask] == 0).all())
    points = (x.detach(), x.detach().clamp(1e-9, 1 - 1e-9))
    gap = torch.minimum(*(soft.gap(u.nan_to_num(0), point, 0.5, mask=mask).abs() for point in points))
    assert float(gap.max()) < 1e-7
    if x.requires_grad:
        (g,) = torch.autograd.grad((x * x).sum(), v)
        assert bool((g[~mask] == 0).all())
        assert bool(torch.isfinite(g).all())


def test_gradients_with_a_mask_against_differences():
    for structure in (polytopes.KSubset(5, 2), polytopes.CorrelatedKSubset(4, 2), polytopes.Matching(3)):
        u = torch.randn(2, *structure.event_shape, dtype=torch.float64, requires_grad=True)
        mask = torch.ones(structure.event_shape, dtype=torch.bool)
        mask.view(-1)[1] = False
        for regularizer in (sst.CategoricalEntropy(), sst.ExponentialFamilyEntropy()):
            soft = sst.SoftArgmax(structure, regularizer)
            torch.autograd.gradcheck(lambda v, soft=soft, mask=mask: soft(v, 0.8, mask=mask), u, eps=1e-5, atol=1e-6)


@pytest.mark.parametrize("path", ["fast", "interior_point", "layer"])
def test_padding_changes_nothing(path):
    lengths = torch.tensor([[6, 3], [4, 5]])
    soft = sst.SoftArgmax(polytopes.KSubset(6, 2), sst.Euclidean(), path=path)
    u = torch.randn(2, 2, 6, dtype=torch.float64)
    x = soft(u, 0.5, mask=sst.length_mask(lengths, 6))
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        n = int(lengths[i, j])
        short = sst.SoftArgmax(polytopes.KSubset(n, 2), sst.Euclidean())(u[i, j, :n], 0.5)
        torch.testing.assert_close(x[i, j, :n], short, atol=1e-6, rtol=0)


def test_pairs_of_padded_items_are_forbidden_too():
    structure = polytopes.CorrelatedKSubset(6, 2)
    mask = structure.length_mask(torch.tensor([6, 4]))
    short = polytopes.CorrelatedKSubset(4, 2)
    u = torch.randn(2, 11, dtype=torch.float64)
    cut = torch.cat([u[1, :4], u[1, 6:9]])
    torch.testing.assert_close(structure.masked_log_partition(u, mask)[1], short.log_partition(cut))


def test_declared_sets_and_their_argmax():
    x = cp.Variable(5)
    structure = sst.Structure(x, [x >= 0, x <= 1, cp.sum(x) == 2, x[0] + x[1] <= 1])
    u = torch.tensor([[9.0, 8.0, 1.0, 2.0, 3.0], [9.0, 8.0, 1.0, 2.0, 3.0]])
    mask = torch.tensor([[True] * 5, [False, True, True, True, False]])
    expected = torch.tensor([[1.0, 0, 0, 0, 1], [0, 1.0, 0, 1, 0]])
    torch.testing.assert_close(structure.masked_argmax(u, mask), expected)
    soft = sst.SoftArgmax(structure, sst.Euclidean())
    torch.testing.assert_close(soft(u, 0.01, mask=mask), expected)


@pytest.mark.parametrize("path", ["fast", "interior_point", "layer"])
def test_an_empty_set_names_its_elements(path):
    soft = sst.SoftArgmax(polytopes.KSubset(4, 2), sst.CategoricalEntropy(), path=path)
    mask = torch.tensor([[True, True, True, True], [False, False, True, False], [True, True, False, False]])
    with pytest.raises(sst.SolveError, match="batch element 1: allow more items") as caught:
        soft(torch.randn(3, 4), mask=mask)
    assert caught.value.elements == ((1,),)
    for empty in (soft.structure.masked_argmax, soft.structure.masked_log_partition):
        with pytest.raises(sst.SolveError, match="batch element 1"):
            empty(torch.randn(3, 4), mask)


@pytest.mark.parametrize("path", ["fast", "interior_point", "active_set", "layer"])
def test_an_empty_set_in_a_batch_of_two_dimensions_is_named(path):
    soft = sst.SoftArgmax(polytopes.KSubset(4, 2), sst.Euclidean(), path=path)
    mask = torch.ones(2, 3, 4, dtype=torch.bool)
    mask[1, 2, :3] = False
    for ask in (soft, soft.structure.masked_argmax, soft.structure.masked_log_partition):
        with pytest.raises(sst.SolveError, match=r"batch element \(1, 2\)") as caught:
            ask(torch.randn(2, 3, 4), mask=mask)
        assert caught.value.elements == ((1, 2),)


def test_wrong_masks_are_refused():
    soft = sst.SoftArgmax(polytopes.KSubset(4, 2), sst.CategoricalEntropy())
    u = torch.randn(3, 4)
    with pytest.raises(TypeError, match="bool tensor"):
        soft(u, mask=torch.ones(3, 4))
    with pytest.raises(ValueError, match="does not broadcast"):
        soft(u, mask=torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="finite"):
        soft(u.fill_(torch.nan), mask=torch.ones(4, dtype=torch.bool))
    x = cp.Variable(3)
    signed = sst.SoftArgmax(sst.Structure(x, [x >= -1, x <= 1]), sst.Euclidean())
    with pytest.raises(ValueError, match="0/1 arrays"):
        signed(torch.randn(3), mask=torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="between 0 and 4"):
        sst.length_mask(torch.tensor([5]), 4)


@pytest.mark.parametrize("path", ["fast", "interior_point", "active_set", "layer"])
def test_an_empty_batch_stays_empty(path):
    structure = polytopes.KSubset(4, 2)
    mask = torch.ones(4, dtype=torch.bool)
    u = torch.randn(0, 3, 4)
    assert sst.SoftArgmax(structure, sst.Euclidean(), path=path)(u, 0.5, mask=mask).shape == u.shape
    assert structure.masked_argmax(u, mask).shape == u.shape
    assert structure.masked_log_partition(u, mask).shape == (0, 3)
