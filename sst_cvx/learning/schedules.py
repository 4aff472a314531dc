"""Temperatures that change with the training step: ``schedule(step)``."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sst_cvx.arguments import check_size


@dataclass(frozen=True)
class _Schedule:
    """From ``start`` at step 0 to ``end`` at ``steps`` and after."""

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        if not all(math.isfinite(t) and t > 0 for t in (self.start, self.end)):
            raise ValueError(f"temperatures must be positive and finite, got {self.start} and {self.end}.")
        check_size("steps", self.steps, 1)

    def _share(self, step: int) -> float:
        if not step >= 0:
            raise ValueError(f"step must be at least 0, got {step}.")
        return min(step / self.steps, 1.0)


class LinearSchedule(_Schedule):
    """start + (end - start) s, with s the share of steps done."""

    def __call__(self, step: int) -> float:
        return self.start + (self.end - self.start) * self._share(step)


class ExponentialSchedule(_Schedule):
    """start (end / start)^s: the same factor every step."""

    def __call__(self, step: int) -> float:
        share = self._share(step)
        return math.exp((1 - share) * math.log(self.start) + share * math.log(self.end))


class CosineSchedule(_Schedule):
    """end + (start - end) (1 + cos(pi s)) / 2: flat at both ends."""

    def __call__(self, step: int) -> float:
        return self.end + (self.start - self.end) * 0.5 * (1 + math.cos(math.pi * self._share(step)))
