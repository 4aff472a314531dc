"""Checks of the soft argmax: all paths of a pair against each other, enumeration and central differences."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import cached_property

import torch

from sst_cvx.checks.report import Check, Measurement, NotApplicable, Worst, at
from sst_cvx.checks.structure_checks import degenerate_utilities, enumerate_vertices, name_input, sample_utilities
from sst_cvx.regularizers import BinaryEntropy, ExponentialFamilyEntropy, Regularizer, TsallisEntropy
from sst_cvx.soft_argmax import SoftArgmax
from sst_cvx.structure.base import Structure

_Found = tuple[float, float, str]  # figure, bound, and the input of the figure
_BATCH = 4
# Bounds by path: three are exact; the layer loses accuracy at low temperatures (the measured worst, rounded up).
_GAP = {"fast": 1e-9, "active_set": 1e-9, "interior_point": 1e-8, "layer": 1e-4}
_DIFFERENCE = {"fast": 1e-7, "active_set": 1e-7, "interior_point": 1e-7, "layer": 1e-4}
_VALUE = 1e-9  # accuracy of the interior-point path
_BATCHES = {"fast": 1e-10, "active_set": 1e-10, "interior_point": 1e-9, "layer": 1e-6}


def _layer_bounds(regularizer: Regularizer, t: float) -> tuple[float, float]:
    """What the layer promises: forward, and gradient times t.

    The Jacobian of Tsallis entropies goes as x^(2 - alpha) at x = 0, so a value off by 1e-7 there has a gradient off
    by its root.
    """
    value, gradient = (1e-6, 1e-5) if t >= 1 else (1e-4, 1e-3)
    return value, 1e-2 if isinstance(regularizer, TsallisEntropy) else gradient


class _PathChecks:
    """The measurements for one (structure, regularizer); each method returns (figure, bound, where)."""

    def __init__(self, structure: Structure, regularizer: Regularizer, seed: int, parameters: dict[str, torch.Tensor]):
        self.structure, self.regularizer, self.seed, self.parameters = structure, regularizer, seed, parameters
        self.soft = SoftArgmax(structure, regularizer)
        self.exact = self.soft.path != "layer"

    @cached_property
    def reference(self) -> SoftArgmax:
        if self.soft.path == "layer":
            raise NotApplicable("answered by the layer itself")
        exponential = isinstance(self.regularizer, ExponentialFamilyEntropy)
        if exponential and self.structure.has_vertices() and len(self.structure.vertices()) == 1:
            raise NotApplicable("X has one element, and its program one weight")
        if self.structure.variable.size > 200:
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

    def answer(self, u: torch.Tensor, t: float | torch.Tensor, soft: SoftArgmax | None = None) -> torch.Tensor:
        return (soft or self.soft)(u, t, **self.parameters)

    def utilities(self) -> torch.Tensor:
        return sample_utilities(self.structure, (_BATCH,), self.seed + 1)

    def pullback(self, t: float, soft: SoftArgmax | None = None) -> torch.Tensor:
        """Vector-Jacobian product at the sample utilities, with a fixed random cotangent."""
        u = self.utilities().requires_grad_()
        (g,) = torch.autograd.grad((self.answer(u, t, soft) * self.cotangent()).sum(), u)
        return g

    def cotangent(self) -> torch.Tensor:
        return sample_utilities(self.structure, (_BATCH,), self.seed + 2)

    # -- values -----------------------------------------------------------------------------------------------

    def forward_against_layer(self, t: float) -> _Found:
        u = self.utilities()
        error = self.answer(u, t) - self.answer(u, t, self.reference)
        return _found(error, _layer_bounds(self.regularizer, t)[0], u)

    def forward_against_interior_point(self, t: float) -> _Found:
        u = self.utilities()
        return _found(self.answer(u, t) - self.answer(u, t, self.interior), 1e-8, u)

    def forward_against_enumeration(self, t: float) -> _Found:
        u = self.utilities()
        return _found(_flat(self.answer(u, t)) - self._marginals(u / t), 1e-9 if t >= 1 else 1e-8, u)

    def _marginals(self, u: torch.Tensor) -> torch.Tensor:
        points = enumerate_vertices(self.structure)
        return (_flat(u) @ points.T).softmax(-1) @ points

    def optimality_gap(self, t: float) -> _Found:
        u = self.utilities()
        x, size = self.answer(u, t), 1 + _flat(u).abs().amax(1)
        found = _found(self.soft.gap(u, x, t, **self.parameters) / size, _GAP[self.soft.path], u)
        if self.soft.path == "interior_point":  # right to 1e-9; f' of an entropy sees more than that near its ends
            gaps = self.soft.gap(u, self._off_the_ends(x), t, **self.parameters) / size
            found = min(found, _found(gaps.clamp(min=0), _GAP[self.soft.path], u))
        return found

    def _off_the_ends(self, x: torch.Tensor) -> torch.Tensor:
        """x moved by 1e-9 from where f' is infinite: from 0, and from 1 where that ends its domain too."""
        return x + _VALUE * (1 - 2 * x if isinstance(self.regularizer, BinaryEntropy) else 1)

    def limit_is_argmax(self) -> _Found:
        """0 <= <u, v - X_t> <= t (f(v) - f(X_t)) for the argmax v: what X_t loses vanishes with t."""
        u = self.utilities()
        v = self.structure.argmax(u, **self.parameters)
        temperatures = (0.1, 0.01, 0.001) if self.exact else (0.3, 0.1)
        worst = Worst()
        for t in temperatures:
            with at(f"t={t:g}"):
                loss = self._loss_beyond(u, v, t)
            worst.see(*_worst(loss, u, f"t={t:g}"))
        return worst.figure, _GAP[self.soft.path], worst.where

    def _loss_beyond(self, u: torch.Tensor, v: torch.Tensor, t: float) -> torch.Tensor:
        """How far the loss of each element is outside its range, ``(batch,)``."""
        x = self.answer(u, t)
        loss = _dot(u, v - x)
        if isinstance(self.regularizer, ExponentialFamilyEntropy):  # -f is an entropy, at most log |X|
            allowed = t * math.log(len(enumerate_vertices(self.structure)))
        else:
            event_dim = len(self.structure.event_shape)
            x_inside = x.clamp(*self.regularizer.domain)
            allowed = t * (self.regularizer.value(v, event_dim) - self.regularizer.value(x_inside, event_dim))
        return torch.maximum(loss - allowed, -loss).clamp(min=0)

    def projection(self) -> _Found:
        """Euclidean: a vertex projects to itself; <X(u) - X(v), u - v> >= t |X(u) - X(v)|^2 (firmly nonexpansive)."""
        u, t = self.utilities(), 0.5
        v = self.structure.argmax(u, **self.parameters)
        moved = self.answer(u, t) - self.answer(self.cotangent(), t)
        excess = t * _dot(moved, moved) - _dot(moved, u - self.cotangent())
        worst = Worst()
        worst.see(*_worst(self.answer(v, 1.0) - v, v, "t=1"))
        worst.see(*_worst(excess.clamp(min=0), u, f"t={t:g}"))
        return worst.figure, 1e-9, worst.where

    # -- gradients --------------------------------------------------------------------------------------------

    def gradient_against_layer(self, t: float) -> _Found:
        error = t * (self.pullback(t) - self.pullback(t, self.reference))
        return _found(error, _layer_bounds(self.regularizer, t)[1], self.utilities())

    def gradient_against_interior_point(self, t: float) -> _Found:
        return _found(t * (self.pullback(t) - self.pullback(t, self.interior)), 1e-7, self.utilities())

    def gradient_against_differences(self, t: float) -> _Found:
        """Along random directions, by Richardson's extrapolation at two step sizes.

        Where the two disagree there is a kink, and the element is left out; noise in the values would make all of
        them disagree, which fails.
        """
        u, v, g = self.utilities(), self.cotangent(), self.pullback(t)
        bound = _DIFFERENCE[self.soft.path]
        if self.soft.path == "layer":
            bound = max(bound, _layer_bounds(self.regularizer, t)[1])
        step = t * (4e-3 if self.exact else 4e-2)
        worst, smooth, count = Worst(), 0, 0
        for k in range(6):
            d = sample_utilities(self.structure, (_BATCH,), self.seed + 10 + k)
            differences = [self._difference(u, d, v, t, step / 2**i) for i in range(3)]
            first, second = ((4 * fine - coarse) / 3 for coarse, fine in itertools.pairwise(differences))
            keep = t * (first - second).abs() <= bound / 5  # the second is 16 times as good
            error = t * (second - _dot(g, d)).abs()
            worst.see(*_worst(torch.where(keep, error, 0.0), u))
            smooth, count = smooth + int(keep.sum()), count + keep.numel()
        if smooth < count / 4:
            raise ArithmeticError(f"central differences settle at {smooth} of {count} samples only: values are noisy.")
        return worst.figure, bound, worst.where

    def _difference(self, u: torch.Tensor, d: torch.Tensor, v: torch.Tensor, t: float, h: float) -> torch.Tensor:
        with torch.no_grad():
            ahead, behind = self.answer(u + h * d, t), self.answer(u - h * d, t)
        return _dot(ahead - behind, v) / (2 * h)

    def temperature_gradient(self) -> _Found:
        """dX/dt = -(u . dX/du) / t: X depends on u and t through u / t alone."""
        u, v = self.utilities().requires_grad_(), self.cotangent()
        t = torch.full((_BATCH,), 0.7, dtype=torch.float64, requires_grad=True)
        g_u, g_t = torch.autograd.grad((self.answer(u, t) * v).sum(), (u, t))
        return _found(g_t + _dot(g_u, u).detach() / 0.7, 1e-9, u, "t=0.7")

    def second_derivative(self) -> _Found:
        """Double backward against central differences of the gradient."""
        if not self.exact:
            raise NotApplicable("the layer differentiates once")
        d = sample_utilities(self.structure, (_BATCH,), self.seed + 3)

        def gradient(u: torch.Tensor, graph: bool = False) -> torch.Tensor:
            return torch.autograd.grad((self.answer(u, 1.0) * self.cotangent()).sum(), u, create_graph=graph)[0]

        u = self.utilities().requires_grad_()
        first, second = gradient(u, graph=True), torch.zeros_like(u)
        if first.requires_grad:  # else the Jacobian is piecewise constant
            try:
                (second,) = torch.autograd.grad((first * d).sum(), u)
            except RuntimeError as error:
                raise NotApplicable(f"differentiable once: {str(error)[:60]}") from None
        h, e = 1e-4, sample_utilities(self.structure, (_BATCH,), self.seed + 4)
        ahead, behind = (gradient((u + s * h * e).detach().requires_grad_()) for s in (1, -1))
        numeric = _dot(ahead - behind, d) / (2 * h)
        error = (numeric - _dot(second, e)).abs()
        median = error.median(0)  # an element may sit at a kink
        return float(median.values), 1e-5, f"t=1, {name_input(u, int(median.indices))}"

    # -- invariance -------------------------------------------------------------------------------------------

    def batch_shapes(self) -> _Found:
        """No element sees the others, whatever the batch shape; an empty batch is an empty answer."""
        u = sample_utilities(self.structure, (2, 3), self.seed) * torch.tensor([1.0, 30.0]).double().reshape(
            2, *[1] * (1 + len(self.structure.event_shape))
        )
        t = 0.5
        whole = self.answer(u, t)
        singles = torch.stack([self.answer(v, t) for v in u.reshape(6, *self.structure.event_shape)])
        empty = u[:0]
        if whole.shape != u.shape or self.answer(empty, t).shape != empty.shape:
            raise ValueError(f"shape {tuple(whole.shape)} came back for utilities of shape {tuple(u.shape)}.")
        alone = u.reshape(singles.shape)
        return _found(whole.reshape(singles.shape) - singles, _BATCHES[self.soft.path], alone, f"t={t:g}")

    def dtypes(self) -> _Found:
        u = self.utilities()
        single = self.answer(u.float(), 0.5)
        if single.dtype != torch.float32:
            raise ValueError(f"{single.dtype} came back for float32 utilities.")
        return _found(single.double() - self.answer(u.float().double(), 0.5), 2e-6, u, "float32, t=0.5")

    def degenerate(self) -> _Found:
        """Ties, zeros, huge ranges: an answer inside the hull with a vanishing gap, and finite gradients."""
        worst = Worst()
        for name, u in degenerate_utilities(self.structure, self.seed).items():
            if self.soft.path == "layer" and name == "range 1e4":
                continue  # refused or resolved, by design: the layer's business is t near the utilities' scale
            with at(f"{name}, t=1"):
                error = self._degenerate_error(name, u) / (1 + float(u.abs().max()))
            worst.see(*_worst(error, u, f"{name}, t=1"))
        return worst.figure, _GAP[self.soft.path], worst.where

    def _degenerate_error(self, name: str, u: torch.Tensor) -> torch.Tensor:
        v = u.clone().requires_grad_()
        x = self.answer(v, 1.0)
        (g,) = torch.autograd.grad((x * x).sum(), v)
        if not bool(torch.isfinite(g).all()):
            raise ValueError("the gradient is not finite.")
        x = x.detach()
        if isinstance(self.regularizer, ExponentialFamilyEntropy):
            error = (_flat(x) - self._marginals(u)).abs().amax(1)
        else:
            error = self.soft.gap(u, x, 1.0, **self.parameters).abs()
        if name == "range 1e4":  # f' has no digits left at entries within rounding of 1, so neither has the gap
            loss = self._loss_beyond(u, self.structure.argmax(u, **self.parameters), 1.0)
            return min(error, loss, key=lambda e: _worst(e, u)[0])
        return error

    def masked(self) -> _Found:
        """With all but the items of two elements forbidden: those at exactly 0, and the best of what is left."""
        if self.parameters or not self.structure.binary:
            raise NotApplicable("masks are for sets of 0/1 arrays without parameters")
        u, t = self.utilities(), 0.5
        corners = [self.structure.argmax(sample_utilities(self.structure, (_BATCH,), self.seed + i)) for i in (3, 4)]
        mask = torch.stack(corners).amax(0) > 0
        x = self.soft(u.masked_fill(~mask, torch.nan), t, mask=mask)
        if bool((x[~mask] != 0).any()):
            raise ValueError("forbidden items are not at exactly 0.")
        if isinstance(self.regularizer, ExponentialFamilyEntropy):
            points = enumerate_vertices(self.structure)
            outside = _flat(~mask).to(points.dtype) @ points.T > 1e-9
            weights = (_flat(u) @ points.T / t).masked_fill(outside, -torch.inf).softmax(-1)
            return _found(_flat(x) - weights @ points, 1e-8, u, f"t={t:g}")
        bound, size = _GAP[self.soft.path], 1 + float(u.abs().max())
        found = _found(self.soft.gap(u, x, t, mask=mask) / size, bound, u, f"t={t:g}")
        if self.soft.path == "interior_point":  # as in ``optimality_gap``
            gaps = self.soft.gap(u, self._off_the_ends(x), t, mask=mask) / size
            found = min(found, _found(gaps.clamp(min=0), bound, u, f"t={t:g}"))
        return found


