"""Distributions of random utilities that torch lacks, and the Kullback-Leibler divergences between them.

The paper's KL term of a relaxed latent variable is that between its utilities (section 3): Gumbel to Gumbel, Normal to
Normal (both in torch), and negative exponentials, whose argmax over spanning trees and paths has exact properties.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.distributions import Distribution, Independent, constraints, register_kl
from torch.distributions.utils import broadcast_all

from sst_cvx.learning.inputs import broadcast, check_shape
from sst_cvx.learning.logistic_kl import excess_over_log, logistic_divergence

_Parameter = torch.Tensor | float


def _open_uniform(shape: torch.Size, like: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Uniform on (0, 1), both ends out: their quantiles are infinite."""
    info = torch.finfo(like.dtype)
    u = torch.rand(shape, dtype=like.dtype, device=like.device, generator=generator)
    return u.clamp(info.tiny, 1 - info.eps / 2)


def _floating(parameters: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    for p in parameters:
        if not p.is_floating_point():
            raise TypeError(f"parameters must be floating-point, got {p.dtype}: convert with .float() or .double().")
    return parameters


class Logistic(Distribution):
    """Logistic utilities: the difference of two Gumbels of one scale.

    Args:
        loc: mean; scale: positive. Both broadcast to the batch shape.
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012  # pyright: ignore
    support = constraints.real  # pyright: ignore
    has_rsample = True

    def __init__(self, loc: _Parameter, scale: _Parameter, validate_args: bool | None = None):
        self.loc, self.scale = _floating(broadcast_all(loc, scale))
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Logistic:
        shape = torch.Size(batch_shape)
        return Logistic(self.loc.expand(shape), self.scale.expand(shape), validate_args=False)

    @property
    def mean(self) -> torch.Tensor:
        return self.loc

    @property
    def variance(self) -> torch.Tensor:
        return (self.scale * torch.pi) ** 2 / 3

    def rsample(self, sample_shape: Any = ()) -> torch.Tensor:
        return self.icdf(_open_uniform(self._extended_shape(check_shape("sample_shape", sample_shape)), self.loc))

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        if self._validate_args:
            self._validate_sample(value)
        z = (value - self.loc) / self.scale
        return torch.nn.functional.logsigmoid(z) + torch.nn.functional.logsigmoid(-z) - self.scale.log()

    def cdf(self, value: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid((value - self.loc) / self.scale)

    def icdf(self, value: torch.Tensor) -> torch.Tensor:
        return self.loc + self.scale * (value.log() - torch.log1p(-value))

    def entropy(self) -> torch.Tensor:
        return self.scale.log() + 2


class NegativeExponential(Distribution):
    """U = -E with E exponential of the given rate; the smallest cost E wins (paper, appendix on trees and paths).

    Args:
        rate: positive, of the batch shape: of the cost, so that mean utilities are -1 / rate. Of a network's scores,
            the larger the better: ``rate=scores.exp()``.
    """

    arg_constraints = {"rate": constraints.positive}  # noqa: RUF012  # pyright: ignore
    support = constraints.interval(-math.inf, 0.0)  # pyright: ignore
    has_rsample = True

    def __init__(self, rate: _Parameter, validate_args: bool | None = None):
        (self.rate,) = _floating(broadcast_all(rate))
        super().__init__(self.rate.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> NegativeExponential:
        return NegativeExponential(self.rate.expand(torch.Size(batch_shape)), validate_args=False)

    @property
    def mean(self) -> torch.Tensor:
        return -1 / self.rate

    @property
    def variance(self) -> torch.Tensor:
        return self.rate**-2

    def rsample(self, sample_shape: Any = ()) -> torch.Tensor:
        return self.icdf(_open_uniform(self._extended_shape(check_shape("sample_shape", sample_shape)), self.rate))

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return torch.where(value <= 0, self.rate.log() + self.rate * value, -torch.inf)

    def cdf(self, value: torch.Tensor) -> torch.Tensor:
        return (self.rate * value).clamp(max=0).exp()

    def icdf(self, value: torch.Tensor) -> torch.Tensor:
        return value.log() / self.rate

    def entropy(self) -> torch.Tensor:
        return 1 - self.rate.log()


@register_kl(NegativeExponential, NegativeExponential)
def _kl_negative_exponential(p: NegativeExponential, q: NegativeExponential) -> torch.Tensor:
    """r - 1 - log r with r = q.rate / p.rate.

    Raises:
        ValueError: batches that do not broadcast.
    """
    broadcast(p=p.batch_shape, q=q.batch_shape)
    excess = (q.rate - p.rate) / p.rate
    return excess_over_log(excess, q.rate.log() - p.rate.log())


@register_kl(Logistic, Logistic)
def _kl_logistic(p: Logistic, q: Logistic) -> torch.Tensor:
    """Accurate for all scales, see ``logistic_kl``: tens of microseconds an entry where scales differ.

    Raises:
        ValueError: batches that do not broadcast.
    """
    broadcast(p=p.batch_shape, q=q.batch_shape)
    return logistic_divergence(p.loc, p.scale, q.loc, q.scale)


def base_of(utilities: Distribution) -> Distribution:
    """The distribution of the single entries, out of all ``Independent`` around it."""
    while isinstance(utilities, Independent):
        utilities = utilities.base_dist
    return utilities


def draw(utilities: Distribution, sample_shape: Any, generator: torch.Generator | None) -> torch.Tensor:
    """A reparameterised sample; with a generator by quantiles of uniforms, as torch's distributions take none.

    Raises:
        TypeError, ValueError: sample_shape is no shape. NotImplementedError: a generator, and a distribution without
            ``icdf``.
    """
    sample_shape = check_shape("sample_shape", sample_shape)
    if generator is None:
        return utilities.rsample(sample_shape)
    base = base_of(utilities)
    shape = sample_shape + utilities.batch_shape + utilities.event_shape
    uniform = _open_uniform(shape, utilities.sample(torch.Size((0,))), generator)  # of its dtype, on its device
    try:
        return base.icdf(uniform)
    except NotImplementedError:
        raise NotImplementedError(
            f"{type(base).__name__} has no icdf, by which a generator could drive it: seed by torch.manual_seed."
        ) from None
