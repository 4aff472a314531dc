"""Stochastic argmax and softmax tricks: random utilities U, X(U) hard and X_t(U) relaxed (paper, sections 2 and 3).

All noise is drawn here, and straight-through is here, once.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch.distributions import Distribution, register_kl

from sst_cvx.arguments import check_temperature, check_utilities
from sst_cvx.autodiff import Function
from sst_cvx.faults import spoiled
from sst_cvx.learning.gumbel_max import log_probabilities
from sst_cvx.learning.inputs import broadcast, check_expansion, check_parameters, normal
from sst_cvx.learning.noise import draw
from sst_cvx.once import without_autocast
from sst_cvx.soft_argmax import SoftArgmax
from sst_cvx.structure.base import Structure
from sst_cvx.structure.membership import NO_ELEMENT, check_elements

_Shape = Any  # what torch.Size takes


class _Trick:
    """What both tricks share: shapes, as of a torch distribution over the structure's event."""

    def __init__(
        self, structure: Structure, utilities: Distribution, mask: torch.Tensor | None, parameters: dict[str, Any]
    ):
        if not isinstance(structure, Structure):
            raise TypeError(f"structure must be an sst.Structure, got {structure!r}.")
        if not isinstance(utilities, Distribution):
            raise TypeError(
                f"utilities must be a torch distribution, got {type(utilities).__name__}: e.g. Gumbel(u, 1)."
            )
        if not utilities.has_rsample:
            raise ValueError(
                f"utilities {utilities} must be reparameterisable (has_rsample): Gumbel, Normal, Logistic."
            )
        shape, event = utilities.batch_shape + utilities.event_shape, torch.Size(structure.event_shape)
        split = len(shape) - len(event)
        if split < 0 or shape[split:] != event:
            raise ValueError(
                f"utilities of shape {tuple(shape)} must end with the event shape {tuple(event)} of {structure!r}."
            )
        if len(utilities.event_shape) > len(event):
            raise ValueError("utilities must be independent across batch elements: too many event dimensions.")
        self.structure, self.utilities, self.mask = structure, utilities, normal(mask)
        self.batch_shape, self.event_shape = shape[:split], event
        self.parameters = check_parameters(structure, parameters, self.batch_shape)
        if self.mask is not None:
            structure.check_mask(self.mask, shape)

    def _hard(self, u: torch.Tensor) -> torch.Tensor:
        u = u.detach()
        if self.mask is None:
            return self.structure.argmax(u, **self.parameters)
        return self.structure.masked_argmax(u, self.mask)

    def _expanded(self, batch_shape: _Shape) -> tuple[Distribution, torch.Tensor | None]:
        """Utilities and mask for a larger batch; parameters and temperatures broadcast to it as they are.

        Raises:
            TypeError, ValueError: no shape; one that the batch does not expand to.
        """
        batch = check_expansion(self.batch_shape, batch_shape)
        rest = batch + self.event_shape
        kept = rest[: len(rest) - len(self.utilities.event_shape)]
        mask = None if self.mask is None else self.mask.expand(self.batch_shape + self.event_shape).expand(rest)
        return self.utilities.expand(kept), mask


