"""Random masks of k words, soft in training and hard in use: every relaxation of the example behind one name.

``make(name, n, k)`` gives a ``Chooser``. L2X (Chen et al. 2018) and SoftSub (Xie and Ermon 2019) are rivals, written
out here; the others of ``NAMES`` are stochastic softmax tricks, a structure and a regularizer of the library each.
``FLOORS`` look at no word, ``LABELS`` is taught where the rationales are: a ceiling.
"""

from __future__ import annotations

import functools

import torch

import polytopes
import sst_cvx as sst
from examples.learning_to_explain.two_segments import TwoSegments

_REGULARIZERS = {
    "euclidean": sst.Euclidean,
    "categorical": sst.CategoricalEntropy,
    "binary": sst.BinaryEntropy,
    "exponential": sst.ExponentialFamilyEntropy,
}
NAMES = ("l2x", "softsub", *_REGULARIZERS, "correlated", "segments")
UNSTRUCTURED = NAMES[:-2]
FLOORS = ("random", "window-first", "window-middle", "window-last")
LABELS = "labels"
WITH_PAIRS = ("correlated",)  # utilities of adjacent pairs, too
_LOWEST = -1e4  # utility of padding where there is no mask argument: the two rivals


class Chooser:
    """A distribution over masks of k of n words.

    Utilities are ``(batch, n)``, or ``(batch, 2 n - 1)`` where ``pairs``: the words' and then the adjacent pairs'.
    Lengths are ``(batch,)``, at least k: padding is never chosen. Masks are ``(batch, n)``.
    """

    pairs = False

    def __init__(self, n: int, k: int):
        self.n, self.k = n, k

    def noise(self, utilities: torch.Tensor) -> torch.distributions.Distribution:
        """Utilities with standard Gumbel noise."""
        return torch.distributions.Gumbel(utilities, torch.ones_like(utilities))

    def noisy(self, utilities: torch.Tensor) -> torch.Tensor:
        """A draw of ``noise(utilities)``, differentiable."""
        return self.noise(utilities).rsample()

    def soft(self, utilities: torch.Tensor, lengths: torch.Tensor, temperature: float) -> torch.Tensor:
        """A random relaxed mask, differentiable in the utilities."""
        raise NotImplementedError

    def hard(self, utilities: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """The best mask, 0/1; of ``noisy(utilities)`` a random one. By default the k best words."""
        u = utilities.masked_fill(~sst.length_mask(lengths, self.n), _LOWEST)
        return torch.zeros_like(u).scatter(-1, u.topk(self.k).indices, 1.0)


class Structured(Chooser):
    """The stochastic softmax trick of a structure and a regularizer."""

    def __init__(self, structure: sst.Structure, regularizer: sst.Regularizer, n: int, k: int):
        super().__init__(n, k)
        self.structure = structure
        self.pairs = isinstance(structure, polytopes.CorrelatedKSubset)
        self._soft_argmax = sst.SoftArgmax(structure, regularizer, path="fast")

    def _allowed(self, lengths: torch.Tensor) -> torch.Tensor:
        if isinstance(self.structure, polytopes.CorrelatedKSubset):
            return self.structure.length_mask(lengths)
        return sst.length_mask(lengths, self.n)

    def soft(self, utilities: torch.Tensor, lengths: torch.Tensor, temperature: float) -> torch.Tensor:
        allowed = self._allowed(lengths)
        trick = sst.StochasticSoftmax(self._soft_argmax, self.noise(utilities), temperature, mask=allowed)
        return trick.rsample()[..., : self.n]

    def hard(self, utilities: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return self.structure.masked_argmax(utilities, self._allowed(lengths))[..., : self.n]


class L2X(Chooser):
    """Elementwise maximum of k independent Gumbel-Softmax draws (Chen et al. 2018): entries sum to k at most."""

    def soft(self, utilities: torch.Tensor, lengths: torch.Tensor, temperature: float) -> torch.Tensor:
        u = utilities.masked_fill(~sst.length_mask(lengths, self.n), _LOWEST)
        draws = self.noisy(u.unsqueeze(-2).expand(*u.shape[:-1], self.k, self.n))
        return (draws / temperature).softmax(-1).amax(-2)


class SoftSub(Chooser):
    """k softmaxes in turn, each with what was chosen before pushed down (Xie and Ermon 2019); entries may exceed 1."""

    def soft(self, utilities: torch.Tensor, lengths: torch.Tensor, temperature: float) -> torch.Tensor:
        u = self.noisy(utilities.masked_fill(~sst.length_mask(lengths, self.n), _LOWEST))
        chosen, share = torch.zeros_like(u), torch.zeros_like(u)
        tiny = torch.finfo(u.dtype).tiny
        for _ in range(self.k):
            u = u + (1 - share).clamp(min=tiny).log()
            share = (u / temperature).softmax(-1)
            chosen = chosen + share
        return chosen


class Labels(Chooser):
    """The k best words in training, too: the utilities learn from rationales, not through the mask."""

    def soft(self, utilities: torch.Tensor, lengths: torch.Tensor, temperature: float) -> torch.Tensor:
        return self.hard(utilities.detach(), lengths)


class Random(Labels):
    """Any k words."""

    def hard(self, utilities: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return super().hard(torch.rand_like(utilities), lengths)


class Window(Labels):
    """k words in a row, from the share ``place`` of the way between the first and the last possible."""

    def __init__(self, n: int, k: int, place: float):
        super().__init__(n, k)
        self.place = place

    def hard(self, utilities: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        start = ((lengths - self.k) * self.place).round()[:, None]
        position = torch.arange(self.n, device=utilities.device)
        return ((position >= start) & (position < start + self.k)).to(utilities.dtype)


@functools.lru_cache(maxsize=256)
def make(name: str, n: int, k: int) -> Chooser:
    """The chooser of this name, of ``NAMES``, ``FLOORS`` or ``LABELS``, for reviews of up to n words."""
    if name == "l2x":
        return L2X(n, k)
    if name == "softsub":
        return SoftSub(n, k)
    if name in _REGULARIZERS:
        return Structured(polytopes.KSubset(n, k), _REGULARIZERS[name](), n, k)
    if name == "correlated":
        return Structured(polytopes.CorrelatedKSubset(n, k), sst.ExponentialFamilyEntropy(), n, k)
    if name == "segments":
        return Structured(TwoSegments(n, k), sst.ExponentialFamilyEntropy(), n, k)
    if name == "random":
        return Random(n, k)
    if name in FLOORS:
        return Window(n, k, FLOORS[1:].index(name) / 2)
    if name == LABELS:
        return Labels(n, k)
    raise ValueError(f"relaxation must be one of {', '.join((*NAMES, *FLOORS, LABELS))}, got {name!r}.")
