"""Hulls with parameters: answers, gradients by the parameters, and what has no answer."""

import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest import mock

import cvxpy as cp
import numpy as np
import pytest
import torch

import sst_cvx as sst
from sst_cvx.paths.base import Batch
from sst_cvx.paths.interior_point import polytope
from sst_cvx.paths.interior_point.model import Model
from tests.paths.interior_point.table import REGULARIZERS, draw


def test_vectors_and_scalars():
    x, c, k = cp.Variable(5), cp.Parameter(5, nonneg=True, name="c"), cp.Parameter(name="k")
    budget = sst.Structure(x, [x >= 0, x <= c, cp.sum(x) == k])
    c_value, k_value = 0.6 * torch.rand(3, 5).double() + 0.4, torch.tensor([1.2, 1.0, 0.9]).double()
    for f in REGULARIZERS:
        soft, u = sst.SoftArgmax(budget, f), draw(budget, 1, 3)[0]
        assert soft.path == "interior_point"
        difference = soft(u, c=c_value, k=k_value) - soft.reference()(u, c=c_value, k=k_value)
        assert float(difference.abs().max()) < 1e-6
        inputs = [v.clone().requires_grad_() for v in (u, c_value, k_value)]
        assert torch.autograd.gradcheck(lambda u, c, k, soft=soft: soft(u, 0.5, c=c, k=k), inputs, atol=1e-6)


def test_matrix_with_auxiliary_and_pinned_columns():
    x, z = cp.Variable((2, 3)), cp.Variable(4)
    q, r = cp.Parameter((2, 3), name="q"), cp.Parameter(name="r")
    rows = [x >= 0, x <= q, cp.sum(x, axis=0) <= z[:3], cp.sum(z) == r, z >= 0, z <= 2, x[0, 0] == q[0, 0] / 2]
    structure = sst.Structure(x, rows)
    q_value, r_value = 0.6 * torch.rand(2, 2, 3).double() + 0.4, torch.tensor([1.5, 3.0]).double()
    for f in REGULARIZERS:
        soft, u = sst.SoftArgmax(structure, f), draw(structure, 1, 2)[0]
        difference = soft(u, q=q_value, r=r_value) - soft.reference()(u, q=q_value, r=r_value)
        assert float(difference.abs().max()) < 1e-6
        inputs = [v.clone().requires_grad_() for v in (u, q_value, r_value)]
        assert torch.autograd.gradcheck(lambda u, q, r, soft=soft: soft(u, 0.5, q=q, r=r), inputs, atol=1e-6)


def test_empty_hull_is_an_error():
    x, k = cp.Variable(3), cp.Parameter(name="k")
    soft = sst.SoftArgmax(sst.Structure(x, [x >= 0, x <= 1, cp.sum(x) == k]), sst.Euclidean())
    with pytest.raises(sst.SolveError, match="the hull is infeasible for batch element 1") as caught:
        soft(torch.zeros(3, 3), k=torch.tensor([1.0, 4.0, 2.0]))
    assert caught.value.elements == ((1,),)


def test_rows_over_pinned_columns_are_checked():
    x, z, c = cp.Variable(3), cp.Variable(), cp.Parameter(name="c")
    pinned = sst.Structure(x, [x >= 0, x <= 1, x[0] == c, z == c, x[0] + z <= 1, cp.sum(x) <= 2])
    soft = sst.SoftArgmax(pinned, sst.Euclidean())
    assert soft(torch.zeros(3), c=torch.tensor(0.4)).tolist() == pytest.approx([0.4, 0, 0])
    with pytest.raises(sst.SolveError, match="Infeasible"):
        soft(torch.zeros(3), c=torch.tensor(0.9))


@pytest.mark.parametrize("f", REGULARIZERS, ids=repr)
def test_a_bound_that_leaves_no_room(f):
    """As right as if the same coordinate were fixed by a constant."""
    x, h = cp.Variable(4), cp.Parameter(4, name="h")
    limits = np.array([0.0, 0.875, 1.0, 0.75])
    moving = sst.SoftArgmax(sst.Structure(x, [x >= 0, x <= h, cp.sum(x) == 1]), f)
    fixed = sst.SoftArgmax(sst.Structure(x, [x >= 0, x <= limits, cp.sum(x) == 1]), f)
    u, v = 3 * draw(fixed.structure, 2, 50)
    answers = []
    for soft, values in ((moving, {"h": torch.as_tensor(limits)}), (fixed, {})):
        leaf = u.clone().requires_grad_()
        y = soft(leaf, 1.0, **values)
        answers.append((y, *torch.autograd.grad((y * v).sum(), leaf)))
    for one, other in zip(*answers, strict=True):
        assert float((one - other).detach().abs().max()) < 1e-7


