"""Projective dependency trees: against lists of all head sequences, arborescences, and torch-struct."""

from __future__ import annotations

import itertools

import pytest
import torch

import polytopes
import sst_cvx as sst
from sst_cvx import native


def is_tree(parents: tuple[int, ...]) -> bool:
    """Whether the heads of words 1, 2, ... all lead to 0."""
    for v in range(1, len(parents) + 1):
        for _ in parents:
            v = parents[v - 1] if v else 0
        if v:
            return False
    return True


def is_projective(parents: tuple[int, ...]) -> bool:
    """Whether no two edges of a tree cross: (a, b) and (c, d) with a < c < b < d, the root's to the left of all."""
    spans = [tuple(sorted((head, word))) for word, head in enumerate(parents, 1)]
    return not any(a < c < b < d for (a, b), (c, d) in itertools.permutations(spans, 2))


def listed(structure: polytopes.ProjectiveTree) -> torch.Tensor:
    n, edges = structure.n, [tuple(e) for e in structure.edge_index.T.tolist()]
    rows = []
    for parents in itertools.product(*[[h for h in range(n) if h != v] for v in range(1, n)]):
        if is_tree(parents) and is_projective(parents) and not (structure.single_root and parents.count(0) > 1):
            chosen = {(head, word) for word, head in enumerate(parents, 1)}
            rows.append([float(edge in chosen) for edge in edges])
    return torch.tensor(rows, dtype=torch.float64)


def utilities(structure: sst.Structure, *batch: int, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*batch, *structure.event_shape, dtype=torch.float64, generator=generator)


SIZES = [(n, single_root) for n in (2, 3, 4, 5) for single_root in (False, True)]


@pytest.mark.parametrize(("n", "single_root"), SIZES)
def test_answers_are_those_of_the_list(n, single_root):
    structure = polytopes.ProjectiveTree(n, single_root)
    rows = listed(structure)
    assert sorted(rows.tolist()) == sorted(structure.vertices().tolist())
    for compiled, scale in itertools.product((True, False), (1e-6, 1.0, 1000.0)):
        with native.switched(compiled):
            u = utilities(structure, 5, scale=scale)
            scores, room = u @ rows.T, 1e-10 * max(scale, 1.0)
            torch.testing.assert_close(structure.log_partition(u), scores.logsumexp(-1), rtol=0, atol=room)
            torch.testing.assert_close((u * structure.argmax(u)).sum(-1), scores.amax(-1), rtol=0, atol=room)
            torch.testing.assert_close(structure.marginals(u), scores.softmax(-1) @ rows, rtol=0, atol=1e-10)


def test_there_are_as_many_as_ternary_trees():
    """1, 3, 12, 55, 273, ..., binom(3 m, m) / (2 m + 1) over m words (Yuret 1998)."""
    counts = [polytopes.ProjectiveTree(n)._graph.count() for n in range(2, 9)]
    assert counts == [1, 3, 12, 55, 273, 1428, 7752]
    assert [polytopes.ProjectiveTree(n, single_root=True)._graph.count() for n in range(2, 6)] == [1, 2, 7, 30]


@pytest.mark.parametrize("single_root", [False, True])
def test_a_best_arborescence_is_better_unless_it_is_projective(single_root):
    """And if it is, the same; event and edges are those of the arborescences."""
    for n in (3, 5, 7):
        structure = polytopes.ProjectiveTree(n, single_root)
        others = polytopes.Arborescence(n, single_root=single_root)
        assert torch.equal(structure.edge_index, others.edge_index)
        u = utilities(structure, 40, seed=n)
        x, y = structure.argmax(u), others.argmax(u)
        for ours, free, gain in zip(x, y, ((y - x) * u).sum(-1).tolist(), strict=True):
            assert gain >= -1e-12
            parents = [0] * (n - 1)
            for tail, head in structure.edge_index[:, free.bool()].T.tolist():
                parents[head - 1] = tail
            assert is_projective(tuple(parents)) == torch.equal(ours, free) == (gain < 1e-12)