class StochasticArgmax(_Trick):
    """X(U): the discrete random variable (stochastic argmax trick, paper, definition 1).

    Noise has the precision of the utilities: 16-bit noise has ties, which favour the first items. Use float32.

    Args:
        structure: the set X.
        utilities: a reparameterisable torch distribution of shape ``(*batch, *event_shape)``.
        mask: bool, broadcasts to the utilities: False where an item is forbidden.
        parameters: the hull's parameters by name, each of its own shape, with or without leading batch dimensions.

    Raises:
        TypeError, ValueError: no distribution of this shape, or one without ``rsample``; missing or unknown parameters.
    """

    has_rsample = False

    def __init__(
        self, structure: Structure, utilities: Distribution, *, mask: torch.Tensor | None = None, **parameters: Any
    ):
        super().__init__(structure, utilities, mask, parameters)

    def sample(self, sample_shape: _Shape = (), *, generator: torch.Generator | None = None) -> torch.Tensor:
        """Elements of X, ``(*sample_shape, *batch_shape, *event_shape)``; not differentiable."""
        with torch.no_grad():
            return self._hard(draw(self.utilities, sample_shape, generator))

    def expand(self, batch_shape: _Shape) -> StochasticArgmax:
        utilities, mask = self._expanded(batch_shape)
        return StochasticArgmax(self.structure, utilities, mask=mask, **self.parameters)

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        """log of the probability of elements ``(*sample, *event_shape)``, ``sample`` and ``batch`` broadcast; one-hot X
        and Gumbel utilities of one scale.

        Raises:
            NotImplementedError: no closed form is known. ValueError: not elements of X, or batches that do not
                broadcast.
        """
        log_p = self._log_probabilities()
        shape = broadcast(x=check_utilities(x, self.structure.event_shape, "x"), utilities=self.batch_shape)
        x = normal(x).expand(shape + self.event_shape)
        with without_autocast(x.device.type):
            wrong = check_elements(self.structure, x, self.mask)
        value = torch.where(x != 0, x * log_p, 0.0).sum(-1)
        return value if wrong is None else spoiled(value, wrong, "log_prob", NO_ELEMENT)

    def entropy(self) -> torch.Tensor:
        """Entropy ``(*batch,)``, where ``log_prob`` has a closed form."""
        log_p = self._log_probabilities()
        return -(log_p.exp() * log_p.clamp(min=torch.finfo(log_p.dtype).min)).sum(-1)

    @property
    def mean(self) -> torch.Tensor:
        """Probabilities of the items, where ``log_prob`` has a closed form."""
        return self._log_probabilities().exp()

    @property
    def mode(self) -> torch.Tensor:
        """The most probable element, where ``log_prob`` has a closed form."""
        log_p = self._log_probabilities()
        return torch.zeros_like(log_p).scatter(-1, log_p.argmax(-1, keepdim=True), 1.0)

    @property
    def variance(self) -> torch.Tensor:
        """p (1 - p) of each item, where ``log_prob`` has a closed form."""
        p = self.mean
        return p * (1 - p)

    def _log_probabilities(self) -> torch.Tensor:
        return log_probabilities(self.structure, self.utilities, self.mask)

    def __repr__(self) -> str:
        return f"StochasticArgmax({self.structure!r}, {self.utilities})"


