"""One structure, one soft argmax, many threads: every answer is that of a single thread."""

import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import cvxpy as cp
import pytest
import torch

import polytopes
import sst_cvx as sst
from tests.hulls import pairs

THREADS = 8


@pytest.fixture(autouse=True)
def _switch_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def agree(function: Callable[[Any], torch.Tensor], inputs: list[Any], repeats: int, atol: float = 1e-9) -> None:
    """The function, asked by many threads at once, against its answers one after the other."""
    expected = [function(v) for v in inputs]
    wrong: list[str] = []

    def work(i: int) -> None:
        try:
            for _ in range(repeats):
                error = float((function(inputs[i]) - expected[i]).abs().max())
                if not error <= atol:
                    wrong.append(f"input {i} is off by {error:.1e}")
        except Exception as error:
            wrong.append(f"input {i}: {type(error).__name__}: {error}")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[:3]


def utilities(size: int = 6) -> list[torch.Tensor]:
    return list(torch.randn(THREADS, 5, size, dtype=torch.float64))


def with_capacity() -> sst.Structure:
    x, capacity = cp.Variable(6), cp.Parameter(nonneg=True, name="capacity")
    return sst.Structure(x, [x >= 0, x <= 1, cp.sum(x) <= capacity])


def with_factors() -> sst.Structure:
    x, factors = cp.Variable(6), cp.Parameter(6, nonneg=True, name="factors")
    return sst.Structure(x, [x >= 0, x <= 1, factors @ x <= 2])


def ball() -> sst.Structure:
    x = cp.Variable(6)
    return sst.Structure(x, [cp.norm(x) <= 1, x >= 0])


def growing_ball() -> sst.Structure:
    x, radius = cp.Variable(6), cp.Parameter(nonneg=True, name="radius")
    return sst.Structure(x, [cp.norm(x) <= radius, x >= 0])


def knapsack() -> sst.Structure:
    x = cp.Variable(6)
    return sst.Structure(x, [x >= 0, x <= 1, x @ [2, 3, 2, 3, 2, 3] <= 7], integral=False)


@pytest.mark.parametrize("make", [pairs, knapsack, ball, lambda: polytopes.Permutahedron(torch.linspace(0, 1, 6))])
def test_argmax(make):
    agree(make().argmax, utilities(), 10, atol=1e-6)


def test_argmax_with_parameters():
    inputs = list(zip(utilities(), torch.linspace(0.5, 4.0, THREADS), strict=True))
    box, growing = with_capacity(), growing_ball()
    agree(lambda v: box.argmax(v[0], capacity=v[1]), inputs, 10)
    agree(lambda v: growing.argmax(v[0], radius=v[1]), inputs, 3, atol=1e-6)


@pytest.mark.parametrize("regularizer", [sst.Euclidean(), sst.CategoricalEntropy()], ids=repr)
def test_interior_point(regularizer):
    agree(sst.SoftArgmax(pairs(), regularizer), utilities(), 5)


def test_guards_with_parameters():
    soft = sst.SoftArgmax(with_capacity(), sst.Euclidean())
    agree(
        lambda v: soft(v[0], 0.5, capacity=v[1]),
        list(zip(utilities(), torch.linspace(0.5, 4.0, THREADS), strict=True)),
        5,
    )


def test_the_layer_with_cones_and_parameters():
    soft = sst.SoftArgmax(ball(), sst.Euclidean())
    assert soft.path == "layer"
    agree(soft, utilities(), 2, atol=1e-6)
    parametric = sst.SoftArgmax(growing_ball(), sst.Euclidean())
    radii = torch.linspace(0.5, 4.0, THREADS)
    agree(lambda v: parametric(v[0], radius=v[1]), list(zip(utilities(), radii, strict=True)), 2, atol=1e-6)


def test_parameters_in_the_matrix():
    """The rows of the layer's program differ from thread to thread, and so do the independent ones of them."""
    soft = sst.SoftArgmax(with_factors(), sst.Euclidean(), path="layer")
    factors = list(torch.rand(THREADS, 6) + 0.1)
    agree(lambda v: soft(v[0], factors=v[1]), list(zip(utilities(), factors, strict=True)), 2, atol=1e-6)


def test_masks_compile_once_for_all():
    soft = sst.SoftArgmax(pairs(), sst.Euclidean())
    masks = [torch.ones(6, dtype=torch.bool) for _ in range(THREADS)]
    for i, mask in enumerate(masks):
        mask[i % 3] = False
    inputs = list(zip(utilities(), masks, strict=True))
    agree(lambda v: soft(v[0], 0.5, mask=v[1]), inputs, 3)
    agree(lambda v: soft.structure.masked_argmax(*v), inputs, 5)


@pytest.mark.parametrize("make", [pairs, with_capacity, ball])
def test_first_use_is_by_all_threads_at_once(make):
    """Nothing is compiled yet: hull, solvers, caches are made under way."""
    known = {p.name(): torch.tensor(2.0) for p in make().parameters}
    truth, soft = (sst.SoftArgmax(make(), sst.Euclidean()) for _ in range(2))
    inputs = utilities()
    answers: dict[int, torch.Tensor] = {}

    def work(i: int) -> None:
        answers[i] = soft(inputs[i], 0.5, **known)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == THREADS
    for i, u in enumerate(inputs):
        torch.testing.assert_close(answers[i], truth(u, 0.5, **known), atol=1e-6, rtol=0)


def test_tricks_and_gaps():
    soft = sst.SoftArgmax(pairs(), sst.Euclidean())

    def straight_through(u: torch.Tensor) -> torch.Tensor:
        trick = sst.StochasticSoftmax(soft, torch.distributions.Normal(u, torch.full_like(u, 1e-9)), 0.5)
        return trick.rsample(straight_through=True)

    agree(straight_through, utilities(), 5)
    agree(lambda u: soft.gap(u, soft(u, 0.5), 0.5), utilities(), 5)