def test_symmetric_parameters_go_by_the_layer():
    x, C = cp.Variable((2, 2)), cp.Parameter((2, 2), name="C", symmetric=True)
    soft = sst.SoftArgmax(sst.Structure(x, [x >= 0, x <= C, cp.sum(x) <= 2]), sst.Euclidean())
    value = torch.tensor([[0.9, 0.3], [0.3, 0.5]])
    assert soft.path == "layer"
    assert float((soft(torch.full((2, 2), 5.0), C=value) - value).abs().max()) < 1e-5


def capped(n: int) -> sst.Structure:
    """At most ``upper_i`` of each item, ``budget`` in all."""
    x, upper, budget = cp.Variable(n), cp.Parameter(n, nonneg=True, name="upper"), cp.Parameter(name="budget")
    return sst.Structure(x, [x >= 0, x <= upper, cp.sum(x) <= budget])


def nearest(u: torch.Tensor, upper: torch.Tensor, budget: float) -> torch.Tensor:
    """Euclidean soft argmax over ``capped`` at temperature 1: min(u - nu, upper) above 0, by bisection for nu."""
    low, high = torch.zeros_like(u[:, :1]), u.amax(1, keepdim=True).clamp(min=0)
    for _ in range(200):
        nu = 0.5 * (low + high)
        over = torch.minimum((u - nu).clamp(min=0), upper).sum(1, keepdim=True) > budget
        low, high = torch.where(over, nu, low), torch.where(over, high, nu)
    return torch.minimum((u - high).clamp(min=0), upper)


def test_many_bounds_in_closed_form():
    """A bound that is reached gives to its own item, and takes from those that are free where the budget is spent."""
    n, budget = 6000, 10.0
    soft = sst.SoftArgmax(capped(n), sst.Euclidean())
    upper = (0.02 * torch.rand(2, n, dtype=torch.float64)).requires_grad_()
    u, v = torch.randn(2, 2, n, dtype=torch.float64)
    u[1] -= 3.5  # element 1 does not spend the budget
    leaf = u.clone().requires_grad_()
    path = soft._path
    x = path(Batch(leaf, 1.0, {"upper": upper, "budget": torch.full((2,), budget).double()}, None))
    truth = nearest(u, upper.detach(), budget)
    assert float((x - truth).detach().abs().max()) < 1e-10
    assert float(truth[0].sum()) == pytest.approx(budget)
    assert float(truth[1].sum()) < budget - 1
    on_u, on_upper = torch.autograd.grad((x * v).sum(), (leaf, upper))
    full = (truth == upper.detach()) & (truth > 0)
    free = (truth > 0) & ~full
    mean = (v * free).sum(1, keepdim=True) / free.sum(1, keepdim=True).clamp(min=1) * torch.tensor([[1.0], [0.0]])
    assert int(full[0].sum()) > 100
    assert int(free[0].sum()) > 10
    assert float((on_upper - torch.where(full, v - mean, 0.0)).abs().max()) < 1e-9
    assert float((on_u - torch.where(free, v - mean, 0.0)).abs().max()) < 1e-9