class StochasticSoftmax(_Trick):
    """X_t(U): the relaxed, differentiable random variable (stochastic softmax trick, paper, definition 2).

    ``rsample`` is relaxed, ``sample`` hard: an element of X, not ``rsample().detach()``.

    Args:
        soft_argmax: the relaxation, a ``SoftArgmax``.
        utilities: a reparameterisable torch distribution of shape ``(*batch, *event_shape)``.
        temperature: positive number, or tensor that broadcasts to the batch shape.
        mask: bool, broadcasts to the utilities: False where an item is forbidden.
        parameters: the hull's parameters by name, as of ``StochasticArgmax``; ``rsample`` is differentiable in them.

    Raises:
        TypeError, ValueError: as ``StochasticArgmax``; a temperature that is not positive.
    """

    has_rsample = True

    def __init__(
        self,
        soft_argmax: SoftArgmax,
        utilities: Distribution,
        temperature: float | torch.Tensor,
        *,
        mask: torch.Tensor | None = None,
        **parameters: Any,
    ):
        if not isinstance(soft_argmax, SoftArgmax):
            raise TypeError(f"soft_argmax must be an sst.SoftArgmax, got {type(soft_argmax).__name__}.")
        super().__init__(soft_argmax.structure, utilities, mask, parameters)
        self.soft_argmax, self.temperature = soft_argmax, normal(temperature)
        check_temperature(self.temperature, torch.empty(0, device="cpu"), self.batch_shape, len(self.event_shape))

    def rsample(
        self,
        sample_shape: _Shape = (),
        *,
        straight_through: bool = False,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Relaxed samples ``(*sample_shape, *batch_shape, *event_shape)``, differentiable.

        With ``straight_through``, elements of X forward, and the relaxed sample's derivative backward.
        """
        u = draw(self.utilities, sample_shape, generator)
        soft = self._soft(u)
        return _StraightThrough.apply(soft, self._hard(u)) if straight_through else soft

    def sample(self, sample_shape: _Shape = (), *, generator: torch.Generator | None = None) -> torch.Tensor:
        """Elements of X, as ``StochasticArgmax.sample``; those of ``rsample`` for the same state of the generator."""
        with torch.no_grad():
            return self._hard(draw(self.utilities, sample_shape, generator))

    def sample_pair(
        self, sample_shape: _Shape = (), *, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The relaxed sample and the element of X for the same noise."""
        u = draw(self.utilities, sample_shape, generator)
        return self._soft(u), self._hard(u)

    def _soft(self, u: torch.Tensor) -> torch.Tensor:
        return self.soft_argmax(u, self.temperature, mask=self.mask, **self.parameters)

    def expand(self, batch_shape: _Shape) -> StochasticSoftmax:
        utilities, mask = self._expanded(batch_shape)
        return StochasticSoftmax(self.soft_argmax, utilities, self.temperature, mask=mask, **self.parameters)

    def hard(self) -> StochasticArgmax:
        """The discrete random variable that this one relaxes."""
        return StochasticArgmax(self.structure, self.utilities, mask=self.mask, **self.parameters)

    def log_prob(self, x: torch.Tensor) -> NoReturn:
        """Not known: raises NotImplementedError, as ``entropy``, ``mean``, ``mode`` and ``variance`` do."""
        self._refuse("log_prob", "log_prob(x)")

    def entropy(self) -> NoReturn:
        self._refuse("entropy", "entropy()")

    @property
    def mean(self) -> NoReturn:
        self._refuse("mean", "mean")

    @property
    def mode(self) -> NoReturn:
        self._refuse("mode", "mode")

    @property
    def variance(self) -> NoReturn:
        self._refuse("variance", "variance")

    def _refuse(self, what: str, instead: str) -> NoReturn:
        raise NotImplementedError(
            f"the {what} of a StochasticSoftmax has no closed form: hard().{instead} is that of the discrete random "
            f"variable which it relaxes; estimate moments from rsample((n,)); {_KL}"
        )

    def __repr__(self) -> str:
        return f"StochasticSoftmax({self.soft_argmax!r}, {self.utilities}, temperature={self.temperature})"


class _StraightThrough(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(soft: torch.Tensor, hard: torch.Tensor) -> torch.Tensor:
        return hard.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0], None


_KL = "as a KL term take that of the utilities, kl_divergence(p.utilities, q.utilities) (paper, section 3)."


@register_kl(_Trick, _Trick)
def _kl_tricks(p: _Trick, q: _Trick) -> torch.Tensor:
    """Of two ``StochasticArgmax`` over equal sets where both have closed forms, ``(*batch,)``.

    Raises:
        NotImplementedError: else. ValueError: batches that do not broadcast.
    """
    if not (isinstance(p, StochasticArgmax) and isinstance(q, StochasticArgmax)):
        raise NotImplementedError(
            "the divergence of relaxed variables has no closed form: hard() gives the discrete ones, whose divergence "
            f"is known for one-hot sets and Gumbel utilities; {_KL}"
        )
    if p.structure != q.structure:
        raise ValueError(f"the structures must be equal, got {p.structure!r} and {q.structure!r}.")
    broadcast(p=p.batch_shape, q=q.batch_shape)
    try:
        log_p, log_q = p._log_probabilities(), q._log_probabilities()
    except NotImplementedError as error:
        raise NotImplementedError(f"{error} Or {_KL}") from None
    return torch.where(log_p > -torch.inf, log_p.exp() * (log_p - log_q), 0.0).sum(-1)
