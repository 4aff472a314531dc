"""Exponential families over a structure, p(x) proportional to exp <u, x> on X, by the log-partition A(u)."""

from __future__ import annotations

from typing import Any

import torch

from sst_cvx.arguments import check_finite, check_utilities, check_vertex_count
from sst_cvx.autodiff import gradient
from sst_cvx.structure.base import Structure
from sst_cvx.structure.membership import check_elements


class ExponentialFamily:
    """p(x) = exp(<u, x> - A(u)) over X, with A the log-partition.

    Computed in float64, whatever the utilities are: A and <u, x> nearly cancel. Answers have their dtype.

    Args:
        structure: a set with a log-partition.
        u: utilities ``(*batch, *event_shape)``.
        mask: bool, broadcasts to u: False where an item is forbidden.

    Raises:
        ValueError: the structure has no log-partition, or refuses it; utilities of a wrong shape or not finite; a mask
            that does not broadcast. TypeError: no structure; utilities that are no floating tensor; a mask that is
            not bool.
    """

    has_rsample = False

    def __init__(self, structure: Structure, u: torch.Tensor, *, mask: torch.Tensor | None = None):
        if not isinstance(structure, Structure):
            raise TypeError(f"structure must be an sst.Structure, got {structure!r}.")
        if not structure.has_log_partition():
            reason = structure.log_partition_refusal or f"{structure!r} has no log_partition"
            raise ValueError(f"{reason}: there is no exponential family to compute with.")
        self.batch_shape = check_utilities(u, structure.event_shape)
        self.mask = None if mask is None else structure.check_mask(mask, u.shape, u.device).allowed
        check_finite(u if self.mask is None else torch.where(self.mask, u, 0.0), "utilities")
        self.structure, self.u = structure, u
        self.event_shape = torch.Size(structure.event_shape)

    def expand(self, batch_shape: Any) -> ExponentialFamily:
        shape = torch.Size(batch_shape) + self.event_shape
        mask = None if self.mask is None else self.mask.expand(shape)
        return ExponentialFamily(self.structure, self.u.expand(shape), mask=mask)

    def log_partition(self) -> torch.Tensor:
        """A(u), ``(*batch,)``."""
        return self._log_partition_at(self.u.double()).to(self.u.dtype)

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        """<u, x> - A(u) for elements of X ``(*sample, *event_shape)``, ``sample`` and ``batch`` broadcast.

        Raises:
            ValueError: x of a wrong shape, or not elements of X (of other sets than 0/1 arrays: outside conv(X)).
        """
        batch_shape = check_utilities(x, self.structure.event_shape, "x")
        x = x.expand(torch.broadcast_shapes(batch_shape, self.batch_shape) + self.event_shape)
        check_elements(self.structure, x, self.mask)
        return self.log_prob_unchecked(x)

    def log_prob_unchecked(self, x: torch.Tensor) -> torch.Tensor:
        """``log_prob`` of what is known to be an element of X, such as a sample."""
        return (self._dot(x) - self._log_partition_at(self.u.double())).to(self.u.dtype)

    @property
    def mean(self) -> torch.Tensor:
        """Marginals, grad A(u)."""
        return self._mean().to(self.u.dtype)

    def entropy(self) -> torch.Tensor:
        """A(u) - <u, grad A(u)>, ``(*batch,)``."""
        value = self._log_partition_at(self.u.double()) - self._dot(self._mean())
        return value.clamp(min=0.0).to(self.u.dtype)

    def kl_divergence(self, other: ExponentialFamily) -> torch.Tensor:
        """KL(self, other) = A(v) - A(u) - <grad A(u), v - u> for the other's utilities v, ``(*batch,)``.

        Infinite where the other forbids an item that is possible here.

        Raises:
            ValueError: not over the same ``Structure`` object, or batches that do not broadcast.
        """
        if not isinstance(other, ExponentialFamily) or other.structure is not self.structure:
            raise ValueError(f"other must be an ExponentialFamily over the same structure, {self.structure!r}.")
        p, q = (f._log_partition_at(f.u.double()) for f in (self, other))
        mean = self._mean()
        value = (q - other._dot(mean)) - (p - self._dot(mean))
        return torch.where(self._exceeds(other), torch.inf, value.clamp(min=0.0)).to(self.u.dtype)

    def _exceeds(self, other: ExponentialFamily) -> torch.Tensor:
        """Whether some element that is possible here is not there: by one argmax, exactly."""
        if self.mask is None and other.mask is None:
            return torch.zeros((), dtype=torch.bool, device=self.u.device)
        shape = torch.broadcast_shapes(self.u.shape, other.u.shape)
        here, there = (torch.ones_like(f.u, dtype=torch.bool) if f.mask is None else f.mask for f in (self, other))
        here, there = here.expand(shape), there.expand(shape)
        only = (here & ~there).double()
        exceeds = self._flat(self.structure.masked_argmax(only, here) * only > 0).any(-1)
        fillers = [self.structure.fillers(allowed) for allowed in (here, there)]
        if fillers[0] is None or fillers[1] is None:
            return exceeds
        return exceeds | self._flat(fillers[0] != fillers[1]).any(-1)

    def sample(self, sample_shape: Any = (), *, generator: torch.Generator | None = None) -> torch.Tensor:
        """Exact samples: by the structure's own algorithm where it has one, else from the list of its elements.

        Raises:
            NotImplementedError: neither is at hand. SolveError: a mask that no element of X avoids.
        """
        shape = torch.Size(sample_shape)
        exact = self.structure.sample
        if not self.structure.overrides("sample"):
            return self._sample_from_list(shape, generator)
        u = self.u.detach().expand(shape + self.u.shape)
        if self.mask is None:
            return exact(u, generator)
        masked = self.structure.check_mask(self.mask, u.shape, u.device)
        return masked.removed(exact(masked.lowered(u), generator))

    def _sample_from_list(self, shape: torch.Size, generator: torch.Generator | None) -> torch.Tensor:
        vertices = self.structure.vertices().to(self.u.device)
        check_vertex_count(self.structure, len(vertices))
        points, u = vertices.flatten(1), self.u.detach().double()
        if self.mask is None:
            scores = u.reshape(-1, points.shape[1]) @ points.T
        else:
            masked = self.structure.check_mask(self.mask, u.shape, u.device)
            scores = torch.where(self.mask, u, 0.0).reshape(-1, points.shape[1]) @ points.T
            forbidden = (~masked.kept).double().reshape(-1, points.shape[1]) @ points.T > 0
            masked.refuse(forbidden.all(-1).reshape(self.batch_shape))
            scores = scores.masked_fill(forbidden, -torch.inf)
        if not scores.numel() or not shape.numel():
            return self.u.new_zeros(shape + self.u.shape)
        which = torch.multinomial(scores.softmax(-1), shape.numel(), replacement=True, generator=generator)
        x = points[which.T].reshape(shape + self.u.shape).to(self.u.dtype)
        return x if self.mask is None else torch.where(self.mask, x, 0.0)

    def _log_partition_at(self, u: torch.Tensor) -> torch.Tensor:
        if self.mask is None:
            return self.structure.log_partition(u)
        return self.structure.masked_log_partition(u, self.mask)

    def _mean(self) -> torch.Tensor:
        """Marginals in float64."""
        return gradient(self._log_partition_at, self.u.double())

    def _dot(self, x: torch.Tensor) -> torch.Tensor:
        """<u, x> in float64, over the broadcast batch."""
        u = self.u.double() if self.mask is None else torch.where(self.mask, self.u.double(), 0.0)
        return self._flat(u * x).sum(-1)

    def _flat(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(*x.shape[: x.dim() - len(self.event_shape)], self.event_shape.numel())

    def __repr__(self) -> str:
        return f"ExponentialFamily({self.structure!r}, batch_shape={tuple(self.batch_shape)})"
