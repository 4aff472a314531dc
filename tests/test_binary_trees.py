"""Binary constituency trees: against the list of all of them, and torch-struct."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import polytopes
import sst_cvx as sst
from sst_cvx import native
from sst_cvx.errors import SolveError


def bracketings(i: int, j: int) -> list[list[tuple[int, int]]]:
    """The spans of every binary tree over leaves i..j."""
    if i == j:
        return [[(i, i)]]
    return [
        [(i, j), *left, *right] for k in range(i, j) for left in bracketings(i, k) for right in bracketings(k + 1, j)
    ]


def listed(n: int, labels: int) -> torch.Tensor:
    rows = []
    for spans in bracketings(0, n - 1):
        for choice in itertools.product(range(labels), repeat=len(spans)):
            row = torch.zeros(n, n, labels, dtype=torch.float64)
            for (i, j), c in zip(spans, choice, strict=True):
                row[i, j, c] = 1.0
            rows.append(row)
    return torch.stack(rows)


def utilities(structure: sst.Structure, *batch: int, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*batch, *structure.event_shape, dtype=torch.float64, generator=generator)


SIZES = [(1, 1), (1, 3), (2, 1), (2, 2), (3, 2), (4, 1), (5, 1)]


@pytest.mark.parametrize(("n", "labels"), SIZES)
def test_answers_are_those_of_the_list(n, labels):
    structure = polytopes.BinaryTree(n, labels)
    rows = listed(n, labels).flatten(1)
    assert sorted(rows.tolist()) == sorted(structure.vertices().flatten(1).tolist())
    for compiled, scale in itertools.product((True, False), (1e-6, 1.0, 1000.0)):
        with native.switched(compiled):
            u = utilities(structure, 5, scale=scale)
            scores, room = u.flatten(1) @ rows.T, 1e-10 * max(scale, 1.0)
            torch.testing.assert_close(structure.log_partition(u), scores.logsumexp(-1), rtol=0, atol=room)
            best = (u * structure.argmax(u)).flatten(1).sum(-1)
            torch.testing.assert_close(best, scores.amax(-1), rtol=0, atol=room)
            marginals = structure.marginals(u).flatten(1)
            torch.testing.assert_close(marginals, scores.softmax(-1) @ rows, rtol=0, atol=1e-10)


def test_there_are_catalan_many_of_every_labelling():
    for n, labels in ((7, 1), (10, 1), (5, 3)):
        catalan = math.comb(2 * n - 2, n - 1) // n
        assert polytopes.BinaryTree(n, labels)._graph.count() == catalan * labels ** (2 * n - 1)


def test_padded_sentences_are_shorter_ones():
    structure, lengths = polytopes.BinaryTree(5, 2), torch.tensor([5, 3, 1, 2, 0])
    mask, u = structure.length_mask(lengths), utilities(structure, 5)
    assert mask.shape == u.shape
    assert mask[1].sum() == 6 * 2
    soft = sst.SoftArgmax(structure, sst.ExponentialFamilyEntropy())
    x, hard, values = soft(u, mask=mask), structure.masked_argmax(u, mask), structure.masked_log_partition(u, mask)
    for row, length in enumerate(lengths.tolist()):
        assert not bool(torch.stack([x[row], hard[row]])[:, ~mask[row]].any())
        if length == 0:
            assert float(values[row]) == 0.0
            continue
        short, part = polytopes.BinaryTree(length, 2), u[row, :length, :length]
        torch.testing.assert_close(x[row, :length, :length], short.marginals(part), rtol=0, atol=1e-12)
        torch.testing.assert_close(values[row], short.log_partition(part), rtol=0, atol=1e-11)
        assert torch.equal(hard[row, :length, :length], short.argmax(part))


def test_leaves_are_left_out_at_both_ends_and_not_in_between():
    structure = polytopes.BinaryTree(6, 2)
    u = utilities(structure)
    for first, last in itertools.combinations_with_replacement(range(6), 2):
        leaves = torch.arange(6)
        here = (leaves >= first) & (leaves <= last)
        mask = (here[:, None] & here)[..., None].expand(6, 6, 2)
        x, run = structure.masked_argmax(u, mask), slice(first, last + 1)
        short = polytopes.BinaryTree(last - first + 1, 2)
        assert torch.equal(x[run, run], short.argmax(u[run, run]))
        value = structure.masked_log_partition(u, mask)
        torch.testing.assert_close(value, short.log_partition(u[run, run]), rtol=0, atol=1e-11)
        completed = structure.with_fillers(x, structure.check_mask(mask, x.shape))
        assert torch.equal(structure.argmax(completed), completed)  # a tree
    here = torch.tensor([True, True, False, True, True, True])
    with pytest.raises(SolveError, match="forbidden"):
        structure.masked_argmax(u, (here[:, None] & here)[..., None])


def test_utilities_below_the_diagonal_do_not_count():
    structure = polytopes.BinaryTree(4, 2)
    u = utilities(structure, 3)
    other = torch.where(torch.ones(4, 4).triu()[..., None] > 0, u, 1e3)
    for answer in (structure.log_partition, structure.marginals, structure.argmax):
        assert torch.equal(answer(u), answer(other))


def test_float32_at_large_utilities():
    structure = polytopes.BinaryTree(12, 3)
    u = utilities(structure, 4, scale=1000.0).float()
    assert structure.marginals(u).dtype == torch.float32
    torch.testing.assert_close(structure.marginals(u).double(), structure.marginals(u.double()), rtol=0, atol=1e-5)
    value = structure.log_partition(u.double())
    torch.testing.assert_close(structure.log_partition(u).double(), value, rtol=1e-6, atol=0)


def test_samples_have_their_probabilities():
    structure, draws = polytopes.BinaryTree(3, 2), 20_000
    rows, u = listed(3, 2), utilities(structure)
    exact = (rows * u).flatten(1).sum(1).softmax(0)
    for compiled in (True, False):
        with native.switched(compiled):
            x = structure.sample(u.expand(draws, -1, -1, -1), torch.Generator().manual_seed(1))
        which = (x.flatten(1)[:, None] == rows.flatten(1)).all(-1)
        assert bool((which.sum(1) == 1).all())
        error = (which.double().mean(0) - exact).abs() / (exact * (1 - exact) / draws).sqrt()
        assert float(error.max()) < 5  # standard errors


def test_bad_sizes_are_refused():
    for sizes, name in (((0,), "n"), ((2, 0), "labels")):
        with pytest.raises(ValueError, match=f"{name} must"):
            polytopes.BinaryTree(*sizes)


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.filterwarnings("ignore")
def test_it_is_torch_structs(labels):
    peer = pytest.importorskip("torch_struct")
    structure = polytopes.BinaryTree(7, labels)
    u = utilities(structure, 3)
    theirs = peer.TreeCRF(u.clone().requires_grad_() * 1)
    torch.testing.assert_close(structure.log_partition(u), theirs.partition.detach(), rtol=0, atol=1e-10)
    torch.testing.assert_close(structure.marginals(u), theirs.marginals.detach(), rtol=0, atol=1e-10)
    torch.testing.assert_close(structure.argmax(u), theirs.argmax.detach(), rtol=0, atol=1e-10)
