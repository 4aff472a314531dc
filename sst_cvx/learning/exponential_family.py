"""Exponential families over a structure, p(x) proportional to exp <u, x> on X, by the log-partition A(u)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.distributions import Distribution, constraints, register_kl

from sst_cvx.arguments import check_finite, check_size, check_utilities, check_vertex_count
from sst_cvx.autodiff import gradient
from sst_cvx.faults import not_finite, spoiled
from sst_cvx.host import may_ask
from sst_cvx.learning.inputs import broadcast, check_expansion, check_shape, normal
from sst_cvx.once import without_autocast
from sst_cvx.paths.conjugate_gap import conjugate_gap, resolution, tilting
from sst_cvx.paths.gap import check_point
from sst_cvx.structure.absent import with_absent
from sst_cvx.structure.base import Structure
from sst_cvx.structure.membership import NO_ELEMENT, check_elements


class ExponentialFamily(Distribution):
    """p(x) = exp(<u, x> - A(u)) over X, with A the log-partition: a ``torch.distributions.Distribution``.

    Computed in float64, whatever the utilities are: A and <u, x> nearly cancel. Answers have their dtype.

    Args:
        structure: a set with a log-partition.
        u: utilities ``(*batch, *event_shape)``.
        mask: bool, broadcasts to u: False where an item is forbidden.
        validate_args: False leaves out the check of ``log_prob`` that points are elements of X. By default it is made,
            whatever the default of torch's distributions is, which compilers switch off in silence.

    Raises:
        ValueError: the structure has no log-partition, or refuses it; hull parameters; utilities of a wrong shape or
            not finite; a mask that does not broadcast. TypeError: no structure; utilities that are no floating tensor;
            a mask that is not bool.
    """

    arg_constraints = {}  # noqa: RUF012  # pyright: ignore
    has_rsample = False

    def __init__(
        self,
        structure: Structure,
        u: torch.Tensor,
        *,
        mask: torch.Tensor | None = None,
        validate_args: bool | None = None,
    ):
        if not isinstance(structure, Structure):
            raise TypeError(f"structure must be an sst.Structure, got {structure!r}.")
        if structure.parameters:
            raise ValueError("exponential families take structures without hull parameters.")
        if not structure.has_log_partition():
            reason = structure.log_partition_refusal or f"{structure!r} has no log_partition"
            raise ValueError(f"{reason}: there is no exponential family to compute with.")
        batch_shape = check_utilities(u, structure.event_shape)
        u = normal(u)
        if mask is not None:
            mask = structure.check_mask(mask, u.shape, u.device).allowed
        mask = with_absent(structure, u, mask) if may_ask(u) else mask
        self.mask = None if mask is None else normal(mask)
        self.structure, self.u = structure, self._finite(u, batch_shape)
        super().__init__(batch_shape, torch.Size(structure.event_shape), validate_args is not False)

    def _finite(self, u: torch.Tensor, batch_shape: torch.Size) -> torch.Tensor:
        """Utilities, checked; where the host must not be asked, elements with one that is not finite are NaN."""
        seen = u if self.mask is None else torch.where(self.mask, u, 0.0)
        if may_ask(u):
            check_finite(seen, "utilities")
            return u
        wrong = not_finite(seen, len(batch_shape)).reshape(batch_shape)
        return spoiled(u, wrong, "ExponentialFamily", "utilities must be finite, but are not for {elements}.")

    @property
    def support(self) -> constraints.Constraint:  # pyright: ignore[reportIncompatibleVariableOverride]
        """X, without forbidden items: ``support.check(x)`` is what ``log_prob`` checks."""
        return _Elements(self.structure, self.mask, len(self.event_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> ExponentialFamily:
        """The same for a larger batch.

        Raises:
            TypeError, ValueError: no shape; one that the batch does not expand to.
        """
        shape = check_expansion(self.batch_shape, batch_shape) + self.event_shape
        mask = None if self.mask is None else self.mask.expand(shape)
        return ExponentialFamily(self.structure, self.u.expand(shape), mask=mask, validate_args=self._validate_args)

    def log_partition(self) -> torch.Tensor:
        """A(u), ``(*batch,)``."""
        return self._log_partition_at(self.u.double()).to(self.u.dtype)

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        """<u, x> - A(u) for elements of X ``(*sample, *event_shape)``, ``sample`` and ``batch`` broadcast.

        Raises:
            ValueError: x of a wrong shape, one that does not broadcast, or not elements of X (of other sets than 0/1
                arrays: outside conv(X)).
        """
        batch_shape = broadcast(x=check_utilities(x, self.structure.event_shape, "x"), utilities=self.batch_shape)
        x, wrong = normal(x), None
        if self._validate_args:
            with without_autocast(x.device.type):
                wrong = check_elements(self.structure, x.expand(batch_shape + self.event_shape), self.mask)
        value = self.log_prob_unchecked(x)
        return value if wrong is None else spoiled(value, wrong, "log_prob", NO_ELEMENT)

    def log_prob_unchecked(self, x: torch.Tensor) -> torch.Tensor:
        """``log_prob`` of what is known to be an element of X, such as a sample."""
        return (self._dot(x) - self._log_partition_at(self.u.double())).to(self.u.dtype)

    @property
    def mean(self) -> torch.Tensor:
        """Marginals, grad A(u)."""
        return self._mean().to(self.u.dtype)

    @property
    def mode(self) -> torch.Tensor:
        """A most probable element, the argmax of u."""
        u = self.u.detach().double()
        x = self.structure.argmax(u) if self.mask is None else self.structure.masked_argmax(u, self.mask)
        return x.to(self.u.dtype)

    @property
    def variance(self) -> torch.Tensor:
        """Of each entry, the diagonal of the Hessian of A, mean (1 - mean) of 0/1 arrays, else by a second derivative
        an entry."""
        if self.structure.binary:
            mean = self._mean()
            return (mean * (1 - mean)).clamp(min=0.0).to(self.u.dtype)

        def entry(i: int) -> torch.Tensor:
            def mean_of(u: torch.Tensor) -> torch.Tensor:
                return self._flat(gradient(self._log_partition_at, u))[..., i]

            return self._flat(gradient(mean_of, self.u.double()))[..., i]

        entries = torch.stack([entry(i) for i in range(self.event_shape.numel())], -1)
        return entries.clamp(min=0.0).reshape(self.u.shape).to(self.u.dtype)

    def entropy(self) -> torch.Tensor:
        """A(u) - <u, grad A(u)>, ``(*batch,)``."""
        value = self._log_partition_at(self.u.double()) - self._dot(self._mean())
        return value.clamp(min=0.0).to(self.u.dtype)

    def kl_divergence(self, other: ExponentialFamily) -> torch.Tensor:
        """KL(self, other) = A(v) - A(u) - <grad A(u), v - u> for the other's utilities v, over the broadcast batch;
        also by ``torch.distributions.kl_divergence``.

        Infinite where the other forbids an item that is possible here.

        Raises:
            ValueError: not over equal structures, or batches that do not broadcast.
        """
        if not isinstance(other, ExponentialFamily) or self.structure != other.structure:
            raise ValueError(f"other must be an ExponentialFamily over the same structure, {self.structure!r}.")
        broadcast(self=self.batch_shape, other=other.batch_shape)
        p, q = (f._log_partition_at(f.u.double()) for f in (self, other))
        mean = self._mean()
        value = (q - other._dot(mean)) - (p - self._dot(mean))
        return torch.where(self._exceeds(other), torch.inf, value.clamp(min=0.0)).to(self.u.dtype)

    def _exceeds(self, other: ExponentialFamily) -> torch.Tensor:
        """Whether some element that is possible here is not there: by one argmax, exactly.

        Or two, where there are fillers: all elements have as many items then, and those of a mask that cuts off more
        have fewer.
        """
        if self.mask is None and other.mask is None:
            return torch.zeros((), dtype=torch.bool, device=self.u.device)
        shape = torch.broadcast_shapes(self.u.shape, other.u.shape)
        here, there = (torch.ones_like(f.u, dtype=torch.bool) if f.mask is None else f.mask for f in (self, other))
        here, there = here.expand(shape), there.expand(shape)
        only = (here & ~there).double()
        exceeds = self._flat(self.structure.masked_argmax(only, here) * only > 0).any(-1)
        if self.structure.fillers(here) is None:
            return exceeds
        sizes = [self._flat(self.structure.masked_argmax(torch.zeros_like(only), m)).sum(-1) for m in (here, there)]
        return exceeds | (sizes[0] != sizes[1])

    def gap(
        self, x: torch.Tensor, *, samples: int | None = None, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Certificate of marginals x ``(*batch, *event_shape)``: A(u) + A*(x) - <u, x>, zero where x is the mean, and
        its standard error, both ``(*batch,)``, float64. Neither the log-partition nor its derivative is used.

        With ``samples=None`` by enumeration of at most 5,000 vertices, exact up to the rounding of x; the error is 0.
        Else from so many exact samples an element, reweighted to the mean x: right marginals have about the error
        (root mean square), and differences below samples^-1/2 are not seen.
        Raises ValueError: x of another shape; samples below 2. NotImplementedError: no list of vertices, nor samples.
        """
        check_point(x, self.u, "x")
        if samples is None:
            gap = conjugate_gap(self.structure, self.u.detach().double(), x, 1.0, self.mask)
            return gap, torch.zeros_like(gap)
        count = check_size("samples", samples, 2)
        size = self.event_shape.numel()
        points = self.sample((count,), generator=generator).double().reshape(count, -1, size).movedim(0, 1)
        uniform = points.new_full(points.shape[:2], -math.log(count))
        flat = x.detach().double().reshape(-1, size)
        gap = tilting(points, uniform, flat, max(resolution(x), 1 / count)).reshape(self.batch_shape)
        rank = (points.var(1) > 0).double().sum(-1).reshape(self.batch_shape)  # an upper bound
        return gap, (rank / 2 + rank * rank / 4).sqrt() / count

    def sample(self, sample_shape: Any = (), *, generator: torch.Generator | None = None) -> torch.Tensor:
        """Exact samples: by the structure's own algorithm where it has one, else from the list of its elements.

        Raises:
            TypeError, ValueError: sample_shape is no shape. NotImplementedError: neither is at hand.
            SolveError: a mask that no element of X avoids.
        """
        shape = check_shape("sample_shape", sample_shape)
        exact = self.structure.sample
        if not self.structure.overrides("sample"):
            return self._sample_from_list(shape, generator)
        u = self.u.detach().double().expand(shape + self.u.shape)
        if self.mask is None:
            return exact(u, generator).to(self.u.dtype)
        masked = self.structure.check_mask(self.mask, u.shape, u.device)
        return masked.removed(exact(masked.lowered(u), generator)).to(self.u.dtype)

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
            if may_ask(u):
                masked.refuse(forbidden.all(-1).reshape(self.batch_shape))
            scores = scores.masked_fill(forbidden, -torch.inf)
        if not scores.numel() or not shape.numel():
            return self.u.new_zeros(shape + self.u.shape)
        share = scores.softmax(-1)
        failed = share[:, :1].isnan()  # where the host was not asked: nothing is possible, or not finite
        share = torch.where(failed, 1.0, share)
        which = torch.multinomial(share, shape.numel(), replacement=True, generator=generator)
        x = torch.where(failed, torch.nan, points[which.T]).reshape(shape + self.u.shape).to(self.u.dtype)
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


