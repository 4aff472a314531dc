"""Temperatures that change with the training step: ``schedule(step)``."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sst_cvx.arguments import check_size


@dataclass(frozen=True)
class _Schedule:
    """From ``start`` at step 0 to ``end`` at ``steps`` and after, exactly, and never outside of the two."""

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        if not all(math.isfinite(t) and t > 0 for t in (self.start, self.end)):
            raise ValueError(f"temperatures must be positive and finite, got {self.start} and {self.end}.")
        check_size("steps", self.steps, 1)

    def __call__(self, step: int) -> float:
        """The temperature at a step.

        Raises:
            ValueError: a step below 0.
        """
        if not step >= 0:
            raise ValueError(f"step must be at least 0, got {step}.")
        if step == 0 or step >= self.steps:
            return float(self.start if step == 0 else self.end)
        low, high = sorted((self.start, self.end))
        return min(max(self._between(step / self.steps), low), high)

    def _between(self, share: float) -> float:
        """At a share of the steps, in (0, 1)."""
        raise NotImplementedError


class LinearSchedule(_Schedule):
    """start + (end - start) s, with s the share of steps done."""

    def _between(self, share: float) -> float:
        return self.start + (self.end - self.start) * share


class ExponentialSchedule(_Schedule):
    """start (end / start)^s: the same factor every step."""

    def _between(self, share: float) -> float:
        return math.exp((1 - share) * math.log(self.start) + share * math.log(self.end))


class CosineSchedule(_Schedule):
    """end + (start - end) (1 + cos(pi s)) / 2: flat at both ends."""

    def _between(self, share: float) -> float:
        return self.end + (self.start - self.end) * 0.5 * (1 + math.cos(math.pi * share))
