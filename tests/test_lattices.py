"""Dynamic programs by name, and their budgets, against elements listed by brute force and recursions of the field."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import polytopes
import sst_cvx as sst
from polytopes.lattice import Lattice
from sst_cvx import native

# -- elements by brute force, as sets of items ------------------------------------------------------------------


def segmentations(n, labels, max_length):
    for count in range(1, n + 1):
        for lengths in itertools.product(range(1, max_length + 1), repeat=count):
            if sum(lengths) == n:
                starts = np.cumsum([0, *lengths[:-1]]).tolist()
                for chosen in itertools.product(range(labels), repeat=count):
                    yield [(i, d - 1, c) for i, d, c in zip(starts, lengths, chosen, strict=True)]


def ways(n, m, start):
    """Cells and operations of all ways from a cell, by (end, items)."""
    for length in range(n + m - 1):
        for operations in itertools.product(range(3), repeat=length):
            i, j, items = *start, [(*start, 1)]
            for o in operations:
                i, j = i + (o > 0), j + (o < 2)
                items.append((i, j, o))
            if i < n and j < m:
                yield (i, j), items


def alignments(n, m, kind):
    if kind == "local":
        yield []
        for start in itertools.product(range(n), range(m)):
            yield from (items for _, items in ways(n, m, start) if items[-1][2] == 1)
        return
    for end, items in ways(n, m, (0, 0)):
        if end == (n - 1, m - 1):
            yield items if kind == "global" else [item[:2] for item in items]


def labellings(target, n, symbols, blank=0):
    for frames in itertools.product(range(symbols), repeat=n):
        if [s for s, _ in itertools.groupby(frames) if s != blank] == list(target):
            yield list(enumerate(frames))


def sequences(n, labels):
    for chosen in itertools.product(range(labels), repeat=n):
        yield [(i, a, b) for i, (a, b) in enumerate(itertools.pairwise(chosen))]


def arrays(elements, shape):
    elements = list(elements)
    x = torch.zeros(len(elements), *shape, dtype=torch.float64)
    for row, items in zip(x, elements, strict=True):
        for item in items:
            row[item] = 1.0
    return x


def case(name, *args):
    listed = {"SemiMarkov": segmentations, "Alignment": alignments, "ConnectionistTemporal": labellings}.get(
        name, sequences
    )
    structure = getattr(polytopes, name)(*args)
    return pytest.param(structure, arrays(listed(*args), structure.event_shape), id=repr(structure))


KINDS = ("global", "local", "warping")
CASES = [
    case("SemiMarkov", 1, 1, 1),
    case("SemiMarkov", 1, 3, 1),
    case("SemiMarkov", 4, 2, 1),
    case("SemiMarkov", 5, 2, 3),
    *(
        case("Alignment", *size, kind)
        for kind in ("global", "local", "warping")
        for size in ((1, 1), (1, 3), (3, 2), (3, 3))
    ),
    case("ConnectionistTemporal", [], 1, 1),
    case("ConnectionistTemporal", [], 3, 2),
    case("ConnectionistTemporal", [1], 1, 2),
    case("ConnectionistTemporal", [1, 1], 3, 2),
    case("ConnectionistTemporal", [0, 1, 1], 5, 3, 2),
]


def listed(x):
    return sorted(map(tuple, x.flatten(1).tolist()))


def agrees(structure, elements, tolerance=1e-10):
    """Elements, best element, log-partition and marginals, those of a list."""
    assert listed(structure.vertices()) == listed(elements)
    u = torch.randn(2, 3, *structure.event_shape, dtype=torch.float64)
    scores = u.flatten(2) @ elements.flatten(1).T
    torch.testing.assert_close((u * structure.argmax(u)).flatten(2).sum(-1), scores.amax(-1), rtol=0, atol=tolerance)
    assert set(listed(structure.argmax(u).flatten(0, 1))) <= set(listed(elements))
    torch.testing.assert_close(structure.log_partition(u), scores.logsumexp(-1), rtol=0, atol=tolerance)
    x = sst.SoftArgmax(structure, sst.ExponentialFamilyEntropy())(u)
    exact = torch.einsum("abv,v...->ab...", scores.softmax(-1), elements)
    torch.testing.assert_close(x, exact, rtol=0, atol=tolerance)
    assert float(structure.violation(elements.flatten(1)).max()) <= 1e-12
    assert structure.log_partition(u[:0]).shape == (0, 3)


@pytest.mark.parametrize(("structure", "elements"), CASES)
def test_lattices_are_their_enumeration(structure, elements):
    agrees(structure, elements)
    with native.switched(False):
        agrees(structure, elements)


@pytest.mark.parametrize(("structure", "elements"), [CASES[2], CASES[6], CASES[10], CASES[14], CASES[-2]])
def test_derivatives_and_low_precision(structure, elements):
    u = torch.randn(2, *structure.event_shape, dtype=torch.float64, requires_grad=True)
    soft = sst.SoftArgmax(structure, sst.ExponentialFamilyEntropy())
    assert torch.autograd.gradcheck(structure.log_partition, u)
    assert torch.autograd.gradcheck(soft, u)
    assert torch.autograd.gradgradcheck(soft, u)
    rough = 1000 * torch.randn(6, *structure.event_shape)
    scores = rough.double().flatten(1) @ elements.flatten(1).T
    exact = (scores.softmax(-1) @ elements.flatten(1)).reshape(rough.shape)
    torch.testing.assert_close(soft(rough).double(), exact, rtol=0, atol=1e-5)
    value = structure.log_partition(rough)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), scores.logsumexp(-1), rtol=1e-5, atol=1e-5)


# -- budgets ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("structure", "elements"),
    [CASES[3], CASES[7], CASES[10], CASES[15], CASES[-1], case("Chain", 4, 3), case("Chain", 2, 2)],
)
def test_budgets_are_what_keeps_them(structure, elements):
    generator, budgets = torch.Generator().manual_seed(3), []
    for _ in range(2):
        costs, more = torch.randint(0, 4, (2, *structure.event_shape), generator=generator)
        spent, also = ((elements * c).flatten(1).sum(1).long() for c in (costs, more))
        low, high = sorted(spent[torch.randint(len(spent), (2,), generator=generator)].tolist())
        for at_least, at_most in ((0, high), (low, high), (low, low), (low, None), (0, None), (0, 10**6)):
            budget = structure.budget(costs, at_most, at_least)
            kept = (spent >= at_least) & (spent <= (10**9 if at_most is None else at_most))
            assert listed(budget.vertices()) == listed(elements[kept])
            limit = int(also[kept].min())
            twice = budget.budget(more, at_most=limit)
            assert listed(twice.vertices()) == listed(elements[kept & (also <= limit)])
            assert bool((budget.violation(elements[~kept].flatten(1)) > 0).all())
            budgets += [(budget, kept), (twice, kept & (also <= limit))]
    for budget, kept in budgets[-6:]:
        agrees(budget, elements[kept])


def test_budgets_that_nothing_keeps_or_that_are_none():
    structure = polytopes.SemiMarkov(4, 2, 2)
    one = torch.ones(structure.event_shape, dtype=torch.long)
    for at_most, at_least in ((1, 0), (9, 5), (None, 5)):
        with pytest.raises(ValueError, match=r"no element of SemiMarkov.*keeps the budget"):
            structure.budget(one, at_most, at_least)
    with pytest.raises(ValueError, match="no element"):
        structure.budget(2 * one, 5, 5)  # only even sums
    with pytest.raises(ValueError, match=r"event's shape \(4, 2, 2\)"):
        structure.budget(one[0], 1)
    with pytest.raises(ValueError, match="negative"):
        structure.budget(-one, 1)
    with pytest.raises(TypeError, match="integer or bool"):
        structure.budget(one.double(), 1)
    with pytest.raises(ValueError, match="at_most must be at least 3"):
        structure.budget(one, 2, 3)
    assert structure.budget(one, 2) == structure.budget(one, 2) != structure.budget(one, 3)
    assert len(structure.budget(one == 1, 2).vertices()) == 4


def test_a_budget_that_binds_nothing_costs_nothing():
    """Costs from which every end is within the bounds are one vertex."""
    structure = polytopes.SemiMarkov(20, 2, 4)
    costs = torch.randint(0, 3, structure.event_shape)
    free = structure.budget(costs, at_most=10**9)
    assert free._graph.edges == int(structure._graph.live.sum())
    at_least = structure.budget(costs, at_least=3)
    assert at_least._graph.edges <= 4 * free._graph.edges


def test_padding_that_costs_is_refused():
    structure = polytopes.SemiMarkov(5, 2, 2)
    mask = structure.length_mask(torch.tensor([3]))
    u = torch.randn(1, *structure.event_shape, dtype=torch.float64)
    second = torch.zeros(structure.event_shape, dtype=torch.long)
    second[..., 1] = 1  # at most one segment of label 1; padding is of label 0
    shorter = polytopes.SemiMarkov(3, 2, 2).budget(second[:3], at_most=1)
    x = structure.budget(second, at_most=1).masked_argmax(u, mask)
    assert torch.equal(x[:, :3], shorter.argmax(torch.where(mask, u, 0.0)[:, :3]))
    with pytest.raises(sst.SolveError, match="no element"):
        structure.budget(1 - second, at_most=1).masked_argmax(u, mask)
    chain = polytopes.Chain(4, 2)
    steady = chain.budget(1 - torch.eye(2, dtype=torch.long).expand(3, 2, 2), at_most=1)
    u = torch.randn(1, *chain.event_shape, dtype=torch.float64)
    for f in (sst.Euclidean(), sst.ExponentialFamilyEntropy()):
        with pytest.raises(sst.SolveError, match="no element"):
            sst.SoftArgmax(steady, f)(u, mask=steady.length_mask(torch.tensor([2])))
    forbidden = torch.ones(chain.event_shape, dtype=torch.bool)
    forbidden[1, 0, 1] = False
    left = steady.vertices()[steady.vertices()[:, 1, 0, 1] == 0]
    scores = (left * u).flatten(1).sum(1)
    torch.testing.assert_close(steady.masked_log_partition(u, forbidden)[0], scores.logsumexp(0))


# -- shorter sequences ------------------------------------------------------------------------------------------


def shorter(structure, lengths):
    name = type(structure).__name__
    if name == "SemiMarkov":
        (n,) = lengths
        return polytopes.SemiMarkov(n, structure.labels, min(n, structure.max_length))
    if name == "Alignment":
        n, m = lengths
        return polytopes.Alignment(n, m, structure.kind)
    return polytopes.ConnectionistTemporal(structure.target, lengths[0], structure.symbols, structure.blank)


PADDED = [
    (polytopes.SemiMarkov(5, 2, 3), [(1,), (2,), (4,), (5,)]),
    (polytopes.Alignment(4, 3), [(1, 1), (2, 3), (4, 2), (3, 1), (1, 3), (4, 3)]),
    (polytopes.Alignment(4, 3, "local"), [(1, 1), (2, 3), (4, 2), (4, 3)]),
    (polytopes.Alignment(4, 3, "warping"), [(1, 1), (2, 2), (3, 1), (3, 2), (1, 2), (4, 3)]),
    (polytopes.Alignment(3, 5, "warping"), [(1, 1), (2, 2), (1, 4), (2, 4), (3, 5)]),
    (polytopes.ConnectionistTemporal([1, 1], 6, 3, 2), [(3,), (4,), (6,)]),
]


def same_as_smaller(structure, lengths, f):
    """Soft argmaxes of padded inputs, and nothing else in them."""
    u = torch.randn(len(lengths), *structure.event_shape, dtype=torch.float64)
    x = sst.SoftArgmax(structure, f)(u, mask=structure.length_mask(*torch.tensor(lengths).T))
    for answer, own, some in zip(x, u, lengths, strict=True):
        small = shorter(structure, some)
        part = tuple(slice(size) for size in small.event_shape)
        torch.testing.assert_close(answer[part], sst.SoftArgmax(small, f)(own[part]), rtol=0, atol=1e-6)
        answer[part] = 0.0
        assert not bool(answer.any())


@pytest.mark.parametrize(("structure", "lengths"), PADDED, ids=repr)
def test_padded_inputs_are_those_of_smaller_structures(structure, lengths):
    mask = structure.length_mask(*torch.tensor(lengths).T)
    u = torch.randn(len(lengths), *structure.event_shape, dtype=torch.float64)
    values, hard = structure.masked_log_partition(u, mask), structure.masked_argmax(u, mask)
    for row, some in enumerate(lengths):
        small = shorter(structure, some)
        part = tuple(slice(size) for size in small.event_shape)
        torch.testing.assert_close(values[row], small.log_partition(u[row][part]), rtol=0, atol=1e-10)
        assert torch.equal(hard[row][part], small.argmax(u[row][part]))
    same_as_smaller(structure, lengths, sst.ExponentialFamilyEntropy())


@pytest.mark.slow
@pytest.mark.parametrize(("structure", "lengths"), PADDED, ids=repr)
def test_padded_inputs_are_those_of_smaller_structures_by_the_interior_point(structure, lengths):
    same_as_smaller(structure, lengths, sst.Euclidean())


def test_lengths_that_cannot_be():
    with pytest.raises(ValueError, match="one more than the longest"):
        polytopes.Alignment(3, 3, "warping").length_mask(torch.tensor([2]), torch.tensor([3]))
    with pytest.raises(TypeError, match="integer"):
        polytopes.SemiMarkov(3, 1, 1).length_mask(torch.tensor([1.0]))
    with pytest.raises(ValueError, match="between 0 and 3"):
        polytopes.SemiMarkov(3, 1, 2).length_mask(torch.tensor([4]))
    structure = polytopes.ConnectionistTemporal([1, 1], 4, 2)
    with pytest.raises(sst.SolveError):
        structure.masked_argmax(torch.zeros(1, 4, 2), structure.length_mask(torch.tensor([2])))


# -- recursions of the field ------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [[], [1], [2, 2, 1], [3, 1, 2]])
def test_connectionist_temporal_is_ctc_loss(target):
    n, symbols, batch = 9, 4, 5
    structure = polytopes.ConnectionistTemporal(target, n, symbols)
    logits, v = torch.randn(batch, n, symbols, dtype=torch.float64, requires_grad=True), torch.rand(batch)
    lengths = torch.tensor([9, 9, 7, 6, 5])

    def theirs(logits):
        targets = torch.tensor([target] * batch, dtype=torch.long).reshape(batch, len(target))
        sizes = torch.full((batch,), len(target))
        frames = logits.log_softmax(-1).transpose(0, 1)
        return torch.nn.functional.ctc_loss(frames, targets, lengths, sizes, reduction="none")

    def ours(logits):
        return -structure.masked_log_partition(logits.log_softmax(-1), structure.length_mask(lengths))

    values, others = ours(logits), theirs(logits)
    torch.testing.assert_close(values, others, rtol=0, atol=1e-10)
    (mine,), (other,) = (torch.autograd.grad((a * v).sum(), logits) for a in (values, others))
    torch.testing.assert_close(mine, other, rtol=0, atol=1e-10)


def smooth_max(values, gamma):
    return gamma * torch.stack(values).div(gamma).logsumexp(0) if gamma else torch.stack(values).amax(0)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_warping_is_soft_dtw(gamma):
    """Cuturi and Blondel (2017), algorithm 1; their alignment matrix is its gradient."""
    cost = torch.rand(4, 5, dtype=torch.float64, requires_grad=True)
    structure = polytopes.Alignment(4, 5, "warping")
    far = torch.tensor(-torch.inf, dtype=torch.float64)
    r = {(-1, -1): torch.tensor(0.0, dtype=torch.float64)}
    for i, j in itertools.product(range(4), range(5)):
        before = [r.get(p, far) for p in ((i - 1, j), (i - 1, j - 1), (i, j - 1))]
        r[i, j] = smooth_max([b for b in before if float(b.detach()) > -torch.inf], gamma) - cost[i, j]
    (matrix,) = torch.autograd.grad(-r[3, 4], cost)
    if gamma:
        torch.testing.assert_close(gamma * structure.log_partition(-cost / gamma), r[3, 4], rtol=0, atol=1e-10)
        x = sst.SoftArgmax(structure, sst.ExponentialFamilyEntropy())(-cost, gamma)
    else:
        x = structure.argmax(-cost)
    torch.testing.assert_close(x, matrix, rtol=0, atol=1e-10)


def test_global_alignments_with_gaps_at_both_ends_are_needleman_and_wunsch():
    n, m = 4, 3
    match, gap_a, gap_b = torch.randn(n, m), torch.randn(m), torch.randn(n)  # scores of gaps by the item left alone
    best = {}
    for i, j in itertools.product(range(n + 1), range(m + 1)):
        ways = [best[i - 1, j - 1] + match[i - 1, j - 1]] if i and j else []
        ways += [best[i - 1, j] + gap_b[i - 1]] if i else []
        ways += [best[i, j - 1] + gap_a[j - 1]] if j else []
        best[i, j] = max(ways) if ways else torch.tensor(0.0)
    u = torch.zeros(n + 1, m + 1, 3)
    u[1:, 1:, 1], u[:, 1:, 0], u[1:, :, 2] = match, gap_a, gap_b[:, None]
    x = polytopes.Alignment(n + 1, m + 1).argmax(u)
    torch.testing.assert_close((x * u).sum(), best[n, m])


def test_local_alignments_are_smith_and_waterman():
    n, m = 6, 5
    match, gap = 2 * torch.randn(n, m), 0.5
    best = torch.zeros(n + 1, m + 1)
    for i, j in itertools.product(range(1, n + 1), range(1, m + 1)):
        around = best[i - 1, j - 1] + match[i - 1, j - 1], best[i - 1, j] - gap, best[i, j - 1] - gap
        best[i, j] = max(*around, torch.tensor(0.0))
    structure = polytopes.Alignment(n, m, "local")
    u = torch.full((n, m, 3), -gap)
    u[..., 1] = match
    torch.testing.assert_close((structure.argmax(u) * u).sum(), best.max())
    assert float(structure.argmax(-u.abs()).sum()) == 0  # nothing at all


@pytest.mark.filterwarnings("ignore:.*arg_constraints:UserWarning")
def test_semi_markov_is_torch_structs():
    """Theirs scores a segment by its label and the one before; the label before the first is any of them."""
    torch_struct = pytest.importorskip("torch_struct")
    n, labels, longest, batch = 7, 3, 3, 4
    structure = polytopes.SemiMarkov(n, labels, longest)
    u = torch.randn(batch, *structure.event_shape, dtype=torch.float64)
    full = torch.nn.functional.pad(u, (0, 0, 1, 0))[..., None].expand(-1, -1, -1, -1, labels)
    crf = torch_struct.SemiMarkovCRF(full.clone())
    torch.testing.assert_close(structure.log_partition(u) + np.log(labels), crf.partition, rtol=0, atol=1e-10)
    x = sst.SoftArgmax(structure, sst.ExponentialFamilyEntropy())(u)
    torch.testing.assert_close(x, crf.marginals.sum(-1)[:, :, 1:], rtol=0, atol=1e-10)
    assert torch.equal(structure.argmax(u), torch_struct.SemiMarkovCRF(full.clone()).argmax.sum(-1)[:, :, 1:])


# -- errors, and the base class ---------------------------------------------------------------------------------


def test_arguments():
    with pytest.raises(ValueError, match="max_length must be between 1 and 3"):
        polytopes.SemiMarkov(3, 1, 4)
    with pytest.raises(ValueError, match="kind must be"):
        polytopes.Alignment(2, 2, "semi")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="must not contain the blank"):
        polytopes.ConnectionistTemporal([0], 2, 2)
    with pytest.raises(ValueError, match="2 frames are too few"):
        polytopes.ConnectionistTemporal([1, 1], 2, 2)
    with pytest.raises(ValueError, match="target must be between 0 and 1"):
        polytopes.ConnectionistTemporal([2], 2, 2)


def test_what_an_abstract_base_gives_is_given():
    with pytest.raises(TypeError, match="is a base of structures"):
        Lattice((1,), np.array([0]), np.array([1]), np.array([0]), 0, 1)

    class Own(Lattice):
        def __init__(self):
            super().__init__((2,), np.array([0, 0]), np.array([1, 1]), np.array([0, 1]), 0, 1)

    class Below(Own):
        pass

    assert Own().overrides("argmax")
    assert Own().overrides("log_partition")
    assert not Own().overrides("with_fillers")
    assert not Below().overrides("argmax")  # what Own's hull says is not what a hull of its own would
    assert sst.SoftArgmax(Own(), sst.ExponentialFamilyEntropy()).path == "fast"
    with pytest.raises(TypeError, match="SemiMarkov is final"):
        type("Mine", (polytopes.SemiMarkov,), {})


def test_large_alignments_are_built_at_once():
    for kind in KINDS:
        structure = polytopes.Alignment(60, 50, kind)
        u = torch.randn(2, *structure.event_shape)
        assert "_declared" not in vars(structure)
        assert bool(torch.isfinite(structure.log_partition(u)).all())
        assert "_declared" not in vars(structure)


def test_elements_project_to_themselves_in_whatever_layout():
    """What argmax returns lies in memory by items first."""
    structure = polytopes.SemiMarkov(4, 2, 2)
    soft = sst.SoftArgmax(structure, sst.Euclidean(), path="active_set")
    v = structure.argmax(torch.randn(4, *structure.event_shape, dtype=torch.float64))
    strided = v.flatten(1).T.contiguous().T.reshape(v.shape)
    assert not strided.is_contiguous()
    for u in (v, strided, v.contiguous()):
        torch.testing.assert_close(soft(u, 1.0), v, rtol=0, atol=1e-12)