@register_kl(ExponentialFamily, ExponentialFamily)
def _kl_exponential_families(p: ExponentialFamily, q: ExponentialFamily) -> torch.Tensor:
    return p.kl_divergence(q)


class _Elements(constraints.Constraint):
    """Elements of X (of other sets than 0/1 arrays: points of conv(X)) without forbidden items."""

    is_discrete = True

    def __init__(self, structure: Structure, mask: torch.Tensor | None, event_dim: int):
        self._structure, self._mask, self._event_dim = structure, mask, event_dim
        super().__init__()

    @property
    def event_dim(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._event_dim

    def check(self, value: torch.Tensor) -> torch.Tensor:
        """Whether ``(*batch, *event_shape)`` are elements, ``(*batch,)``: all at once, or one by one if not all are."""
        shape = value.shape if self._mask is None else torch.broadcast_shapes(value.shape, self._mask.shape)
        batch_shape = check_utilities(value.expand(shape), self._structure.event_shape, "x")
        flat = value.expand(shape).reshape(batch_shape.numel(), *self._structure.event_shape)
        mask = None if self._mask is None else self._mask.expand(shape).reshape(flat.shape)
        if self._all(flat, mask):
            return torch.ones(batch_shape, dtype=torch.bool, device=value.device)
        each = [self._all(x, None if mask is None else mask[i]) for i, x in enumerate(flat)]
        return torch.tensor(each, dtype=torch.bool, device=value.device).reshape(batch_shape)

    def _all(self, x: torch.Tensor, mask: torch.Tensor | None) -> bool:
        try:
            with without_autocast(x.device.type):
                check_elements(self._structure, x, mask)
        except ValueError:
            return False
        return True
