"""What sums over log-weights share: what stands for an absent one, and in which precision they are computed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from sst_cvx.host import stops_early
from sst_cvx.once import without_autocast

ABSENT = -1e30  # log-weight of what cannot be: finite, so that differences of two of them are not NaN


def widened(method: Callable[[Any, torch.Tensor], torch.Tensor]) -> Callable[[Any, torch.Tensor], torch.Tensor]:
    """A method of (self, utilities) that sees float32 or float64 and no autocast, and answers in the caller's dtype."""

    @functools.wraps(method)
    def call(self: Any, u: torch.Tensor) -> torch.Tensor:
        with without_autocast(u.device.type):
            if u.dtype in (torch.float64, torch.float32):
                return method(self, u)
            return method(self, u.float()).to(u.dtype)

    return call


def draw_one(scores: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """An index ``(count, 1)`` for each row of scores ``(count, m)``, with probability proportional to exp of its score.

    Scores need a maximum near 0. Where the host is not asked, by Gumbel noise: ``torch.multinomial`` checks its input.
    """
    if stops_early(scores):
        return torch.multinomial(scores.exp(), 1, generator=generator)
    uniform = torch.rand(scores.shape, dtype=torch.float64, device=scores.device, generator=generator)
    return (scores.double() - (-uniform.log()).log()).argmax(-1, keepdim=True)
