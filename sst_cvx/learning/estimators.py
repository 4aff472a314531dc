"""Gradient estimators for E[loss(X(U))]: one signature, ``estimator(loss_fn, trick, samples=n, generator=None)``.

Each returns a surrogate ``(*batch,)`` whose value is the loss, averaged over samples, and whose backward is the
gradient estimate, for the parameters of the utilities and of ``loss_fn`` alike: ``estimator(...).mean().backward()``.
``loss_fn`` maps ``(samples, *batch, *event_shape)`` to ``(samples, *batch)``. Surrogates have first derivatives only:
those of score functions and of I-MLE are estimates, whose own derivatives mean nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from sst_cvx.arguments import check_finite, check_size
from sst_cvx.autodiff import is_transformed
from sst_cvx.host import may_ask
from sst_cvx.learning.exponential_family import ExponentialFamily
from sst_cvx.learning.noise import base_of, draw
from sst_cvx.learning.support import refuse_moving_support
from sst_cvx.learning.tricks import StochasticArgmax, StochasticSoftmax

Loss = Callable[[torch.Tensor], torch.Tensor]
Trick = StochasticArgmax | StochasticSoftmax


class Relaxed:
    """The stochastic softmax trick: differentiate the loss at relaxed samples. Biased for the discrete loss, low
    variance; the loss must make sense inside the hull (paper, section 2)."""

    straight_through = False

    def __call__(
        self,
        loss_fn: Loss,
        trick: StochasticSoftmax,
        samples: int = 1,
        *,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        if not isinstance(trick, StochasticSoftmax):
            raise TypeError(f"{type(self).__name__} needs a StochasticSoftmax, got {type(trick).__name__}.")
        shape = (check_size("samples", samples, 1),)
        x = trick.rsample(shape, straight_through=self.straight_through, generator=generator)
        return _losses(loss_fn, x, trick).mean(0)


class StraightThrough(Relaxed):
    """The loss at elements of X, differentiated as if they were the relaxed samples of the same noise."""

    straight_through = True


class ScoreFunction:
    """REINFORCE on the density of the utilities: unbiased, for any loss, and as noisy as its baseline lets it be.

    An ``ExponentialFamily`` in place of a trick: on its own ``log_prob``, at exact samples.

    Args:
        baseline: None; "leave_one_out" (mean of the other samples; two at least); "batch" (mean of the other batch
            elements; two at least); "moving_average" of the loss (of past calls); or a function of no arguments to a
            tensor of the batch's shape, such as ``lambda: net(inputs)``, trained along on its squared error (NVIL, Mnih
            and Gregor 2014); detach inputs that it shares with the utilities.
        decay: of the moving average.

    Attributes:
        average: the moving average, None before the first call; set it to resume a run. A tensor where the host is not
            asked.
    """

    def __init__(self, baseline: str | Callable[[], torch.Tensor] | None = None, decay: float = 0.9):
        names = (None, "leave_one_out", "batch", "moving_average")
        if not callable(baseline) and baseline not in names:
            raise ValueError(f"baseline must be one of {names} or a function, got {baseline!r}.")
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}.")
        self._baseline, self._decay = baseline, decay
        self.average: float | torch.Tensor | None = None

    def __call__(
        self,
        loss_fn: Loss,
        trick: Trick | ExponentialFamily,
        samples: int = 1,
        *,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        x, log_p = _scored(trick, samples, generator)
        loss = _losses(loss_fn, x, trick)
        extra = torch.zeros_like(loss)
        if callable(self._baseline):
            predicted = self._baseline()
            if not isinstance(predicted, torch.Tensor):
                raise TypeError(f"the baseline must return a tensor, got {type(predicted).__name__}.")
            if predicted.shape != trick.batch_shape:
                raise ValueError(
                    f"the baseline must have shape {tuple(trick.batch_shape)}, got {tuple(predicted.shape)}."
                )
            extra = (loss.detach() - predicted) ** 2
            baseline = predicted.detach()
        else:
            baseline = self._constant(loss.detach())
        score = (loss.detach() - baseline) * log_p
        return (loss + _silent(score) + _silent(extra)).mean(0)

    def _constant(self, loss: torch.Tensor) -> torch.Tensor | float:
        if self._baseline == "leave_one_out":
            return _others(loss, 0, "samples")
        if self._baseline == "batch":
            return _others(loss.reshape(len(loss), -1), 1, "batch elements").reshape(loss.shape)
        if self._baseline == "moving_average":
            before, now = self.average, loss.mean()
            if may_ask(loss):
                now = float(now)
                if not math.isfinite(now):  # of an empty batch
                    return 0.0 if before is None else before
            self.average = now if before is None else self._decay * before + (1 - self._decay) * now
            return 0.0 if before is None else before
        return 0.0


class ImplicitMLE:
    """I-MLE (Niepert, Minervini, Franceschi 2021): (X(U) - X(U - lambda g)) / lambda for the gradient g of the loss.

    Args:
        step: lambda, how far the utilities are moved against g.
    """

    def __init__(self, step: float = 1.0):
        if not 0 < step < math.inf:
            raise ValueError(f"step must be positive and finite, got {step}.")
        self._step = step

    def __call__(
        self, loss_fn: Loss, trick: Trick, samples: int = 1, *, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        u = _drawn(trick, samples, generator)
        # The loss is differentiated here, sample by sample: the step must not depend on what the caller reduces by.
        with torch.enable_grad():
            x = trick._hard(u)
            if is_transformed():
                loss = _losses(loss_fn, x, trick)
                g = torch.func.grad(lambda v: _losses(loss_fn, v, trick).sum() + (0 * v).sum())(x)
            else:
                loss = _losses(loss_fn, x.requires_grad_() * 1, trick)
                (g,) = torch.autograd.grad(loss.sum() + (0 * x).sum(), x, retain_graph=True)
        if may_ask(g):
            check_finite(g, "the gradient of loss_fn")
        ahead = trick._hard(u - self._step * g)
        slope = (x.detach() - ahead) / self._step
        return (loss + _silent((slope * u).reshape(*loss.shape, trick.event_shape.numel()).sum(-1))).mean(0)


class PerturbedOptimizer:
    """The loss at the mean of X(U), differentiated by the score (Berthet et al. 2020).

    The map is smooth, and estimated without bias; the loss sees a point inside the hull, as with a relaxation. Other
    samples' mean is the baseline: two samples at least.
    """

    def __call__(
        self,
        loss_fn: Loss,
        trick: Trick | ExponentialFamily,
        samples: int = 2,
        *,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        x, log_p = _scored(trick, samples, generator)
        log_p = log_p.reshape(*log_p.shape, *[1] * len(trick.event_shape))
        mean = (x + _silent((x - _others(x, 0, "samples")) * log_p)).mean(0, keepdim=True)
        return _losses(loss_fn, mean, trick)[0]


def _drawn(trick: Trick, samples: int, generator: torch.Generator | None) -> torch.Tensor:
    """Utilities ``(samples, *batch, *event_shape)``, for estimators that see no derivative but theirs."""
    if not isinstance(trick, StochasticArgmax | StochasticSoftmax):
        raise TypeError(f"trick must be a StochasticArgmax or StochasticSoftmax, got {type(trick).__name__}.")
    learning = [name for name, value in trick.parameters.items() if value.requires_grad]
    if learning and torch.is_grad_enabled():
        raise ValueError(
            f"this estimator differentiates by utilities alone, and hull parameters {learning} require a gradient: use "
            "Relaxed or StraightThrough, or detach them."
        )
    return draw(trick.utilities, (check_size("samples", samples, 1),), generator)


def _scored(
    trick: Trick | ExponentialFamily, samples: int, generator: torch.Generator | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Elements of X, and the log-density of what chose them, ``(samples, *batch)``, differentiable in parameters."""
    if isinstance(trick, ExponentialFamily):
        x = trick.sample((check_size("samples", samples, 1),), generator=generator)
        return x, trick.log_prob_unchecked(x)
    drawn = _drawn(trick, samples, generator)
    base, u = base_of(trick.utilities), drawn.detach()
    if drawn.requires_grad:
        refuse_moving_support(base, u)
    log_p = base.log_prob(u)
    if trick.mask is not None and log_p.shape == u.shape:  # forbidden items would only add noise
        log_p = torch.where(trick.mask.to(u.device), log_p, 0.0)
    shape = torch.Size((samples, *trick.batch_shape))
    return trick._hard(u), log_p.reshape(*shape, log_p.shape[len(shape) :].numel()).sum(-1)