@pytest.mark.parametrize("single_root", [False, True])
def test_padded_sentences_are_shorter_ones(single_root):
    structure, lengths = polytopes.ProjectiveTree(6, single_root), torch.tensor([6, 4, 2, 3, 1])
    mask, u = structure.length_mask(lengths), utilities(structure, 5)
    assert torch.equal(mask, polytopes.Arborescence(6).length_mask(lengths))
    soft = sst.SoftArgmax(structure, sst.ExponentialFamilyEntropy())
    x, hard, values = soft(u, mask=mask), structure.masked_argmax(u, mask), structure.masked_log_partition(u, mask)
    for row, length in enumerate(lengths.tolist()):
        here = mask[row]
        assert not bool(torch.stack([x[row], hard[row]])[:, ~here].any())
        if length == 1:
            assert float(values[row]) == 0.0
            continue
        short = polytopes.ProjectiveTree(length, single_root)
        torch.testing.assert_close(x[row][here], short.marginals(u[row][here]), rtol=0, atol=1e-12)
        torch.testing.assert_close(values[row], short.log_partition(u[row][here]), rtol=0, atol=1e-11)
        assert torch.equal(hard[row][here], short.argmax(u[row][here]))


@pytest.mark.parametrize("single_root", [False, True])
def test_words_are_left_out_anywhere(single_root):
    """Of every set of words that a mask leaves: the trees over these alone, in their order."""
    structure = polytopes.ProjectiveTree(5, single_root)
    tails, heads = structure.edge_index
    u = utilities(structure)
    for words in itertools.chain(*(itertools.combinations(range(1, 5), k) for k in range(1, 5))):
        kept = torch.tensor([0, *words])
        mask = torch.isin(tails, kept) & torch.isin(heads, kept)
        short = polytopes.ProjectiveTree(len(kept), single_root)
        x = structure.masked_argmax(u, mask)
        assert torch.equal(x[mask], short.argmax(u[mask]))
        value = structure.masked_log_partition(u, mask)
        torch.testing.assert_close(value, short.log_partition(u[mask]), rtol=0, atol=1e-11)
        completed = structure.with_fillers(x, structure.check_mask(mask, x.shape))
        assert torch.equal(structure.argmax(completed), completed)  # a tree


@pytest.mark.parametrize("single_root", [False, True])
def test_float32_at_large_utilities(single_root):
    structure = polytopes.ProjectiveTree(12, single_root)
    u = utilities(structure, 4, scale=1000.0).float()
    exact = structure.marginals(u.double())
    assert structure.marginals(u).dtype == torch.float32
    torch.testing.assert_close(structure.marginals(u).double(), exact, rtol=0, atol=1e-5)
    value = structure.log_partition(u.double())
    torch.testing.assert_close(structure.log_partition(u).double(), value, rtol=1e-6, atol=0)


def test_samples_have_their_probabilities():
    structure, draws = polytopes.ProjectiveTree(4), 20_000
    rows, u = listed(structure), utilities(structure)
    exact = (rows @ u).softmax(0)
    for compiled in (True, False):
        with native.switched(compiled):
            x = structure.sample(u.expand(draws, -1), torch.Generator().manual_seed(1))
        which = (x[:, None] == rows).all(-1)
        assert bool((which.sum(1) == 1).all())
        error = (which.double().mean(0) - exact).abs() / (exact * (1 - exact) / draws).sqrt()
        assert float(error.max()) < 5  # standard errors


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="n must"):
        polytopes.ProjectiveTree(1)
    with pytest.raises(TypeError, match="n must"):
        polytopes.ProjectiveTree(3.0)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("single_root", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_it_is_torch_structs(single_root):
    """Whose potentials ``(words, words)`` have the root's edges on the diagonal."""
    peer = pytest.importorskip("torch_struct")
    structure = polytopes.ProjectiveTree(8, single_root)
    tails, heads = structure.edge_index
    dense = torch.randn(3, 7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    place = torch.where(tails == 0, heads, tails) - 1, heads - 1
    u = dense[:, place[0], place[1]]
    theirs = peer.DependencyCRF(dense.clone().requires_grad_() * 1, multiroot=not single_root)
    torch.testing.assert_close(structure.log_partition(u), theirs.partition.detach(), rtol=0, atol=1e-10)
    marginals, best = (x.detach()[:, place[0], place[1]] for x in (theirs.marginals, theirs.argmax))
    torch.testing.assert_close(structure.marginals(u), marginals, rtol=0, atol=1e-10)
    torch.testing.assert_close(structure.argmax(u), best, rtol=0, atol=1e-10)
