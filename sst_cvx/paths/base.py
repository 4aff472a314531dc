"""What a path is: constructed for a pair or refused, asked with a ``Batch``, answering with points of the hull."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch

from sst_cvx.arguments import check_finite, check_temperature, surely_finite
from sst_cvx.errors import Elements, SolveError
from sst_cvx.faults import Faults, raise_pending
from sst_cvx.host import leaves_traces, may_ask
from sst_cvx.paths.iterations import counting
from sst_cvx.regularizers import Regularizer
from sst_cvx.structure.base import Structure
from sst_cvx.structure.masks import Mask


class Refused(ValueError):
    """A path does not take a pair; the message says why."""


@dataclass(frozen=True)
class Options:
    """How a path was asked for: by its name (and not by "auto"), and with which engine of the layer."""

    by_name: bool = False
    solver: Any = None
    solver_options: dict[str, Any] | None = None
    #: Of (structure, path, regularizer): the soft argmax, from the door, of a part of what a path answers for.
    make: Callable[[Structure, str, Regularizer], Any] | None = None


@dataclass(frozen=True)
class Accuracy:
    """What a path promises in float64, for utilities of order 1 and temperatures from 0.1; checks read it.

    Attributes:
        gap: Frank-Wolfe gap, relative to 1 + the largest utility.
        gradient: error of a vector-Jacobian product, times the temperature.
        differences: error of central differences of its values, which their noise limits; times the temperature.
        batches: largest difference between an element's answers alone and in a batch.
        value: distance to the solution.
    """

    gap: float
    gradient: float
    differences: float
    batches: float
    value: float


@dataclass(slots=True)
class Batch:
    """The utilities of one call, flattened once.

    Attributes:
        u: utilities ``(count, *event_shape)``.
        t: temperature, a number or ``(count,)``.
        parameters: of the hull, by name, ``(count, *shape)``, float64 on the CPU.
        mask: of the same flat batch.
        elements: what the rows are called in errors, forward and backward.
        faults: collects what fails, where the host must not be asked; else None.
        steps: where solvers' iterations are counted, of the caller's flat batch ``(all,)``, int64; None: nowhere.
    """

    u: torch.Tensor
    t: torch.Tensor | float
    parameters: dict[str, torch.Tensor]
    mask: Mask | None
    elements: Elements = field(default_factory=lambda: Elements(torch.Size()))
    faults: Faults | None = None
    steps: torch.Tensor | None = None

    @staticmethod
    def of(
        structure: Structure, u: torch.Tensor, temperature: Any, mask: Mask | None, parameters: Any, shape: torch.Size
    ) -> Batch:
        """What was asked for utilities ``(*shape, *event_shape)``, checked and flattened; the mask is flat already.

        Raises:
            TypeError, ValueError: as ``SoftArgmax``.
        """
        u = u if u.dtype in (torch.float64, torch.float32) else u.float()
        faults = None if may_ask(u) else Faults(Elements(shape))
        if faults is not None and leaves_traces(u):
            raise_pending()
        t, _ = check_temperature(temperature, u, shape, len(structure.event_shape))
        if isinstance(t, torch.Tensor):
            t = t.expand(shape).reshape(-1)
            if faults is not None:
                faults.add(~(torch.isfinite(t) & (t > 0)), "temperatures must be positive, but are not for {elements}.")
        values = structure.flat_parameters(parameters, shape)
        flat = u if len(shape) == 1 else u.reshape(-1, *structure.event_shape)
        return Batch(flat, t, values, mask, Elements(shape), faults)

    def spoiled(self, x: torch.Tensor, who: object) -> torch.Tensor:
        """Answers as they are; where the host was not asked, NaN for what failed, and the error follows."""
        if self.faults is None:
            return x
        u = self.without_mask().u
        x = self.faults.spoil(x, torch.where(u == -math.inf, 0.0, u))  # forbidden items: 0 times -inf is NaN
        self.faults.leave(x, who)
        return x

    def __len__(self) -> int:
        return len(self.u)

    def take(self, rows: torch.Tensor) -> Batch:
        """Some elements as a batch of their own, which keep their names."""
        return Batch(
            self.u[rows],
            self.t[rows] if isinstance(self.t, torch.Tensor) else self.t,
            {name: v[rows.to(v.device)] for name, v in self.parameters.items()},
            None if self.mask is None else self.mask.take(rows),
            self.elements.take(rows),
            steps=self.steps,
        )

    def to(self, device: torch.device, dtype: torch.dtype) -> Batch:
        """Utilities and temperatures elsewhere."""
        t = self.t.to(device, dtype) if isinstance(self.t, torch.Tensor) else self.t
        return replace(self, u=self.u.to(device, dtype), t=t)

    def without_mask(self) -> Batch:
        """The same with forbidden utilities at 0."""
        return self if self.mask is None else replace(self, u=torch.where(self.mask.allowed, self.u, 0.0), mask=None)

    @property
    def temperatures(self) -> torch.Tensor:
        """``(count,)``, of the dtype and on the device of the utilities."""
        if isinstance(self.t, torch.Tensor):
            return self.t
        return torch.full((len(self.u),), self.t, dtype=self.u.dtype, device=self.u.device)

    def divided(self) -> torch.Tensor:
        """u / t; of masked items, utilities so low that they carry no weight.

        Raises:
            ValueError: it is not finite.
        """
        u = self.u if self.mask is None else self.mask.lowered(self.u, self.t)
        return self.over_temperature(u)

    def over_temperature(self, u: torch.Tensor) -> torch.Tensor:
        """u / t for other utilities of this shape, finite."""
        t = self.t.reshape(-1, *[1] * (u.dim() - 1)) if isinstance(self.t, torch.Tensor) else self.t
        scaled = u if isinstance(t, float) and t == 1.0 else u / t
        if self.faults is not None:
            self.faults.add_not_finite(scaled, "utilities / temperature must be finite, but are not for {elements}.")
            return scaled
        if not surely_finite(scaled):
            self.check_finite(u)
            if not bool(torch.isfinite(scaled).all()):
                raise ValueError(f"utilities / temperature overflows {u.dtype}: scale the utilities, or use float64.")
        return scaled

    def check_finite(self, u: torch.Tensor | None = None) -> None:
        """Raise ValueError, with the place of the first offender in the caller's shape, unless utilities are finite."""
        u = self.u if u is None else u
        if not surely_finite(u):
            check_finite(u, "utilities", at=lambda index: (*self.elements.index(index[0]), *index[1:]))


