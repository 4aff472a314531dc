"""Bases of matroids beyond the contract: known special cases, large instances without a hull, broken oracles."""

import itertools

import networkx as nx
import pytest
import torch

import polytopes
import sst_cvx as sst
from polytopes import KSubset, MatroidBases, SpanningTree
from tests.oracles import bisection, marginals

EUCLIDEAN, EXPONENTIAL = sst.Euclidean(), sst.ExponentialFamilyEntropy()
MULTIGRAPH = torch.tensor([[0, 0, 1, 1, 2, 2, 4, 4, 5], [1, 2, 2, 2, 3, 2, 5, 6, 6]])  # loop at 2, two components


def binary_matroid(rows: int, n: int, seed: int = 0):
    """Columns of a random matrix over GF(2); ranks by elimination, one set after another."""
    columns = torch.randint(1, 2**rows, (n,), generator=torch.Generator().manual_seed(seed)).tolist()

    def rank_of(chosen):
        basis: list[int] = []
        for e in chosen:
            value = columns[e]
            for b in basis:
                value = min(value, value ^ b)
            if value:
                basis.append(value)
        return len(basis)

    def rank(sets):
        flat = sets.reshape(-1, n)
        ranks = [rank_of(torch.nonzero(s).flatten().tolist()) for s in flat]
        return torch.tensor(ranks, dtype=torch.long).reshape(sets.shape[:-1])

    return rank


def vamos_rank(sets):
    """Rank 4 on 8 elements, linear over no field: five of the sets of four are dependent."""
    circuits = [(0, 1, 2, 3), (0, 1, 4, 5), (0, 1, 6, 7), (2, 3, 4, 5), (2, 3, 6, 7)]
    masks = torch.zeros(5, 8, dtype=torch.bool).scatter(1, torch.tensor(circuits), True)
    low = (sets[..., None, :] == masks).all(-1).any(-1)
    return sets.sum(-1).clamp(max=4) - low.long()


def test_graphic_is_spanning_tree():
    tree, matroid = SpanningTree(7), MatroidBases.graphic(SpanningTree(7).edge_index)
    u = 10 * torch.randn(20, 21, dtype=torch.float64)
    assert not matroid.hull.known
    assert torch.equal(tree.argmax(u), matroid.argmax(u))
    assert torch.allclose(tree.log_partition(u), matroid.log_partition(u))
    assert torch.allclose(
        sst.SoftArgmax(tree, EUCLIDEAN)(u, 5.0), sst.SoftArgmax(matroid, EUCLIDEAN)(u, 5.0), atol=1e-9
    )


@pytest.mark.parametrize("ties", [False, True])
def test_maximum_spanning_forests_are_networkxs(ties):
    matroid = MatroidBases.graphic(MULTIGRAPH)
    u = torch.randn(200, 9, dtype=torch.float64)
    u = u.round() if ties else u
    for weights, x in zip(u, matroid.argmax(u), strict=True):
        graph = nx.MultiGraph()
        ends = MULTIGRAPH.T.tolist()
        graph.add_weighted_edges_from([(i, j, w) for (i, j), w in zip(ends, weights.tolist(), strict=True)])
        assert float(weights @ x) == pytest.approx(nx.maximum_spanning_tree(graph).size(weight="weight"))


def test_spanning_forests_are_counted():
    """A triangle with one edge doubled and a bridge, 5, times a triangle, 3; the loop is in none."""
    matroid = MatroidBases.graphic(MULTIGRAPH)
    count = matroid.log_partition(torch.zeros(9, dtype=torch.float64)).exp()
    assert float(count) == pytest.approx(15)
    assert len(matroid.vertices()) == 15
    assert matroid.vertices()[:, 5].sum() == 0


def test_partition_is_a_product_of_subsets():
    groups = torch.arange(40) % 3
    matroid = MatroidBases.partition(groups, torch.tensor([4, 0, 20]))
    u = 3 * torch.randn(5, 40, dtype=torch.float64)
    x, total = sst.SoftArgmax(matroid, EUCLIDEAN)(u), 0
    for group, k in ((0, 4), (1, 0), (2, 13)):  # a capacity beyond the group's size takes all of it
        part = u[:, groups == group]
        total = total + KSubset(part.shape[1], k).log_partition(part)
        assert torch.allclose(x[:, groups == group], bisection(part, k, "Euclidean"), atol=1e-9)
    assert torch.allclose(matroid.log_partition(u), total)
    assert matroid.size == 17