MEMORY = """
import torch, sst_cvx as sst
from tests.paths.interior_point.test_parameters import capped

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024

torch.set_num_threads(1)
sst.SoftArgmax(capped(3), sst.Euclidean())  # libraries
before = peak()
soft = sst.SoftArgmax(capped(6000), sst.Euclidean())
u, upper = torch.randn(2, 6000).double().requires_grad_(), torch.rand(2, 6000).double().requires_grad_()
soft(u, 1.0, upper=upper, budget=10.0).sum().backward()
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of one process is read from /proc")
def test_many_bounds_take_little_memory():
    """6,000 bounds that are parameters: 6,000 entries, not 6,000 x 12,001 (2.3 GB)."""
    root = Path(__file__).parents[3]
    found = subprocess.run([sys.executable, "-c", MEMORY], cwd=root, capture_output=True, text=True, check=True)
    assert float(found.stdout) < 100  # MiB; it was 1,700


@pytest.mark.parametrize("f", REGULARIZERS, ids=repr)
def test_twice_differentiable(f):
    soft = sst.SoftArgmax(capped(4), f)
    u = torch.tensor([[1.5, 0.3, -0.2, 0.9], [0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
    upper = torch.tensor([[0.4, 0.9, 0.8, 0.7], [0.9, 0.1, 0.8, 0.7]], dtype=torch.float64)
    inputs = [v.requires_grad_() for v in (u, upper, torch.tensor([0.9, 0.8], dtype=torch.float64))]

    def answer(u: torch.Tensor, upper: torch.Tensor, budget: torch.Tensor) -> torch.Tensor:
        return soft(u, 0.7, upper=upper, budget=budget)

    assert torch.autograd.gradcheck(answer, inputs)
    assert torch.autograd.gradgradcheck(answer, inputs)


def test_inference_mode_first():
    """What an evaluation makes and keeps is trained with afterwards, by the parameters too."""
    soft, given = sst.SoftArgmax(capped(3), sst.Euclidean()), torch.tensor([1.0, 0.5, 1.0]).double()
    u, budget = torch.tensor([2.0, 2.0, 1.2]).double(), torch.tensor(1.6, dtype=torch.float64, requires_grad=True)
    with torch.inference_mode():
        soft(u, upper=given, budget=budget.detach())
    upper = given.clone().requires_grad_()
    x = soft(u, upper=upper, budget=budget)  # items 0 and 2 share what item 1 leaves
    torch.testing.assert_close(x, torch.tensor([0.95, 0.5, 0.15]).double())
    x[0].backward()
    torch.testing.assert_close(upper.grad, torch.tensor([0.0, -0.5, 0.0]).double())
    torch.testing.assert_close(budget.grad, torch.tensor(0.5).double())


def test_no_negative_zeros():
    x = sst.SoftArgmax(capped(3), sst.Euclidean())(-torch.ones(3), upper=torch.ones(3), budget=torch.tensor(2.0))
    assert not bool(torch.signbit(x).any())


class FromOne(sst.SeparableRegularizer):
    """(x - 1) log(x - 1), steep at 1."""

    domain, steep = (1.0, np.inf), (True, False)

    def terms(self, variable):
        return -cp.entr(variable - 1)

    def elementwise(self, x):
        return torch.special.xlogy(x - 1, x - 1)

    def slope(self, x):
        return (x - 1).clamp(min=1e-300).log() + 1

    def curvature(self, x):
        return (x - 1).clamp(min=1e-300).reciprocal()

    def inverse_slope(self, s):
        return 1 + (s - 1).exp()


def test_bounds_that_move_away_from_a_steep_end(never_the_layer):
    """They get a barrier, wherever the end of the domain is: x_i = max(lower_i, 1 + 3 softmax of the others)."""
    x, lower = cp.Variable(3), cp.Parameter(3, name="lower")
    soft = sst.SoftArgmax(sst.Structure(x, [x >= lower, x <= 9, cp.sum(x) == 6]), FromOne())
    u = torch.tensor([0.0, 1.0, 2.0]).double()
    y = soft(u, lower=torch.tensor([1.5, 1.2, 1.1]).double())
    rest = 2.5 * u[1:].softmax(0)
    torch.testing.assert_close(y, torch.cat([torch.tensor([1.5]).double(), 1 + rest]), atol=1e-9, rtol=0)


def test_one_model_for_many_threads():
    """Whoever asks first compiles, the others wait."""
    soft, made = sst.SoftArgmax(capped(5), sst.CategoricalEntropy()), []
    u, upper = torch.randn(8, 4, 5).double(), torch.rand(8, 4, 5).double() + 0.2
    answers: list[torch.Tensor | None] = [None] * 8
    together = threading.Barrier(8)

    def count(*arguments):
        made.append(arguments)
        time.sleep(0.05)  # time for the others to come
        return Model(*arguments)

    def work(i: int) -> None:
        together.wait()
        answers[i] = soft(u[i], upper=upper[i], budget=torch.tensor(1.5))

    with mock.patch.object(polytope, "Model", count):
        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(made) == 1
    for i, answer in enumerate(answers):
        assert answer is not None
        torch.testing.assert_close(answer, soft(u[i], upper=upper[i], budget=torch.tensor(1.5)))
