"""Copies, pickles and other processes: whatever was compiled is made anew, and answers stay."""

import copy
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import cvxpy as cp
import pytest
import torch

import polytopes
import sst_cvx as sst
from tests.hulls import pairs, trees_by_martin

ROOT = Path(__file__).resolve().parents[1]

#: Loads (object, utilities, parameters, answer) and asks again, among CVXPY objects that took the same numbers: once a
#: number of these, each in a process that has not seen the others.
OTHER_PROCESS = """
import os, pickle, sys
import cvxpy as cp, torch, sst_cvx
torch.set_num_threads(1)

def ask(offset):
    kept = [cp.Variable(2) for _ in range(offset)]
    x = cp.Variable(3)
    cp.Problem(cp.Minimize(cp.sum_squares(x)), [x >= 0, cp.sum(x) == 1]).solve()
    with open(sys.argv[1], "rb") as file:
        cases = pickle.load(file)
    for asked, u, parameters, expected in cases:
        answer = asked(u, **parameters) if isinstance(asked, torch.nn.Module) else asked.argmax(u, **parameters)
        torch.testing.assert_close(answer, expected, atol=1e-9, rtol=0)
    print(offset, len(cases), flush=True)

for offset in map(int, sys.argv[2:]):
    if not (child := os.fork()):
        ask(offset)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, offset
"""


def declared():
    """Structures with what a declaration may have: parameters, auxiliary variables, cones, attributes."""
    y, z, capacity = cp.Variable(6), cp.Variable(3, nonneg=True), cp.Parameter(nonneg=True, name="capacity")
    box = [y >= 0, y <= 1, cp.sum(y) <= capacity, cp.sum(z) == y[0]]
    ball = cp.Variable((2, 2), symmetric=True)
    return [
        (pairs(), {}),
        (sst.Structure(y, box), {"capacity": torch.tensor(1.5)}),
        (sst.Structure(ball, [cp.norm(ball, "fro") <= 1]), {}),
        (trees_by_martin(4), {}),
    ]


def cases():
    """(asked, utilities, parameters, answer), all of them used."""
    found = []
    for structure, parameters in declared():
        u = torch.randn(2, *structure.event_shape, dtype=torch.float64)
        soft = sst.SoftArgmax(structure, sst.Euclidean())
        found.append((structure, u, parameters, structure.argmax(u, **parameters)))
        found.append((soft, u, parameters, soft(u, **parameters)))
    x = cp.Variable(4)
    simplex = sst.Structure(x, [x >= 0, cp.sum(x) == 1])
    by_expression = sst.SoftArgmax(simplex, sst.Regularizer(cp.sum_squares(x) + cp.sum(cp.power(x, 4))))
    u = torch.randn(3, 4, dtype=torch.float64)
    return [*found, (by_expression, u, {}, by_expression(u))]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes that have imported everything are forks")
def test_other_processes(tmp_path):
    """CVXPY numbers its variables from 1 in every process: loaded ones must not collide with those there."""
    path, asked, offsets = tmp_path / "cases.pickle", cases(), ["0", "1", "2", "3", "5", "8"]
    path.write_bytes(pickle.dumps(asked))
    command = [sys.executable, "-c", OTHER_PROCESS, str(path), *offsets]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == [f"{offset} {len(asked)}" for offset in offsets]


def test_structures_pickled_before_use():
    for structure, parameters in declared():
        blob = pickle.dumps(structure)
        u = torch.randn(2, *structure.event_shape, dtype=torch.float64)
        torch.testing.assert_close(pickle.loads(blob).argmax(u, **parameters), structure.argmax(u, **parameters))


@pytest.mark.parametrize("structure", polytopes.EXAMPLES, ids=repr)
def test_library_structures(structure):
    u = torch.randn(2, *structure.event_shape, dtype=torch.float64)
    hard, soft = structure.argmax(u), sst.SoftArgmax(structure, sst.Euclidean())
    twin = pickle.loads(pickle.dumps(soft))
    assert torch.equal(twin.structure.argmax(u), hard)
    torch.testing.assert_close(twin(u, 0.5), soft(u, 0.5), atol=1e-12, rtol=0)
    assert repr(twin) == repr(soft)


class Net(torch.nn.Module):
    def __init__(self, structure):
        super().__init__()
        self.linear, self.structure = torch.nn.Linear(4, 6), structure
        self.soft = sst.SoftArgmax(structure, sst.BinaryEntropy())

    def forward(self, z):
        u = self.linear(z)
        return self.soft(u, 0.5) if self.training else self.structure.argmax(u)


@pytest.mark.parametrize("structure", [pairs(), polytopes.KSubset(6, 2)], ids=repr)
def test_modules_that_hold_them(structure):
    net, z = Net(structure), torch.randn(3, 4)
    net(z)
    net.eval()(z)  # compiled in both modes
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    averaged = torch.optim.swa_utils.AveragedModel(net)
    for twin in (copy.deepcopy(net), loaded, averaged):
        assert torch.equal(twin.eval()(z), net(z))
        torch.testing.assert_close(twin.train()(z), net.train()(z))
        net.eval()


def _answer(soft: sst.SoftArgmax, u: torch.Tensor, queue) -> None:
    queue.put(soft(u, 0.5).tolist())


def test_spawned_workers():
    soft, u = sst.SoftArgmax(pairs(), sst.Euclidean()), torch.randn(2, 6)
    soft.structure.argmax(u)
    context = torch.multiprocessing.get_context("spawn")
    queue = context.Queue()
    worker = context.Process(target=_answer, args=(soft, u, queue))
    worker.start()
    answer = queue.get(timeout=120)
    worker.join()
    torch.testing.assert_close(torch.tensor(answer), soft(u, 0.5))


def test_a_copied_structure_compiles():
    structure = copy.deepcopy(pairs())
    u = torch.randn(2, 6, dtype=torch.float64)
    layer = sst.SoftArgmax(structure, sst.Euclidean(), path="layer")
    torch.testing.assert_close(layer(u), sst.SoftArgmax(structure, sst.Euclidean())(u), atol=1e-6, rtol=0)


def test_errors_survive_pickling():
    error = sst.SolveError("no answer for {elements}", [(1, 2)], ["stuck"])
    twin = pickle.loads(pickle.dumps(error))
    assert (str(twin), twin.elements, twin.status) == (str(error), error.elements, error.status)