@pytest.mark.parametrize("regularizer", [EUCLIDEAN, sst.BinaryEntropy(), EXPONENTIAL], ids=repr)
def test_uniform_is_k_subset(regularizer):
    u = torch.randn(4, 30, dtype=torch.float64)
    matroid, subset = MatroidBases.uniform(30, 11), KSubset(30, 11)
    assert torch.equal(matroid.argmax(u), subset.argmax(u))
    soft, other = sst.SoftArgmax(matroid, regularizer), sst.SoftArgmax(subset, regularizer)
    assert torch.allclose(soft(u, 0.3), other(u, 0.3), atol=1e-8)


@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0, 1000.0])
@pytest.mark.parametrize(
    "make",
    [
        lambda: MatroidBases.graphic(MULTIGRAPH),
        lambda: MatroidBases.partition(torch.tensor([0, 0, 0, 1, 1, 2]), [2, 1, 1]),
        lambda: MatroidBases(8, vamos_rank),
    ],
)
def test_marginals_at_every_scale(make, scale):
    matroid = make()
    u = (scale * torch.randn(20, matroid.n)).double()
    soft, truth = sst.SoftArgmax(matroid, EXPONENTIAL), marginals(matroid, u)
    assert float((soft(u) - truth).abs().max()) < 1e-10
    assert float((soft(u.float()).double() - truth).abs().max()) < 1e-5


@pytest.mark.parametrize("scale", [1.0, 100.0, 1e4])
def test_parallel_edges_compete_in_float32(scale):
    matroid = MatroidBases.graphic(torch.tensor([[0, 0, 1, 1, 2], [1, 1, 2, 2, 0]]))
    u = scale * torch.randn(200, 5)
    u[:, 1], u[:, 3] = u[:, 0] + torch.randn(200), u[:, 2] + torch.randn(200)
    x = sst.SoftArgmax(matroid, EXPONENTIAL)(u)
    assert float((x.double() - marginals(matroid, u.double())).abs().max()) < 1e-6


def test_vamos():
    """Of the 70 sets of four, five are circuits; its hull needs them and the bounds."""
    matroid = MatroidBases(8, vamos_rank)
    assert len(matroid.vertices()) == 65
    sst.check(matroid, [EUCLIDEAN, sst.BinaryEntropy()], verbose=False).raise_if_failed()


def test_only_inseparable_flats_are_in_the_hull():
    """Uniform by oracle: no rows but the bounds. The cycle of 4: x <= 1 (single edges). K4: edges and triangles."""
    uniform = MatroidBases(7, lambda s: s.sum(-1).clamp(max=3))
    assert uniform.constraints[-1].shape == (7,)
    cycle = MatroidBases(4, MatroidBases.graphic(torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]])).rank)
    assert cycle.constraints[-1].shape == (4,)
    complete = MatroidBases(6, MatroidBases.graphic(SpanningTree(4).edge_index).rank)
    assert complete.constraints[-1].shape == (10,)


