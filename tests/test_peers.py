"""Marginals against torch-struct's, which shares no code with the library."""

import pytest
import torch

import polytopes
import sst_cvx as sst

torch_struct = pytest.importorskip("torch_struct")
pytestmark = pytest.mark.filterwarnings("ignore:.*arg_constraints:UserWarning")

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def marginals_and_pullback(marginals, u, v):
    """Marginals at u, and the gradient of <v, marginals>: first and second derivatives of log Z."""
    leaf = u.clone().requires_grad_()
    x = marginals(leaf)
    return x, torch.autograd.grad((x * v).sum(), leaf)[0]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("single_root", [False, True], ids=["multi-root", "single-root"])
@pytest.mark.parametrize("n", [2, 3, 7])
def test_arborescences_are_nonprojective_dependencies(n, single_root, dtype):
    """Vertex 0 is the root and word i is vertex i + 1; scores (head, child), the root's on the diagonal."""
    if not hasattr(polytopes, "Arborescence"):
        pytest.skip("polytopes has no Arborescence")
    structure = polytopes.Arborescence(n, root=0, single_root=single_root)
    tails, heads = structure.edge_index
    assert structure.event_shape == ((n - 1) ** 2,)
    rows, columns = torch.where(tails == 0, heads, tails) - 1, heads - 1

    def theirs(u):
        scores = u.new_zeros(len(u), n - 1, n - 1).index_put((torch.arange(len(u))[:, None], rows, columns), u)
        # What NonProjectiveDependencyCRF.marginals calls, without the 1e-5 that it adds to the Laplacian's weights.
        return torch_struct.deptree_nonproj(scores, multi_root=not single_root, eps=0.0)[:, rows, columns]

    u, v = torch.randn(2, 16, (n - 1) ** 2, dtype=dtype)
    ours = marginals_and_pullback(sst.SoftArgmax(structure, sst.ExponentialFamilyEntropy()), u, v)
    for mine, other in zip(ours, marginals_and_pullback(theirs, u, v), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_spanning_trees_are_symmetric_nonprojective_dependencies(dtype):
    """Turned away from vertex 0, a tree is an arborescence: an edge's marginal is that of both its directions."""
    n = 6
    structure = polytopes.SpanningTree(n)
    i, j = structure.edge_index  # i < j
    at_root = i == 0

    def theirs(u):
        full = u.new_zeros(len(u), n, n).index_put((torch.arange(len(u))[:, None], i, j), u)
        scores = (full + full.mT)[:, 1:, 1:] + torch.diag_embed(full[:, 0, 1:])
        x = torch_struct.deptree_nonproj(scores, multi_root=True, eps=0.0)
        rows, columns = torch.where(at_root, j, i) - 1, j - 1
        return x[:, rows, columns] + x[:, columns, rows] * ~at_root

    u, v = torch.randn(2, 16, *structure.event_shape, dtype=dtype)
    ours = marginals_and_pullback(sst.SoftArgmax(structure, sst.ExponentialFamilyEntropy()), u, v)
    for mine, other in zip(ours, marginals_and_pullback(theirs, u, v), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=TOLERANCE[dtype])


def test_paths_on_a_trellis_are_linear_chains():
    """State s at step t is vertex 1 + 3 t + s; potentials (step, next state, state), as torch-struct has them."""
    steps, states, batch = 5, 3, 8
    transitions = [
        (1 + states * t + s, 1 + states * (t + 1) + following)
        for t in range(steps - 1)
        for following in range(states)
        for s in range(states)
    ]
    target = 1 + steps * states
    start = [(0, 1 + s) for s in range(states)]
    end = [(target - states + s, target) for s in range(states)]
    edge_index = torch.tensor(transitions + start + end).T
    structure = polytopes.Path(edge_index, source=0, target=target)
    soft = sst.SoftArgmax(structure, sst.ExponentialFamilyEntropy())

    def ours(potentials):
        free = potentials.new_zeros(batch, 2 * states)  # edges of source and target carry no utility
        x = soft(torch.cat([potentials.flatten(1), free], -1))
        return x[:, : len(transitions)].reshape(potentials.shape)

    def theirs(potentials):
        return torch_struct.LinearChainCRF(potentials).marginals

    u, v = torch.randn(2, batch, steps - 1, states, states, dtype=torch.float64)
    for mine, other in zip(marginals_and_pullback(ours, u, v), marginals_and_pullback(theirs, u, v), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-10)
    best = structure.argmax(torch.cat([u.flatten(1), u.new_zeros(batch, 2 * states)], -1))
    theirs_best = torch_struct.LinearChainCRF(u.clone()).argmax
    assert torch.equal(best[:, : len(transitions)].reshape(u.shape), theirs_best)
