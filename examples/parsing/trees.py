"""Trees over a sentence on the library's public face: losses, marginals, decoders, for sentences of any length.

Scores are ``(B, n, n)``, of arcs from a head (dimension 1) to a dependent (dimension 2); place 0 is the root. Sentences
are padded to n places and ``lengths`` ``(B,)`` count the root. One structure for every n is made when it is needed.
"""

from __future__ import annotations

import functools

import torch

import polytopes
import sst_cvx as sst

# "heads": every word chooses its head by itself, as Dozat and Manning train.
KINDS = ("arborescence", "projective", "heads")
REGULARIZERS = {"exponential": sst.ExponentialFamilyEntropy, "euclidean": sst.Euclidean}
DECODERS = ("greedy", "projective", "arborescence")


@functools.lru_cache(maxsize=256)
def structure(kind: str, n: int) -> sst.Structure:
    """All trees over n places with one arc out of the root; for "heads", the choices of one word."""
    if kind == "heads":
        return polytopes.OneHot(n)
    if kind == "projective":
        return polytopes.ProjectiveTree(n, single_root=True)
    return polytopes.Arborescence(n, single_root=True)


@functools.lru_cache(maxsize=256)
def _soft(kind: str, regularizer: str, n: int) -> sst.SoftArgmax:
    return sst.SoftArgmax(structure(kind, n), REGULARIZERS[regularizer]())


def _utilities(kind: str, scores: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Utilities in the order of the structure's event, and the mask of what is inside the sentences."""
    n = scores.shape[-1]
    if kind == "heads":  # a row a word
        place = torch.arange(n)
        mask = (place < lengths[:, None])[:, None] & (place[:, None] != place)
        return scores.mT[_words(lengths, n)], mask[_words(lengths, n)]
    trees = structure(kind, n)
    heads, dependents = trees.edge_index
    return scores[:, heads, dependents], trees.length_mask(lengths)


def _words(lengths: torch.Tensor, n: int) -> torch.Tensor:
    """``(B, n)`` bool: neither the root nor padding."""
    place = torch.arange(n)
    return (place > 0) & (place < lengths[:, None])


def _targets(kind: str, heads: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Gold trees as events, of 0 and 1."""
    n = heads.shape[-1]
    if kind == "heads":
        return torch.nn.functional.one_hot(heads[_words(lengths, n)], n).float()
    tails, ends = structure(kind, n).edge_index
    return ((heads[:, ends] == tails) & (ends < lengths[:, None])).float()


def _dense(kind: str, event: torch.Tensor, lengths: torch.Tensor, n: int) -> torch.Tensor:
    """Events as ``(B, n, n)``, of heads and dependents."""
    dense = event.new_zeros(len(lengths), n, n)
    if kind == "heads":
        dense[_words(lengths, n)] = event
        return dense.mT
    heads, dependents = structure(kind, n).edge_index
    dense[:, heads, dependents] = event
    return dense


def arc_loss(
    kind: str, regularizer: str, scores: torch.Tensor, heads: torch.Tensor, lengths: torch.Tensor
) -> torch.Tensor:
    """Fenchel-Young loss of gold heads ``(B, n)``, a word: SparseMAP's (Euclidean), or a CRF's (exponential family)."""
    u, mask = _utilities(kind, scores, lengths)
    loss = sst.FenchelYoungLoss(_soft(kind, regularizer, scores.shape[-1]), reduction="sum")
    return loss(u, _targets(kind, heads, lengths), mask=mask) / _words(lengths, scores.shape[-1]).sum()


@torch.no_grad()
def marginals(kind: str, regularizer: str, scores: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Soft argmax as ``(B, heads, dependents)``: probabilities of arcs; float64."""
    n = scores.shape[-1]
    u, mask = _utilities(kind, scores.double(), lengths)
    return _dense(kind, _soft(kind, regularizer, n)(u, mask=mask), lengths, n)


@torch.no_grad()
def shortfall(scores: torch.Tensor, x: torch.Tensor, heads: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """<u - x, x - y> ``(B,)`` for Euclidean solutions x ``(B, n, n)`` and gold trees y: 0 just for those in the
    ambiguity set, the trees of which x is a mixture.

    As x is the projection of u, no tree is better than x in direction u - x. All of the set are as good; others but
    for utilities of measure zero are not. Negative where y is no element, a crossing tree among projective ones.
    """
    n = scores.shape[-1]
    y = torch.nn.functional.one_hot(heads, n).to(x.dtype).mT * _words(lengths, n)[:, None]
    return ((scores.double() - x) * (x - y)).sum((1, 2))


@torch.no_grad()
def crossing(heads: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Which words' arcs cross another one, the root's, from before the first word, included: ``(B, n)`` bool."""
    word = torch.arange(heads.shape[1], device=heads.device)
    present = (word > 0) & (word < lengths[:, None])
    low, high = torch.minimum(heads, word), torch.maximum(heads, word)
    into = (low[:, :, None] < low[:, None]) & (low[:, None] < high[:, :, None]) & (high[:, :, None] < high[:, None])
    pairs = (into | into.mT) & present[:, :, None] & present[:, None]
    return pairs.any(-1)


def decode(decoder: str, scores: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Heads ``(B, n)``: of each word by itself ("greedy"), or of the best tree, with crossing arcs or without."""
    n, kind = scores.shape[-1], "heads" if decoder == "greedy" else decoder
    u, mask = _utilities(kind, scores.double(), lengths)
    best = structure(kind, n).argmax(u.masked_fill(~mask, -torch.inf))
    return _dense(kind, best, lengths, n).argmax(1)


def are_trees(heads: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """``(B,)`` bool: all words lead to the root, one of them by one arc."""
    reached, n = heads, heads.shape[-1]
    for _ in range((n - 1).bit_length()):
        reached = reached.gather(1, reached)
    return (reached == 0).all(1) & (((heads == 0) & _words(lengths, n)).sum(1) == 1)
