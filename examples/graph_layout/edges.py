"""Distributions over edges, each a stochastic softmax trick of the library: one name, one structure.

Encoder logits become utilities with standard Gumbel noise, and a relaxed or hard sample becomes weights of the 90
directed edges. The Kullback-Leibler term is that between utilities, Gumbel to standard Gumbel (paper, section 5.1).
"""

from __future__ import annotations

import functools

import torch
from torch.distributions import Gumbel, kl_divergence

import polytopes
import sst_cvx as sst
from examples.graph_layout.data import VERTICES

REGULARIZERS = {
    "exponential": sst.ExponentialFamilyEntropy,
    "euclidean": sst.Euclidean,
    "categorical": sst.CategoricalEntropy,
    "binary": sst.BinaryEntropy,
}
NAMES = ("tree", "top", "independent")
#: The 90 directed edges, receivers by senders: (i, j), i != j, in row-major order.
DIRECTED = torch.tensor([(i, j) for i in range(VERTICES) for j in range(VERTICES) if i != j]).T.contiguous()
_PLACE = torch.zeros(VERTICES, VERTICES, dtype=torch.long)
_PLACE[DIRECTED[0], DIRECTED[1]] = torch.arange(DIRECTED.shape[1])
_I, _J = torch.triu_indices(VERTICES, VERTICES, 1)
FORWARD, BACKWARD = _PLACE[_I, _J], _PLACE[_J, _I]  # both directions of the 45 undirected edges


@functools.cache
def directed(device: torch.device) -> torch.Tensor:
    """``DIRECTED`` on a device, moved there once."""
    return DIRECTED.to(device)


@functools.cache
def both_ways(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """``FORWARD`` and ``BACKWARD`` on a device, moved there once."""
    return FORWARD.to(device), BACKWARD.to(device)


def to_directed(x: torch.Tensor) -> torch.Tensor:
    """Undirected edges ``(*batch, 45)`` to directed ones ``(*batch, 90)``, the same both ways."""
    both = x.new_zeros(*x.shape[:-1], DIRECTED.shape[1])
    return both.index_copy(-1, torch.cat(both_ways(x.device)), torch.cat([x, x], -1))


class EdgeDistribution:
    """Edges given encoder logits ``(batch, 90, outputs)``.

    Args:
        name: "independent" (each directed edge by itself), "top" (|V| - 1 undirected edges) or "tree".
        regularizer: of the relaxation; "independent" is Gumbel-Softmax whatever it says.
    """

    def __init__(self, name: str, regularizer: str = "exponential"):
        self.name, self.outputs = name, 1
        entropy = REGULARIZERS[regularizer]()
        if name == "independent":
            self.outputs = 2
            self._soft = sst.SoftArgmax(polytopes.OneHot(2), sst.CategoricalEntropy())
        elif name == "top":
            self._soft = sst.SoftArgmax(polytopes.KSubset(VERTICES * (VERTICES - 1) // 2, VERTICES - 1), entropy)
        elif name == "tree":
            self._soft = sst.SoftArgmax(polytopes.SpanningTree(VERTICES), entropy)
        else:
            raise ValueError(f"edges must be one of {', '.join(NAMES)}, got {name!r}.")

        #: Random numbers that a batch element takes.
        self.noise = 2 * DIRECTED.shape[1] if name == "independent" else FORWARD.numel()

    def utilities(self, logits: torch.Tensor) -> Gumbel:
        """For undirected edges, logits are the mean of both directions."""
        if self.name != "independent":
            forward, backward = both_ways(logits.device)
            logits = logits[..., 0]
            logits = 0.5 * (logits.index_select(1, forward) + logits.index_select(1, backward))
        return _gumbel(logits)

    def sample(
        self, logits: torch.Tensor, temperature: float, hard: bool, generator: torch.Generator | None
    ) -> torch.Tensor:
        """Weights of the directed edges, ``(batch, 90)``."""
        trick = sst.StochasticSoftmax(self._soft, self.utilities(logits), temperature)
        x = trick.sample(generator=generator) if hard else trick.rsample(generator=generator)
        return x[..., 1] if self.name == "independent" else to_directed(x)

    def divergence(self, logits: torch.Tensor) -> torch.Tensor:
        """KL of the utilities to standard Gumbels a vertex, ``(batch,)``; undirected edges count both ways."""
        p = self.utilities(logits)
        standard = _gumbel(torch.zeros_like(p.loc))
        total = kl_divergence(p, standard).flatten(1).sum(1)
        return (1 if self.name == "independent" else 2) * total / VERTICES


def _gumbel(loc: torch.Tensor) -> Gumbel:
    """Of scale 1. Torch's checks of its parameters would make the host wait for the device."""
    return Gumbel(loc, torch.ones_like(loc), validate_args=False)
