"""Sums, maxima and samples over subsets of a chain with scores of adjacent pairs, by halves: log n steps.

Of a run of items, P[a, b, c] is the sum over its subsets of c items that end with bit b, given the bit a before the
run. Two neighbouring runs make one,

    P[a, b, c] = sum over the bit x between them, and the number i of items in the left, of L[a, x, i] R[x, b, c - i],

in the semirings of ``dag_sums``, which takes n steps for the same in O(n k) instead of O(n k^2): this is for devices
and compilers, for which steps are what costs. From the root down, shares of these sums are marginals, and choices of
(x, i) are samples and best subsets.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from polytopes.kernels.log_weights import ABSENT, draw_one

Choose = Callable[[torch.Tensor], torch.Tensor]


class ChainTree:
    """Runs of 1, 2, 4, ... items, padded by empty ones.

    Args:
        u: of n items and n - 1 pairs, ``(count, 2 n - 1)``. k: items that count, at most n.
        best: whether P holds maxima.
    """

    def __init__(self, u: torch.Tensor, k: int, best: bool = False):
        self.n, self.k = (u.shape[-1] + 1) // 2, k
        item = u[:, : self.n].double()
        pair = torch.nn.functional.pad(u[:, self.n :].double(), (1, 0))
        none, absent = torch.zeros_like(item), torch.full_like(item, ABSENT)
        rows = [torch.stack([none, absent, absent, by], -1).unflatten(-1, (2, 2)) for by in (item, item + pair)]
        self.levels = [torch.stack(rows, 2)[..., : k + 1]]  # (count, n, before, after, items)
        while self.levels[-1].shape[1] > 1:
            if self.levels[-1].shape[1] % 2:
                self.levels[-1] = torch.cat([self.levels[-1], _empty(self.levels[-1])], 1)
            terms = self._terms(len(self.levels) - 1)
            joined = terms.amax((3, 6)) if best else terms.permute(0, 1, 2, 4, 5, 3, 6).flatten(-2).logsumexp(-1)
            self.levels.append(joined)

    def _terms(self, level: int) -> torch.Tensor:
        """What the sums of the next level are of, ``(count, runs, a, x, b, c, i)``."""
        left, right = self.levels[level][:, 0::2], self.levels[level][:, 1::2]
        rest = _difference(left, self.k)
        there = (rest >= 0) & (rest < left.shape[-1])
        others = torch.where(there, right[..., rest.clamp(0, left.shape[-1] - 1)], ABSENT)
        return left[:, :, :, :, None, None, :] + others[:, :, None]

    @property
    def _ends(self) -> torch.Tensor:
        """By the last bit, ``(count, 2)``: nothing before, k items."""
        return self.levels[-1][:, 0, 0, :, -1]

    def log_sum(self) -> torch.Tensor:
        """``(count,)``."""
        return self._ends.logsumexp(-1)

    def marginals(self) -> torch.Tensor:
        """The gradient of ``log_sum`` by u, ``(count, 2 n - 1)``, without autograd."""
        root = torch.zeros_like(self.levels[-1][:, 0])
        share = torch.nn.functional.pad(self._ends.softmax(-1)[..., None], (root.shape[-1] - 1, 0))
        share = torch.nn.functional.pad(share[:, None], (0, 0, 0, 0, 0, 1))[:, None]  # (count, 1, a, b, c)
        for level in range(len(self.levels) - 2, -1, -1):
            total = self.levels[level + 1]
            share, total = (part[:, : self.levels[level].shape[1] // 2] for part in (share, total))
            parts = (self._terms(level) - total[:, :, :, None, :, :, None]).exp() * share[:, :, :, None, :, :, None]
            size = self.levels[level].shape[-1]
            to_right = _difference(self.levels[level], self.k)[..., None] == torch.arange(size, device=share.device)
            right = parts.sum(2).flatten(-2) @ to_right.to(share.dtype).flatten(0, 1)
            share = torch.stack([parts.sum((4, 5)), right], 2).flatten(1, 2)
        if self.k == 0:
            return torch.zeros_like(root[:, 0, :1, 0]).expand(-1, 2 * self.n - 1) + 0
        chosen = share[:, : self.n, :, 1, 1]
        return torch.cat([chosen.sum(-1), chosen[:, 1:, 1]], -1)

    def choose(self, choose: Choose) -> torch.Tensor:
        """A subset by its terms from the root down; ``choose`` maps scores ``(rows, m)`` to indices ``(rows, 1)``."""
        after = choose(self._ends)
        before, items = torch.zeros_like(after), torch.full_like(after, self.levels[-1].shape[-1] - 1)
        for level in range(len(self.levels) - 2, -1, -1):
            runs = self.levels[level].shape[1] // 2
            before, after, items = before[:, :runs], after[:, :runs], items[:, :runs]
            terms = self._terms(level).permute(0, 1, 2, 4, 5, 3, 6)
            of = ((before * 2 + after) * terms.shape[4] + items)[:, :, None, None]
            terms = terms.flatten(5).flatten(2, 4)
            scores = terms.gather(2, of.expand(-1, -1, 1, terms.shape[-1]))[:, :, 0]
            taken = choose(scores.flatten(0, 1)).reshape(before.shape)
            size = self.levels[level].shape[-1]
            between, first = taken // size, taken % size
            before = torch.stack([before, between], -1).flatten(1)
            after = torch.stack([between, after], -1).flatten(1)
            items = torch.stack([first, items - first], -1).flatten(1)
        chosen = after[:, : self.n]
        return torch.cat([chosen, chosen[:, 1:] * chosen[:, :-1]], -1)

    def sample(self, generator: torch.Generator | None) -> torch.Tensor:
        """A subset with probability proportional to exp of its score, 0/1 ``(count, 2 n - 1)``."""
        return self.choose(lambda scores: draw_one(scores - scores.amax(-1, keepdim=True), generator))

    def best(self) -> torch.Tensor:
        """A subset of largest score, of a tree of maxima."""
        return self.choose(lambda scores: scores.argmax(-1, keepdim=True))


def _empty(like: torch.Tensor) -> torch.Tensor:
    """A run without items: it keeps the bit."""
    run = torch.full_like(like[:, :1], ABSENT)
    for bit in range(2):  # not by a list of bits, which would go to the device each time
        run[:, :, bit, bit, 0] = 0.0
    return run


def _difference(level: torch.Tensor, k: int) -> torch.Tensor:
    """c - i for the c of the next level and the i of this one."""
    size = level.shape[-1]
    items = torch.arange(min(2 * (size - 1), k) + 1, device=level.device)
    return items[:, None] - items[:size]
