"""One structure with one regularizer under test: answers that checks share, and how errors are measured."""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property

import torch

from sst_cvx.checks.inputs import Extent, name_input, ordinary, sample_utilities
from sst_cvx.checks.report import Input, NotApplicable
from sst_cvx.errors import SolveError
from sst_cvx.regularizers import ExponentialFamilyEntropy, Regularizer
from sst_cvx.soft_argmax import SoftArgmax
from sst_cvx.structure.base import Structure

BATCH = 4
FAR = 20.0  # distance of a set that counts as far from 0
SMALL = 0.02  # of the unit: utilities near 0

#: Figure, bound, and the input of the figure.
Found = tuple[float, float, Input]


class Pair:
    """The soft argmax of the pair, its references, and its sample inputs.

    Utilities for algorithms of one's own are drawn in units of the slopes that f has on the hull (``unit``, around
    ``offset`` times t, the slope in its middle), and errors are judged in units of the hull's ``length``; all are 1 (0)
    where they are of that order.
    """

    def __init__(self, structure: Structure, regularizer: Regularizer, seed: int, parameters: dict[str, torch.Tensor]):
        self.structure, self.regularizer, self.seed, self.parameters = structure, regularizer, seed, parameters
        self.soft = SoftArgmax(structure, regularizer)
        self.exact = "layer" not in self.soft.ways
        #: Answered by someone's own algorithm, in the utilities' dtype: asked at more utilities than solvers are.
        self.own = self.soft.ways == {"fast"}
        self.combinatorial = self.soft.ways <= {"fast", "active_set"}
        self.exponential = isinstance(regularizer, ExponentialFamilyEntropy)
        self._answers: dict[tuple[int, float], tuple[torch.Tensor, torch.Tensor]] = {}
        self._pullbacks: dict[tuple[int, float], torch.Tensor] = {}
        self._values: dict[float, torch.Tensor] = {}

    # -- references -------------------------------------------------------------------------------------------

    @cached_property
    def reference(self) -> SoftArgmax:
        if self.soft.ways == {"layer"}:
            raise NotApplicable("answered by the layer itself")
        if self.exponential and self.structure.has_vertices() and len(self.structure.vertices()) == 1:
            raise NotApplicable("X has one element, and its program one weight")
        if self.structure.event_size > 200:
            raise NotApplicable("too large for the layer: use a smaller instance")
        try:
            return self.soft.reference()
        except (ValueError, NotImplementedError) as reason:
            raise NotApplicable(str(reason)) from None

    @cached_property
    def interior(self) -> SoftArgmax:
        try:
            return SoftArgmax(self.structure, self.regularizer, path="interior_point")
        except ValueError as refused:
            raise NotApplicable(str(refused)) from None

    # -- units ------------------------------------------------------------------------------------------------

    @cached_property
    def extent(self) -> Extent:
        return Extent.of(self.structure, self.parameters)

    @cached_property
    def _slopes(self) -> tuple[float, torch.Tensor]:
        extent, nothing = self.extent, torch.zeros(self.structure.event_shape).double()
        if self.exponential:
            return 1 / extent.length, nothing
        if not self.combinatorial:  # solvers are ours, and tested elsewhere
            return 1.0, nothing
        ends = torch.stack([extent.centre + extent.width * part for part in (-0.25, 0.0, 0.25)])
        try:
            low, middle, high = self.regularizer.gradient(ends, len(self.structure.event_shape))
        except NotImplementedError:
            return 1.0, nothing
        unit = ordinary(float((high - low).abs().max()))
        far = float(middle.abs().max()) > 20 * unit
        return unit, middle if far else nothing

    @property
    def unit(self) -> float:
        return self._slopes[0]

    @property
    def offset(self) -> torch.Tensor:
        return self._slopes[1]

    @property
    def reach(self) -> float:
        """What errors of values are relative to; solvers promise absolute ones on small sets."""
        return self.extent.reach if self.combinatorial else max(1.0, self.extent.reach)

    @property
    def plain(self) -> bool:
        """Whether the set is of order 1 and near 0: only there must solvers answer (elsewhere they may say no)."""
        return self.extent.length == 1.0 and float(self.extent.centre.abs().max()) <= FAR

    def gap_size(self, u: torch.Tensor, t: float) -> torch.Tensor:
        """What gaps and losses are relative to, ``(batch,)``: how much utilities can differ over the hull, and the
        rounding of <u, x>."""
        spread = self.extent.length * (self.unit + flat(u - t * self.offset).abs().amax(1))
        spread = spread.clamp(min=0.0 if self.combinatorial else 1.0)
        return torch.maximum(spread, 1e-6 * flat(u * self.extent.centre).abs().sum(1))

    # -- answers ----------------------------------------------------------------------------------------------

    def answer(self, u: torch.Tensor, t: float | torch.Tensor, soft: SoftArgmax | None = None) -> torch.Tensor:
        try:
            return (soft or self.soft)(u, t, **self.parameters)
        except SolveError as error:
            if self.plain or (soft is None and self.combinatorial):
                raise
            raise NotApplicable(f"not solved at this scale: {error}") from None

    def utilities(self, t: float = 1.0, size: float = 1.0) -> torch.Tensor:
        """Four of them, normal, in units of the slopes."""
        return size * self.unit * sample_utilities(self.structure, (BATCH,), self.seed + 1) + t * self.offset

    def around(self, u: torch.Tensor, t: float) -> torch.Tensor:
        """Utilities of order 1 in the units of this pair."""
        return self.unit * u + t * self.offset

    def value(self, t: float, soft: SoftArgmax | None = None) -> torch.Tensor:
        """The answer at the sample utilities; asked once."""
        if soft is None and t in self._values:
            return self._values[t]
        return self._answer(t, soft)[1].detach()

    def pullback(self, t: float, soft: SoftArgmax | None = None) -> torch.Tensor:
        """Vector-Jacobian product at the sample utilities, with a fixed random cotangent; asked once."""
        key = (id(soft or self.soft), t)
        if key not in self._pullbacks:
            u, x = self._answer(t, soft)
            (self._pullbacks[key],) = torch.autograd.grad((x * self.cotangent()).sum(), u)
            self._answers[key] = u, x.detach()  # the graph has done its work
        return self._pullbacks[key]

    def solve_together(self, temperatures: tuple[float, ...]) -> None:
        """Ask for the answers at several temperatures, those not known yet, at once."""
        missing = [t for t in temperatures if (id(self.soft), t) not in self._answers and t not in self._values]
        if missing:
            u = torch.cat([self.utilities(t) for t in missing])
            with suppress(Exception):  # asked again one by one, by name
                x = self.answer(u, torch.tensor(missing, dtype=u.dtype).repeat_interleave(BATCH))
                for t, part in zip(missing, x.split(BATCH), strict=True):
                    self._values[t] = part

    def _answer(self, t: float, soft: SoftArgmax | None) -> tuple[torch.Tensor, torch.Tensor]:
        key = (id(soft or self.soft), t)
        if key not in self._answers:
            u = self.utilities(t).requires_grad_()
            self._answers[key] = u, self.answer(u, t, soft)
        return self._answers[key]

    def hard(self, u: torch.Tensor) -> torch.Tensor:
        """The limit of X_t for t -> 0: argmax over the set whose hull soft answers are in, which where
        ``integral=False`` is the declared hull (but for the active-set path and exponential families)."""
        s = self.structure
        if s.integral or self.soft.feasible is s:
            return s.argmax(u, **self.parameters)
        values = s.flat_parameters(self.parameters, torch.Size([len(u)]))
        each = [{k: v[i].detach().numpy() for k, v in values.items()} for i in range(len(u))] if values else None
        return torch.from_numpy(s.declared_hull.oracle(flat(u).numpy(), each)).reshape(u.shape)

    def cotangent(self) -> torch.Tensor:
        return sample_utilities(self.structure, (BATCH,), self.seed + 2)


def flat(x: torch.Tensor) -> torch.Tensor:
    """(batch, *event_shape) to (batch, size)."""
    return x.reshape(len(x), -1)


def dot(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """<x, y> of each batch element."""
    return flat(x * y).sum(1)


def worst_of(error: torch.Tensor, u: torch.Tensor, where: str = "", t: float = 1.0) -> tuple[float, Input]:
    """Largest absolute error of a batch and the element that has it; NaN counts as infinite."""
    if not error.numel():
        return 0.0, Input(where)
    of_element = error.detach().abs().nan_to_num(nan=float("inf")).reshape(len(u), -1).amax(1)
    element = int(of_element.argmax())
    return float(of_element[element]), name_input(u, element, where, temperature=t)


def found_at(error: torch.Tensor, bound: float, u: torch.Tensor, where: str = "", t: float = 1.0) -> Found:
    figure, named = worst_of(error, u, where, t)
    return figure, bound, named
