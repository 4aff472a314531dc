"""Checks of the soft argmax: all paths of a pair against each other, enumeration and central differences."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import cached_property

import torch

from sst_cvx.checks.report import Check, Measurement, NotApplicable
from sst_cvx.checks.structure_checks import degenerate_utilities, enumerate_vertices, sample_utilities
from sst_cvx.regularizers import BinaryEntropy, ExponentialFamilyEntropy, Regularizer, TsallisEntropy
from sst_cvx.soft_argmax import SoftArgmax
from sst_cvx.structure.base import Structure

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
    """The measurements for one (structure, regularizer); each method returns (figure, bound)."""

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

    def forward_against_layer(self, t: float) -> tuple[float, float]:
        u = self.utilities()
        return _largest(self.answer(u, t) - self.answer(u, t, self.reference)), _layer_bounds(self.regularizer, t)[0]

    def forward_against_interior_point(self, t: float) -> tuple[float, float]:
        u = self.utilities()
        return _largest(self.answer(u, t) - self.answer(u, t, self.interior)), 1e-8

    def forward_against_enumeration(self, t: float) -> tuple[float, float]:
        u = self.utilities()
        return _largest(_flat(self.answer(u, t)) - self._marginals(u / t)), 1e-9 if t >= 1 else 1e-8

    def _marginals(self, u: torch.Tensor) -> torch.Tensor:
        points = enumerate_vertices(self.structure)
        return (_flat(u) @ points.T).softmax(-1) @ points

    def optimality_gap(self, t: float) -> tuple[float, float]:
        u = self.utilities()
        x, size = self.answer(u, t), 1 + _flat(u).abs().amax(1)
        figure = _largest(self.soft.gap(u, x, t, **self.parameters) / size)
        if self.soft.path == "interior_point":  # right to 1e-9; f' of an entropy sees more than that near its ends
            gaps = self.soft.gap(u, self._off_the_ends(x), t, **self.parameters) / size
            figure = min(figure, _largest(gaps.clamp(min=0)))
        return figure, _GAP[self.soft.path]

    def _off_the_ends(self, x: torch.Tensor) -> torch.Tensor:
        """x moved by 1e-9 from where f' is infinite: from 0, and from 1 where that ends its domain too."""
        return x + _VALUE * (1 - 2 * x if isinstance(self.regularizer, BinaryEntropy) else 1)

    def limit_is_argmax(self) -> tuple[float, float]:
        """0 <= <u, v - X_t> <= t (f(v) - f(X_t)) for the argmax v: what X_t loses vanishes with t."""
        u = self.utilities()
        v = self.structure.argmax(u, **self.parameters)
        temperatures = (0.1, 0.01, 0.001) if self.exact else (0.3, 0.1)
        return max(self._loss_beyond(u, v, t) for t in temperatures), _GAP[self.soft.path]

    def _loss_beyond(self, u: torch.Tensor, v: torch.Tensor, t: float) -> float:
        x = self.answer(u, t)
        loss = _dot(u, v - x)
        if isinstance(self.regularizer, ExponentialFamilyEntropy):  # -f is an entropy, at most log |X|
            allowed = t * math.log(len(enumerate_vertices(self.structure)))
        else:
            event_dim = len(self.structure.event_shape)
            x_inside = x.clamp(*self.regularizer.domain)
            allowed = t * (self.regularizer.value(v, event_dim) - self.regularizer.value(x_inside, event_dim))
        return max(_largest(loss - allowed, signed=True), _largest(-loss, signed=True), 0.0)

    def projection(self) -> tuple[float, float]:
        """Euclidean: a vertex projects to itself; <X(u) - X(v), u - v> >= t |X(u) - X(v)|^2 (firmly nonexpansive)."""
        u, t = self.utilities(), 0.5
        v = self.structure.argmax(u, **self.parameters)
        moved = self.answer(u, t) - self.answer(self.cotangent(), t)
        excess = t * _dot(moved, moved) - _dot(moved, u - self.cotangent())
        return max(_largest(self.answer(v, 1.0) - v), _largest(excess, signed=True)), 1e-9

    # -- gradients --------------------------------------------------------------------------------------------

    def gradient_against_layer(self, t: float) -> tuple[float, float]:
        return t * _largest(self.pullback(t) - self.pullback(t, self.reference)), _layer_bounds(self.regularizer, t)[1]

    def gradient_against_interior_point(self, t: float) -> tuple[float, float]:
        return t * _largest(self.pullback(t) - self.pullback(t, self.interior)), 1e-7

    def gradient_against_differences(self, t: float) -> tuple[float, float]:
        """Along random directions, by Richardson's extrapolation at two step sizes.

        Where the two disagree there is a kink, and the element is left out; noise in the values would make all of
        them disagree, which fails.
        """
        u, v, g = self.utilities(), self.cotangent(), self.pullback(t)
        bound = _DIFFERENCE[self.soft.path]
        if self.soft.path == "layer":
            bound = max(bound, _layer_bounds(self.regularizer, t)[1])
        step = t * (4e-3 if self.exact else 4e-2)
        worst, smooth, count = 0.0, 0, 0
        for k in range(6):
            d = sample_utilities(self.structure, (_BATCH,), self.seed + 10 + k)
            differences = [self._difference(u, d, v, t, step / 2**i) for i in range(3)]
            first, second = ((4 * fine - coarse) / 3 for coarse, fine in itertools.pairwise(differences))
            keep = t * (first - second).abs() <= bound / 5  # the second is 16 times as good
            error = t * (second - _dot(g, d)).abs()
            worst = max(worst, _largest(torch.where(keep, error, 0.0)))
            smooth, count = smooth + int(keep.sum()), count + keep.numel()
        if smooth < count / 4:
            raise ArithmeticError(f"central differences settle at {smooth} of {count} samples only: values are noisy.")
        return worst, bound

    def _difference(self, u: torch.Tensor, d: torch.Tensor, v: torch.Tensor, t: float, h: float) -> torch.Tensor:
        with torch.no_grad():
            ahead, behind = self.answer(u + h * d, t), self.answer(u - h * d, t)
        return _dot(ahead - behind, v) / (2 * h)

    def temperature_gradient(self) -> tuple[float, float]:
        """dX/dt = -(u . dX/du) / t: X depends on u and t through u / t alone."""
        u, v = self.utilities().requires_grad_(), self.cotangent()
        t = torch.full((_BATCH,), 0.7, dtype=torch.float64, requires_grad=True)
        g_u, g_t = torch.autograd.grad((self.answer(u, t) * v).sum(), (u, t))
        return _largest(g_t + _dot(g_u, u).detach() / 0.7), 1e-9

    def second_derivative(self) -> tuple[float, float]:
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
        return float(error.median()), 1e-5  # the median: an element may sit at a kink

    # -- invariance -------------------------------------------------------------------------------------------

    def batch_shapes(self) -> tuple[float, float]:
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
        return _largest(whole.reshape(singles.shape) - singles), _BATCHES[self.soft.path]

    def dtypes(self) -> tuple[float, float]:
        u = self.utilities()
        single = self.answer(u.float(), 0.5)
        if single.dtype != torch.float32:
            raise ValueError(f"{single.dtype} came back for float32 utilities.")
        return _largest(single.double() - self.answer(u.float().double(), 0.5)), 2e-6

    def degenerate(self) -> tuple[float, float]:
        """Ties, zeros, huge ranges: an answer inside the hull with a vanishing gap, and finite gradients."""
        worst = 0.0
        for name, u in degenerate_utilities(self.structure, self.seed).items():
            if self.soft.path == "layer" and name == "range 1e4":
                continue  # refused or resolved, by design: the layer's business is t near the utilities' scale
            v = u.clone().requires_grad_()
            x = self.answer(v, 1.0)
            (g,) = torch.autograd.grad((x * x).sum(), v)
            if not bool(torch.isfinite(g).all()):
                raise ValueError(f"gradient is not finite at {name}.")
            error = self._degenerate_error(u, x.detach())
            if name == "range 1e4":  # f' has no digits left at entries within rounding of 1, so neither has the gap
                error = min(error, self._loss_beyond(u, self.structure.argmax(u, **self.parameters), 1.0))
            worst = max(worst, error / (1 + float(u.abs().max())))
        return worst, _GAP[self.soft.path]

    def masked(self) -> tuple[float, float]:
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
            return _largest(_flat(x) - weights @ points), 1e-8
        figure, size = _largest(self.soft.gap(u, x, t, mask=mask)), 1 + float(u.abs().max())
        if self.soft.path == "interior_point":  # as in ``optimality_gap``
            figure = min(figure, _largest(self.soft.gap(u, self._off_the_ends(x), t, mask=mask).clamp(min=0)))
        return figure / size, _GAP[self.soft.path]

    def _degenerate_error(self, u: torch.Tensor, x: torch.Tensor) -> float:
        if isinstance(self.regularizer, ExponentialFamilyEntropy):
            return _largest(_flat(x) - self._marginals(u))
        return _largest(self.soft.gap(u, x, 1.0, **self.parameters))


def _flat(x: torch.Tensor) -> torch.Tensor:
    """(batch, *event_shape) to (batch, size)."""
    return x.reshape(len(x), -1)


def _dot(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """<x, y> of each batch element."""
    return _flat(x * y).sum(1)


def _largest(error: torch.Tensor, signed: bool = False) -> float:
    """Largest (absolute) entry; NaN counts as infinite."""
    values = error.detach() if signed else error.detach().abs()
    return float(values.nan_to_num(nan=float("inf")).max()) if values.numel() else 0.0


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
