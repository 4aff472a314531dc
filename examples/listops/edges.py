"""Distributions over edges between vertices on the library's public face, for graphs of any size.

Scores are ``(B, n, n)``, of edges from a parent (dimension 1) to a child (dimension 2); vertex 0 is the root.
Graphs are padded to n vertices. One structure for every n is made when it is needed. All relaxations are
those of the exponential family: solutions are marginals (paper, section 3; appendix on trees).
"""

from __future__ import annotations

import functools

import torch
from torch.distributions import Distribution, Gumbel, Normal

import polytopes
import sst_cvx as sst

#: What is latent: nothing at all, each directed edge by itself, an undirected tree, an arborescence; or true edges.
KINDS = ("none", "independent", "tree", "arborescence", "true")
LATENT = ("independent", "tree", "arborescence")
#: Random utilities, each by the scores: Gumbel and Gaussian of this mean or location and scale 1; minus an exponential
#: cost of rate exp(score). A single edge compares two Gumbels: their difference is logistic.
UTILITIES = ("gumbel", "gaussian", "exponential")
_MOST = 30.0  # of a log-rate: means of exponential costs from 1e-13 to 1e13


@functools.lru_cache(maxsize=256)
def trees(kind: str, n: int) -> polytopes.SpanningTree | polytopes.Arborescence:
    """All trees over n vertices; independent edges are those of an arborescence, none into vertex 0."""
    return polytopes.SpanningTree(n) if kind == "tree" else polytopes.Arborescence(n)


def edge_index(kind: str, n: int) -> torch.Tensor:
    """Edges in the order of the event, ``(2, edges)``: parents first; of undirected ones, the earlier vertex."""
    return trees(kind, n).edge_index


@functools.lru_cache(maxsize=256)
def soft(kind: str, n: int) -> sst.SoftArgmax:
    """The relaxed choice of edges."""
    structure = polytopes.Hypercube(edge_index(kind, n).shape[1]) if kind == "independent" else trees(kind, n)
    return sst.SoftArgmax(structure, sst.ExponentialFamilyEntropy())


@functools.lru_cache(maxsize=256)
def _places(kind: str, n: int, device: torch.device) -> torch.Tensor:
    """Of the edges in a flat ``(n, n)``; of undirected ones both ways, ``(2 edges,)``."""
    parents, children = edge_index(kind, n)
    places = parents * n + children
    return (torch.cat([places, children * n + parents]) if kind == "tree" else places).to(device)


def mask(kind: str, lengths: torch.Tensor, n: int) -> torch.Tensor | None:
    """``(B, edges)`` bool: edges between vertices before the length; None where it is seen that nothing is padded."""
    if lengths.device.type == "cpu" and int(lengths.min()) == n:
        return None
    structure = soft(kind, n).structure
    if kind != "independent":
        return structure.length_mask(lengths)
    return sst.length_mask(lengths, n)[:, edge_index(kind, n)].all(1)


def utilities(kind: str, name: str, scores: torch.Tensor) -> Distribution:
    """Of every edge, ``(B, edges)``; scores of undirected edges are the mean of both directions."""
    n = scores.shape[-1]
    u = scores.flatten(1).index_select(1, _places(kind, n, scores.device))
    if kind == "tree":
        u = u.unflatten(1, (2, -1)).mean(1)
    one = torch.ones_like(u)
    if name == "gaussian":
        return Normal(u, one, validate_args=False)
    if name == "exponential":
        return sst.NegativeExponential(u.clamp(-_MOST, _MOST).exp(), validate_args=False)
    if kind == "independent":
        return sst.Logistic(u, one, validate_args=False)
    return Gumbel(u, one, validate_args=False)


def sample(
    kind: str, name: str, scores: torch.Tensor, lengths: torch.Tensor, temperature: float, hard: bool,
    generator: torch.Generator | None = None,
) -> torch.Tensor:  # fmt: skip
    """Weights of edges, ``(B, parents, children)``, undirected ones both ways: a relaxed sample, or a hard one of 0 and
    1; 0 at padding."""
    n = scores.shape[-1]
    trick = sst.StochasticSoftmax(
        soft(kind, n), utilities(kind, name, scores), temperature, mask=mask(kind, lengths, n)
    )
    x = trick.sample(generator=generator) if hard else trick.rsample(generator=generator)
    return dense(kind, x, n)


@torch.no_grad()
def best(kind: str, name: str, scores: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The best choice of edges for mean utilities (of Gumbel and logistic ones, locations), as ``sample``."""
    n, u = scores.shape[-1], utilities(kind, name, scores)
    mean = u.mean if name == "exponential" else u.loc  # pyright: ignore[reportAttributeAccessIssue]
    structure, allowed = soft(kind, n).structure, mask(kind, lengths, n)
    return dense(kind, structure.argmax(mean) if allowed is None else structure.masked_argmax(mean, allowed), n)


def dense(kind: str, event: torch.Tensor, n: int) -> torch.Tensor:
    """Events ``(B, edges)`` as ``(B, n, n)``."""
    event = torch.cat([event, event], 1) if kind == "tree" else event
    empty = event.new_zeros(len(event), n * n)
    return empty.index_copy(1, _places(kind, n, event.device), event).unflatten(1, (n, n))