class Path(ABC):
    """One way to X_t(u) for one pair of structure and regularizer.

    Raises:
        Refused: it does not take the pair, or (unless asked for by name) another one is better.
    """

    #: As users ask for it.
    name: ClassVar[str]
    #: Whether it takes batches with masks; of others, each face of the hull is answered by itself.
    takes_masks: ClassVar[bool] = False
    #: Whether it checks its answers against the hull itself, because it knows more than the event.
    checks_hull: ClassVar[bool] = False
    #: Whether it asks soft argmaxes of parts, each of which is guarded, opaque to compilers, ... by itself.
    by_parts: ClassVar[bool] = False
    #: Whether its answers are in conv(X) itself where the declared hull is looser (``integral=False``).
    within_set: ClassVar[bool] = False
    #: Where and in what it computes; None: as the utilities are.
    device: ClassVar[torch.device | None] = None
    dtype: ClassVar[torch.dtype | None] = None
    #: What it promises at temperatures of order 1.
    accuracy: ClassVar[Accuracy]
    #: How it answers, in words.
    how: str

    @abstractmethod
    def __init__(self, structure: Structure, regularizer: Regularizer, options: Options):
        raise NotImplementedError

    def finishes(self, batch: Batch) -> bool:
        """Whether its answer to this batch is checked, and without any but allowed items, already."""
        del batch
        return False

    def accuracy_at(self, t: float) -> Accuracy:
        """What it promises at temperature t."""
        del t
        return self.accuracy

    def who(self) -> str:
        """What it is called in errors."""
        return f"the path {self.name!r}"

    @abstractmethod
    def answer(self, batch: Batch) -> torch.Tensor:
        """What ``__call__`` returns. Its errors may call elements by the numbers of their rows."""

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Points of the hull, ``(count, *event_shape)``, differentiable.

        With a mask they may hold the structure's fillers, and traces of forbidden items: the caller takes both out.

        Raises:
            ValueError: utilities that are not finite. SolveError: what could not be solved, naming the elements.
        """
        try:
            if batch.steps is None:
                return self.answer(batch)
            with counting(batch.steps, batch.elements.numbers, batch.elements.copies):
                return self.answer(batch)
        except SolveError as error:
            raise batch.elements.rename(error) from error.__cause__
