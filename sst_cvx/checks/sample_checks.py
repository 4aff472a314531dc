"""Whether ``sample`` draws x with probability proportional to exp <u, x>: a test that cries wolf once in a million."""

from __future__ import annotations

import math

import torch

from sst_cvx.autodiff import gradient
from sst_cvx.checks.inputs import Extent, enumerate_vertices, name_input, sample_utilities
from sst_cvx.checks.report import Input, NotApplicable
from sst_cvx.structure.base import Structure

_DRAWS = 2_000  # of each of two utilities; four times as many where these look wrong
_DOUBT = 3.0  # -log10 of the probability at which they do: twice in a row by chance once in 1e6
_LEAST = 8.0  # expected draws of a cell: rarer elements share one


def sample_frequencies(structure: Structure, seed: int, extent: Extent) -> tuple[float, float, Input]:
    """-log10 of how probable samples as far off, or further, are by chance: the smaller of two independent tests.

    Pearson's chi-square over all elements; of sets that do not list them, their means by coordinate.
    """
    if not structure.overrides("sample"):
        raise NotApplicable("sample is not overridden: it draws from vertices()")
    tested = _by_elements if structure.has_vertices() else _by_means
    u = sample_utilities(structure, (2,), seed) / extent.length
    surprise, element = tested(structure, u, _DRAWS, seed)
    if _DOUBT < surprise < math.inf:
        again, element = tested(structure, u, 4 * _DRAWS, seed + 1)
        surprise = min(surprise, again)
    return surprise, _DOUBT, name_input(u, element)


def _draw(structure: Structure, u: torch.Tensor, draws: int, seed: int) -> torch.Tensor:
    """``(draws, 2, size)``, float64: one batch, whose elements must not see each other."""
    generator = torch.Generator().manual_seed(seed)
    x = structure.sample(u.expand(draws, *u.shape), generator=generator)
    return x.double().reshape(draws, len(u), -1)


def _by_elements(structure: Structure, u: torch.Tensor, draws: int, seed: int) -> tuple[float, int]:
    points = enumerate_vertices(structure)
    probabilities = (u.reshape(len(u), -1) @ points.T).softmax(-1)
    # Elements are told apart by their products with a random vector.
    key = torch.randn(points.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    order = (points @ key).argsort()
    keys, drawn = (points @ key)[order], _draw(structure, u, draws, seed) @ key
    place = torch.searchsorted(keys, drawn.contiguous() - 1e-9).clamp(max=len(keys) - 1)
    foreign = (keys[place] - drawn).abs() > 1e-9 * (1 + drawn.abs())
    worst, element = 0.0, 0
    for i, p in enumerate(probabilities[:, order]):
        counts = torch.bincount(place[:, i], minlength=len(keys)).double()
        surprise = math.inf if bool(foreign[:, i].any()) else _chi_square(counts, draws * p)
        worst, element = max((worst, element), (surprise, i))
    return worst, element


def _chi_square(counts: torch.Tensor, expected: torch.Tensor) -> float:
    """-log10 of the tail probability of Pearson's statistic; rare cells are one."""
    rare = expected < _LEAST
    pooled = [torch.cat([v[~rare], v[rare].sum()[None]]) for v in (counts, expected)]
    counts, expected = (v[pooled[1] > (_LEAST / 2)] for v in pooled)
    if len(counts) < 2:
        return 0.0
    statistic = ((counts - expected).square() / expected).sum()
    tail = float(torch.special.gammaincc(torch.tensor((len(counts) - 1) / 2).double(), statistic / 2))
    return math.inf if tail == 0 else -math.log10(tail)


def _by_means(structure: Structure, u: torch.Tensor, draws: int, seed: int) -> tuple[float, int]:
    """Means against the gradient of the log-partition: normal tails, times the number of coordinates."""
    if not structure.has_log_partition():
        raise NotApplicable("neither vertices() nor log_partition is given")
    x = _draw(structure, u, draws, seed)
    mean = gradient(structure.log_partition, u).detach().reshape(len(u), -1)
    spread = x.std(0)
    if structure.known_binary:
        spread = (mean * (1 - mean)).clamp(min=0.0).sqrt()
    off = (x.mean(0) - mean).abs()
    z = off / (spread / math.sqrt(draws) + 8 / draws * (1e-9 + x.abs().amax()))  # rare items are no normal variables
    worst = z.amax(1)
    element = int(worst.argmax())
    tail = math.erfc(float(worst[element]) / math.sqrt(2)) * z[0].numel()
    return (math.inf if tail == 0 else max(0.0, -math.log10(tail))), element