def _losses(loss_fn: Loss, x: torch.Tensor, trick: Trick | ExponentialFamily) -> torch.Tensor:
    loss = loss_fn(x)
    expected = x.shape[: x.dim() - len(trick.event_shape)]
    if not isinstance(loss, torch.Tensor) or loss.shape != expected:
        got = tuple(loss.shape) if isinstance(loss, torch.Tensor) else type(loss).__name__
        raise ValueError(f"loss_fn must return a tensor of shape (samples, *batch) = {tuple(expected)}, got {got}.")
    if not loss.is_floating_point():
        raise TypeError(f"loss_fn must return a floating-point tensor, got {loss.dtype}: convert with .float().")
    if x.requires_grad and not loss.requires_grad:  # of a constant loss: a gradient of zero, not an error
        loss = loss + (0 * x).reshape(*expected, x.shape[len(expected) :].numel()).sum(-1)
    return loss


def _others(x: torch.Tensor, dim: int, what: str) -> torch.Tensor:
    """Means of the others along a dimension."""
    count = x.shape[dim]
    if count < 2:
        raise ValueError(f"a baseline from other {what} needs at least two, got {count}.")
    return (x.sum(dim, keepdim=True) - x) / (count - 1)


def _silent(x: torch.Tensor) -> torch.Tensor:
    """Zero, with the derivative of x."""
    return x - x.detach()
