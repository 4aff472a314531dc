"""Stochastic argmax and softmax tricks: random utilities U, X(U) hard and X_t(U) relaxed (paper, sections 2 and 3).

All noise is drawn here, and straight-through is here, once.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.distributions import Distribution, Gumbel

from sst_cvx.arguments import check_temperature
from sst_cvx.errors import SolveError
from sst_cvx.learning.noise import base_of, draw
from sst_cvx.soft_argmax import SoftArgmax
from sst_cvx.structure.base import Structure
from sst_cvx.structure.membership import check_elements

_Shape = Any  # what torch.Size takes
_one_hot: WeakKeyDictionary[Structure, bool] = WeakKeyDictionary()  # found out once a structure


class _Trick:
    """What both tricks share: shapes, as of a torch distribution over the structure's event."""

    def __init__(self, structure: Structure, utilities: Distribution, mask: torch.Tensor | None):
        if not isinstance(structure, Structure):
            raise TypeError(f"structure must be an sst.Structure, got {structure!r}.")
        if structure.parameters:
            raise ValueError("the tricks take structures without hull parameters.")
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
        if mask is not None:
            structure.check_mask(mask, shape)
        self.structure, self.utilities, self.mask = structure, utilities, mask
        self.batch_shape, self.event_shape = shape[:split], event

    def _hard(self, u: torch.Tensor) -> torch.Tensor:
        u = u.detach()
        return self.structure.argmax(u) if self.mask is None else self.structure.masked_argmax(u, self.mask)

    def _expanded(self, batch_shape: _Shape) -> tuple[Distribution, torch.Tensor | None]:
        """Utilities and mask for a larger batch."""
        batch = torch.Size(batch_shape)
        rest = batch + self.event_shape
        kept = rest[: len(rest) - len(self.utilities.event_shape)]
        try:
            torch.empty(self.batch_shape).expand(batch)
        except RuntimeError:
            raise ValueError(
                f"a batch of shape {tuple(self.batch_shape)} does not expand to {tuple(batch)}: expand takes the new "
                "batch shape, without the event."
            ) from None
        mask = None if self.mask is None else self.mask.expand(self.batch_shape + self.event_shape).expand(rest)
        return self.utilities.expand(kept), mask


class StochasticArgmax(_Trick):
    """X(U): the discrete random variable (stochastic argmax trick, paper, definition 1).

    Noise has the precision of the utilities: 16-bit noise has ties, which favour the first items. Use float32.

    Args:
        structure: the set X.
        utilities: a reparameterisable torch distribution of shape ``(*batch, *event_shape)``.
        mask: bool, broadcasts to the utilities: False where an item is forbidden.

    Raises:
        TypeError, ValueError: no distribution of this shape, or one without ``rsample``.
    """

    has_rsample = False

    def __init__(self, structure: Structure, utilities: Distribution, *, mask: torch.Tensor | None = None):
        super().__init__(structure, utilities, mask)

    def sample(self, sample_shape: _Shape = (), *, generator: torch.Generator | None = None) -> torch.Tensor:
        """Elements of X, ``(*sample_shape, *batch_shape, *event_shape)``; not differentiable."""
        with torch.no_grad():
            return self._hard(draw(self.utilities, sample_shape, generator))

    def expand(self, batch_shape: _Shape) -> StochasticArgmax:
        utilities, mask = self._expanded(batch_shape)
        return StochasticArgmax(self.structure, utilities, mask=mask)

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        """log of the probability of elements ``(*batch, *event_shape)``; one-hot X and Gumbel utilities of one scale.

        Raises:
            NotImplementedError: no closed form is known. ValueError: not elements of X.
        """
        log_p = self._log_probabilities()
        shape = torch.broadcast_shapes(x.shape, log_p.shape) if isinstance(x, torch.Tensor) else None
        x = x if shape is None else x.expand(shape)
        check_elements(self.structure, x, self.mask)
        return torch.where(x != 0, x * log_p, 0.0).sum(-1)

    def entropy(self) -> torch.Tensor:
        """Entropy ``(*batch,)``, where ``log_prob`` has a closed form."""
        log_p = self._log_probabilities()
        return -(log_p.exp() * log_p.clamp(min=torch.finfo(log_p.dtype).min)).sum(-1)

    def _log_probabilities(self) -> torch.Tensor:
        base = base_of(self.utilities)
        if type(base) is not Gumbel or not _is_one_hot(self.structure):
            raise NotImplementedError(
                "probabilities of an argmax are known in closed form for one-hot sets and Gumbel utilities only: "
                "sst.ExponentialFamily has log_prob for every structure with a log-partition."
            )
        scale = base.scale[..., :1]
        if bool((base.scale != scale).any()):
            raise NotImplementedError("the Gumbel utilities of one element need one common scale for a closed form.")
        logits = base.loc / scale
        if self.mask is not None:
            mask = self.mask.expand(logits.shape).to(logits.device)
            if not bool(mask.any(-1).all()):
                elements = [tuple(i) for i in torch.nonzero(~mask.any(-1)).tolist()]
                raise SolveError("every item of {elements} is forbidden: allow one at least.", elements)
            logits = logits.masked_fill(~mask, -torch.inf)
        return logits.log_softmax(-1)

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
    ):
        if not isinstance(soft_argmax, SoftArgmax):
            raise TypeError(f"soft_argmax must be an sst.SoftArgmax, got {type(soft_argmax).__name__}.")
        super().__init__(soft_argmax.structure, utilities, mask)
        check_temperature(temperature, torch.empty(0), self.batch_shape, len(self.event_shape))
        self.soft_argmax, self.temperature = soft_argmax, temperature

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
        return _StraightThrough.apply(soft, self._hard(u)) if straight_through else soft  # pyright: ignore

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
        return self.soft_argmax(u, self.temperature, mask=self.mask)

    def expand(self, batch_shape: _Shape) -> StochasticSoftmax:
        utilities, mask = self._expanded(batch_shape)
        return StochasticSoftmax(self.soft_argmax, utilities, self.temperature, mask=mask)

    def hard(self) -> StochasticArgmax:
        """The discrete random variable that this one relaxes."""
        return StochasticArgmax(self.structure, self.utilities, mask=self.mask)

    def __repr__(self) -> str:
        return f"StochasticSoftmax({self.soft_argmax!r}, {self.utilities}, temperature={self.temperature})"


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, soft: torch.Tensor, hard: torch.Tensor) -> torch.Tensor:
        return hard.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0], None


def _is_one_hot(structure: Structure) -> bool:
    """Whether X is the set of unit vectors: 0/1 vectors of sum 1, each of them an answer of argmax."""
    if structure not in _one_hot:
        _one_hot[structure] = _finds_unit_vectors(structure)
    return _one_hot[structure]


def _finds_unit_vectors(structure: Structure) -> bool:
    if len(structure.event_shape) != 1 or not structure.binary:
        return False
    n = structure.event_shape[0]
    one = torch.ones(n, dtype=torch.float64)
    if not bool((structure.argmax(torch.stack([one, -one])).sum(1) == 1).all()):
        return False
    for some in torch.arange(n).split(256):  # not all at once: n^2 numbers
        units = torch.nn.functional.one_hot(some, n).double()
        if not torch.equal(structure.argmax(units), units):
            return False
    return True