def _flat(x: torch.Tensor) -> torch.Tensor:
    """(batch, *event_shape) to (batch, size)."""
    return x.reshape(len(x), -1)


def _dot(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """<x, y> of each batch element."""
    return _flat(x * y).sum(1)


def _worst(error: torch.Tensor, u: torch.Tensor, where: str = "") -> tuple[float, str]:
    """Largest absolute error of a batch and the element that has it; NaN counts as infinite."""
    if not error.numel():
        return 0.0, where
    of_element = error.detach().abs().nan_to_num(nan=float("inf")).reshape(len(u), -1).amax(1)
    element = int(of_element.argmax())
    return float(of_element[element]), f"{where}, {name_input(u, element)}".removeprefix(", ")


def _found(error: torch.Tensor, bound: float, u: torch.Tensor, where: str = "") -> _Found:
    figure, where = _worst(error, u, where)
    return figure, bound, where


def checks(
    structure: Structure,
    regularizer: Regularizer,
    temperatures: Sequence[float],
    seed: int,
    parameters: dict[str, torch.Tensor],
    must_apply: bool,
) -> list[Check]:
    """Checks of one pair. A pair that no path supports has none, or one that fails if ``must_apply``."""
    try:
        measure = _PathChecks(structure, regularizer, seed, parameters)
    except (ValueError, NotImplementedError) as error:
        return [Check(f"{regularizer!r}: supported", _failing(error))] if must_apply else []
    exponential = isinstance(regularizer, ExponentialFamilyEntropy)
    label = f"{regularizer!r} by {measure.soft.path}"
    found: list[tuple[str, Measurement]] = []
    for t in temperatures:
        if exponential:
            found.append((f"value = enumeration, t={t:g}", lambda t=t: measure.forward_against_enumeration(t)))
        else:
            found.append((f"optimality gap, t={t:g}", lambda t=t: measure.optimality_gap(t)))
        if measure.soft.path != "layer":
            found.append((f"value = layer, t={t:g}", lambda t=t: measure.forward_against_layer(t)))
            found.append((f"gradient = layer, t={t:g}", lambda t=t: measure.gradient_against_layer(t)))
        if measure.soft.path in ("fast", "active_set") and not exponential:
            found.append((f"value = interior point, t={t:g}", lambda t=t: measure.forward_against_interior_point(t)))
            found.append(
                (f"gradient = interior point, t={t:g}", lambda t=t: measure.gradient_against_interior_point(t))
            )
        found.append((f"gradient = differences, t={t:g}", lambda t=t: measure.gradient_against_differences(t)))
    if measure.soft.path == "active_set" and getattr(regularizer, "weights", None) is None:
        found.append(("projection", measure.projection))
    found += [
        ("temperature gradient", measure.temperature_gradient),
        ("second derivative", measure.second_derivative),
        ("limit t -> 0 is the argmax", measure.limit_is_argmax),
        ("batch shapes", measure.batch_shapes),
        ("float32", measure.dtypes),
        ("ties, zeros, huge ranges", measure.degenerate),
        ("forbidden items", measure.masked),
    ]
    return [Check(f"{label}: {name}", measurement) for name, measurement in found]


def _failing(error: Exception) -> Measurement:
    def measure() -> tuple[float, float]:
        raise error

    return measure
