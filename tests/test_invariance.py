"""What must not change: batch shape, dtype, device, the caller's tensors, global state."""

import copy

import pytest
import torch

import polytopes
import sst_cvx as sst
from tests.hulls import pairs
from tests.oracles import bisection, fast_pairs

SOME = [
    (polytopes.OneHot(5), sst.Euclidean()),
    (polytopes.KSubset(6, 2), sst.BinaryEntropy()),
    (polytopes.KSubset(6, 2), sst.ExponentialFamilyEntropy()),
    (polytopes.Matching(3), sst.CategoricalEntropy()),
    (pairs(), sst.Euclidean()),
]


@pytest.mark.parametrize(("structure", "regularizer"), SOME, ids=repr)
def test_shape_dtype_and_device_come_back(structure, regularizer, batch_shape, dtype):
    u = torch.randn(*batch_shape, *structure.event_shape).to(dtype).requires_grad_()
    soft = sst.SoftArgmax(structure, regularizer)
    x = soft(u, 0.7)
    assert (x.shape, x.dtype, x.device) == (u.shape, u.dtype, u.device)
    x.float().square().sum().backward()
    assert u.grad is not None
    assert u.grad.dtype == dtype
    assert bool(torch.isfinite(u.grad).all())
    hard = structure.argmax(u.detach())
    assert (hard.shape, hard.dtype, hard.device) == (u.shape, u.dtype, u.device)


@pytest.mark.parametrize(("structure", "regularizer"), fast_pairs(), ids=repr)
@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0, 1000.0])
def test_float32_at_any_scale(structure, regularizer, scale):
    u = scale * torch.randn(16, *structure.event_shape)
    soft = sst.SoftArgmax(structure, regularizer)
    assert (soft(u).double() - soft(u.double())).abs().max() < 1e-5


@pytest.mark.parametrize("n", [20, 200])
@pytest.mark.parametrize("name", ["Euclidean", "CategoricalEntropy", "BinaryEntropy", "TsallisEntropy"])
def test_float32_of_a_large_and_a_fine_scale(name, n):
    """Some utilities far above and below a group of near ties: what decides is the fine scale."""
    u = torch.cat([1e4 * torch.rand(8, 4) + 10, 0.3 * torch.randn(8, n - 8), -1e4 * torch.rand(8, 4) - 10], dim=1)
    soft = sst.SoftArgmax(polytopes.KSubset(n, 8), getattr(sst, name)())
    assert (soft(u).double() - bisection(u.double(), 8, name)).abs().max() < 1e-5


@pytest.mark.parametrize(("structure", "regularizer"), SOME, ids=repr)
def test_callers_tensors_are_left_alone(structure, regularizer):
    u = torch.randn(3, *structure.event_shape)
    kept = u.clone()
    sst.SoftArgmax(structure, regularizer)(u)
    structure.argmax(u)
    assert torch.equal(u, kept)
    assert not u.requires_grad


def test_global_state_is_left_alone():
    before = torch.get_default_dtype(), torch.get_num_threads(), torch.random.get_rng_state()
    soft = sst.SoftArgmax(pairs(), sst.Euclidean())
    soft(torch.zeros(2, 6))
    sst.check(polytopes.KSubset(4, 2), [sst.Euclidean()], verbose=False)
    after = torch.get_default_dtype(), torch.get_num_threads(), torch.random.get_rng_state()
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])


def test_values_of_cvxpy_variables_are_left_alone():
    structure = pairs()
    structure.variable.value = [1, 0, 0, 0, 0, 1]
    sst.SoftArgmax(structure, sst.Regularizer(lambda x: (x**2).sum()))(torch.randn(2, 6))
    assert structure.variable.value.tolist() == [1, 0, 0, 0, 0, 1]


@pytest.mark.parametrize(("structure", "regularizer"), SOME, ids=repr)
def test_non_contiguous_utilities(structure, regularizer):
    u = torch.randn(*structure.event_shape, 4, dtype=torch.float64).movedim(-1, 0)
    soft = sst.SoftArgmax(structure, regularizer)
    assert torch.allclose(soft(u), soft(u.contiguous()), atol=1e-12)


@pytest.mark.parametrize(
    "regularizer", [sst.Euclidean(), sst.BinaryEntropy(), sst.ExponentialFamilyEntropy()], ids=repr
)
def test_permutation_equivariance(regularizer):
    u, order = torch.randn(5, 9, dtype=torch.float64), torch.randperm(9)
    soft = sst.SoftArgmax(polytopes.KSubset(9, 4), regularizer)
    assert torch.allclose(soft(u)[:, order], soft(u[:, order]), atol=1e-12)


def test_as_a_module():
    """No parameters or buffers to save, deep copies and device moves are harmless, it sits in a Sequential."""
    soft = sst.SoftArgmax(pairs(), sst.Euclidean())
    model = torch.nn.Sequential(torch.nn.Linear(3, 6), soft)
    assert set(model.state_dict()) == {"0.weight", "0.bias"}
    twin = copy.deepcopy(model)
    z = torch.randn(2, 3)
    assert torch.equal(twin(z), model(z))
    model.double()
    assert model(z.double()).dtype == torch.float64


def test_training_reduces_a_loss():
    """End to end: learn utilities whose relaxed sample matches a target subset."""
    logits = torch.zeros(6, requires_grad=True)
    target = torch.tensor([1.0, 0, 1, 0, 0, 0])
    soft = sst.SoftArgmax(polytopes.KSubset(6, 2), sst.BinaryEntropy())
    optimizer = torch.optim.Adam([logits], lr=0.2)
    noise = torch.distributions.Gumbel(0.0, 1.0)
    losses = []
    for _ in range(60):
        loss = (soft(logits + noise.sample((16, 6)), 0.5) - target).square().sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert torch.equal(polytopes.KSubset(6, 2).argmax(logits.detach()), target)