class TestLarge:
    """No hull, no list of bases: what the argmax gives."""

    matroid = MatroidBases(24, binary_matroid(9, 24))

    def test_greedy_is_best(self):
        """Exchange: no swap of one element for another makes a better basis."""
        u = torch.randn(3, 24, dtype=torch.float64)
        for utilities, x in zip(u, self.matroid.argmax(u), strict=True):
            inside, outside = torch.nonzero(x > 0).flatten(), torch.nonzero(x == 0).flatten()
            assert len(inside) == self.matroid.size == int(self.matroid.rank(x > 0))
            for i, j in itertools.product(inside.tolist(), outside.tolist()):
                swapped = x > 0
                swapped[i], swapped[j] = False, True
                if int(self.matroid.rank(swapped)) == self.matroid.size:
                    assert utilities[i] >= utilities[j]

    def test_euclidean(self):
        soft = sst.SoftArgmax(self.matroid, EUCLIDEAN)
        u = torch.randn(2, 24, dtype=torch.float64, requires_grad=True)
        x = soft(u, 0.5)
        assert soft.path == "active_set"
        assert soft.gap(u, x, 0.5).abs().max() < 1e-12
        (g,) = torch.autograd.grad(x.square().sum(), u)
        assert torch.isfinite(g).all()

    def test_what_is_refused(self):
        with pytest.raises(ValueError, match=r"too many to sum over \(limit 20000\)"):
            sst.SoftArgmax(self.matroid, EXPONENTIAL)
        with pytest.raises(ValueError, match="the layer needs a hull"):
            sst.SoftArgmax(self.matroid, sst.BinaryEntropy())
        with pytest.raises(ValueError, match="too many to list"):
            self.matroid.vertices()

    def test_check_does_what_can_be_done(self):
        report = sst.check(MatroidBases.graphic(SpanningTree(6).edge_index), temperatures=(0.5,), verbose=False)
        report.raise_if_failed()
        assert any("ExponentialFamilyEntropy" in r.name and r.ok for r in report.results)


class TestRefusals:
    @pytest.mark.parametrize("n", [6, 20])
    @pytest.mark.parametrize(
        ("rank", "message"),
        [
            (lambda s: s.sum(-1) + 1, r"the empty set has rank 1, not 0"),
            (lambda s: 2 * s.sum(-1), r"must rise by 0 or 1 with one more element, but .* has rank"),
            (lambda s: (s.sum(-1) - 1).clamp(min=0), r"must be submodular.*but .* has rank \d+ and .* has rank \d+"),
        ],
    )
    def test_no_matroid(self, n, rank, message):
        with pytest.raises(ValueError, match=message):
            MatroidBases(n, rank)

    def test_violating_sets_are_named(self):
        """Pairs are independent but {0, 1} and {0, 2}; then {1, 2} cannot be."""
        pairs = torch.tensor([[1, 1, 0], [1, 0, 1]], dtype=torch.bool)

        def rank(sets):
            return sets.sum(-1).clamp(max=2) - (sets[..., None, :] == pairs).all(-1).any(-1).long()

        with pytest.raises(ValueError, match=r"\[0, 1\] has rank 1 and \[0, 2\] has rank 1"):
            MatroidBases(3, rank)

    def test_oracles(self):
        with pytest.raises(TypeError, match="rank must be a function"):
            MatroidBases(3, 2)
        with pytest.raises(TypeError, match=r"integer tensor, got torch\.float32"):
            MatroidBases(3, lambda s: s.sum(-1).float())
        with pytest.raises(ValueError, match=r"rank must map sets"):
            MatroidBases(3, lambda s: s.sum(-1, keepdim=True))

    def test_families(self):
        with pytest.raises(ValueError, match="k must be between 0 and 3"):
            MatroidBases.uniform(3, 4)
        with pytest.raises(TypeError, match="groups must be an integer tensor"):
            MatroidBases.partition(torch.zeros(3), [1])
        with pytest.raises(ValueError, match="groups name group 2, but there are 2 capacities"):
            MatroidBases.partition(torch.tensor([0, 2]), [1, 1])
        with pytest.raises(TypeError, match="edge_index must be an integer tensor"):
            MatroidBases.graphic(torch.zeros(2, 3))


def test_loops_and_coloops():
    """A graph of loops has one basis, the empty one; a tree has one, everything."""
    loops = MatroidBases.graphic(torch.tensor([[0, 1], [0, 1]]))
    tree = MatroidBases.graphic(torch.tensor([[0, 1], [1, 2]]))
    u = torch.randn(3, 2, dtype=torch.float64)
    for matroid, value in ((loops, 0.0), (tree, 1.0)):
        for regularizer in (EUCLIDEAN, EXPONENTIAL, sst.BinaryEntropy()):
            assert torch.allclose(sst.SoftArgmax(matroid, regularizer)(u), torch.full_like(u, value), atol=1e-9)
    assert torch.equal(polytopes.MatroidBases.uniform(2, 0).argmax(u), torch.zeros_like(u))
