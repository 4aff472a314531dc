"""Strongly convex regularizers f: each is a CVXPY expression and a torch function."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sst_cvx.autodiff import gradient
from sst_cvx.once import later
from sst_cvx.structure.base import Structure
from sst_cvx.structure.declaration import forget_canonical_form

if TYPE_CHECKING:
    import cvxpy as cp
else:
    cp = later("cvxpy")


class Regularizer:
    """Your own strongly convex f: ``Regularizer(lambda x: cp.sum_squares(x) + cp.sum(cp.exp(x)))``.

    Args:
        expression: a function of the event variable to a scalar CVXPY expression, or such an expression in the
            variable of the one structure it is used with.
        value: the same f in torch, ``(*batch, *event_shape)`` to ``(*batch,)``; used by ``SoftArgmax.gap``.

    The checks (DCP, finite on the hull, strongly convex there) run when it meets a structure, in ``SoftArgmax``.
    """

    #: Smallest and largest coordinate at which f is finite.
    domain: tuple[float, float] = (-math.inf, math.inf)
    #: Whether its program is over conv(X) itself, whatever hull is declared.
    within_set = False
    #: Whether f is a sum over coordinates of one function (a diagonal Hessian).
    separable = False
    #: Whether this very class is known to be convex and strongly convex, so that no instance needs a test of it.
    certified = False

    def __init_subclass__(cls, *, certified: bool = False, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        cls.certified = certified  # not inherited: a subclass may override its terms

    def __init__(
        self,
        expression: Callable[[cp.Variable], cp.Expression] | cp.Expression,
        value: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ):
        if not (callable(expression) or isinstance(expression, cp.Expression)):
            raise TypeError("expression must be a CVXPY expression, or a function of the variable that returns one.")
        self._expression, self._value = expression, value

    def __setstate__(self, state: dict[str, Any]) -> None:
        """The structure that is loaded along gives its variable a new number."""
        self.__dict__.update(state)
        expression = state.get("_expression")
        if not (expression is None or callable(expression)):
            forget_canonical_form(expression)

    def expression(self, variable: cp.Variable) -> Any:
        """f as a CVXPY expression of the event variable."""
        return self._expression(variable) if callable(self._expression) else self._expression

    def program(self, structure: Structure) -> tuple[Any, list[Any]]:
        """f over the structure's variable, and the constraints of the soft argmax: the declared hull."""
        return self.expression(structure.variable), structure.constraints

    def value(self, x: torch.Tensor, event_dim: int = 1) -> torch.Tensor:
        """f(x): ``(*batch, *event_shape)`` to ``(*batch,)``."""
        if self._value is None:
            raise NotImplementedError("this regularizer has no torch value: pass value= to sst.Regularizer.")
        return self._value(x)

    def gradient(self, x: torch.Tensor, event_dim: int = 1) -> torch.Tensor:
        """grad f(x), shape of x."""
        return gradient(lambda y: self.value(y, event_dim), x.detach())

    def gradient_near(self, x: torch.Tensor, e: torch.Tensor, event_dim: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        """grad f(x') at an x' within e of x, and D(x, x') = f(x) - f(x') - <grad f(x'), x - x'> by coordinates, both
        of the shape of x. x' is where f' is tamest, towards the middle of the domain; x itself where that has no end.
        """
        del e
        return self.gradient(x, event_dim), torch.zeros_like(x)

    def slope_of_log(self, log: torch.Tensor) -> torch.Tensor:
        """phi'(x_i) from log x_i, which may underflow in x; entropies alone have it.

        Raises:
            NotImplementedError: this one does not.
        """
        raise NotImplementedError(f"{self!r} has no slope_of_log(log): leave log= out.")

    def strong_convexity(self, structure: Structure) -> float:
        """A modulus of strong convexity of f on the hull, in the Euclidean norm; 0 if unknown."""
        return 0.0

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class SeparableRegularizer(Regularizer):
    """f(x) = sum_i a_i phi(x_i): subclasses give phi in CVXPY (``terms``) and in torch (``elementwise``).

    Subclass it for a phi of your own. Its derivatives come from autograd unless ``slope`` and ``curvature`` are given.

    Args:
        weights: the a_i, positive, a number or an array of the event's shape (or one that broadcasts to it).

    Raises:
        ValueError: weights that are not positive and finite.
    """

    separable = True
    #: Whether phi' is infinite at the lower, upper end of the domain; then no solution touches that end.
    steep = (False, False)
    #: phi'(1) - phi'(0), for threshold searches over the unit box.
    unit_slopes: float = math.inf
    #: The slope that ``unit_inverse_slope`` counts from, phi'(0), or where that is infinite another one.
    slope_origin: float = 0.0

    def __init__(self, weights: Any = None) -> None:
        self.weights: torch.Tensor | None = None
        if weights is not None:
            self.weights = torch.as_tensor(weights, dtype=torch.float64, device="cpu").detach().clone()
            if not bool((torch.isfinite(self.weights) & (self.weights > 0)).all()):
                raise ValueError("weights must be positive and finite: f is strongly convex in every coordinate.")

    def terms(self, variable: Any) -> Any:
        """phi(x_i) as a CVXPY expression, shape of the variable."""
        raise NotImplementedError(f"{type(self).__name__} must override terms(variable).")

    def expression(self, variable: cp.Variable) -> Any:
        if self.weights is None:
            return cp.sum(self.terms(variable))
        return cp.sum(cp.multiply(np.broadcast_to(self.weights.numpy(), variable.shape), self.terms(variable)))

    def expression_of(
        self, w: cp.Variable, coordinates: np.ndarray, columns: np.ndarray, shape: tuple[int, ...]
    ) -> Any:
        """The part of f of some (row-major) event coordinates that are columns of the vector ``w``."""
        return cp.sum(cp.multiply(self.flat_weights(shape).numpy()[coordinates], self.terms(w[columns])))

    def flat_weights(self, shape: tuple[int, ...]) -> torch.Tensor:
        """The a_i of an event of this shape, flat, float64."""
        weights = torch.ones((), dtype=torch.float64, device="cpu") if self.weights is None else self.weights
        return weights.broadcast_to(shape).reshape(-1)

    def program(self, structure: Structure) -> tuple[Any, list[Any]]:
        """f and the hull; bounds of f's domain that the hull only implies are said aloud.

        Conic derivatives of entropies are right to 1e-4 with these rows, and arbitrarily wrong without.
        """
        f, constraints = super().program(structure)
        x, (low, high) = structure.variable, self.domain
        if structure.hull.linear and not structure.parameters:
            hull = structure.declared_hull.at()
            if math.isfinite(low) and np.isinf(hull.lower[hull.event]).any():
                constraints = [*constraints, x >= low]
            if math.isfinite(high) and np.isinf(hull.upper[hull.event]).any():
                constraints = [*constraints, x <= high]
        return f, constraints

    def elementwise(self, x: torch.Tensor) -> torch.Tensor:
        """phi(x_i), shape of x."""
        raise NotImplementedError

    def slope(self, x: torch.Tensor) -> torch.Tensor:
        """phi'(x_i)."""
        return gradient(self.elementwise, x)

    def curvature(self, x: torch.Tensor) -> torch.Tensor:
        """phi''(x_i); differentiable."""
        return gradient(lambda y: gradient(self.elementwise, y), x)

    def inverse_curvature(self, x: torch.Tensor) -> torch.Tensor:
        """1 / phi''(x_i); differentiable."""
        return self.curvature(x).reciprocal()

    def inverse_slope(self, s: torch.Tensor) -> torch.Tensor:
        """The x with phi'(x) = s; needed only where phi is steep, and used by Newton steps elsewhere if given."""
        raise NotImplementedError

    def unit_inverse_slope(self, s: torch.Tensor) -> torch.Tensor:
        """g(s), the x in [0, 1] whose slope phi'(x) is nearest to s + ``slope_origin``."""
        raise NotImplementedError(f"{type(self).__name__} has no unit_inverse_slope(s).")

    def unit_inverse_curvature(self, x: torch.Tensor) -> torch.Tensor:
        """g'(s) as a function of x = g(s): 1 / phi''(x), but 0 at ends of [0, 1] where g is cut; differentiable."""
        raise NotImplementedError(f"{type(self).__name__} has no unit_inverse_curvature(x).")

    def value(self, x: torch.Tensor, event_dim: int = 1) -> torch.Tensor:
        phi = self.weighted(self.elementwise(x))
        return phi.sum(dim=tuple(range(-event_dim, 0))) if event_dim else phi

    def gradient(self, x: torch.Tensor, event_dim: int = 1) -> torch.Tensor:
        return self.weighted(self.slope(x))

    def gradient_near(self, x: torch.Tensor, e: torch.Tensor, event_dim: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        if not any(map(math.isfinite, self.domain)):
            return super().gradient_near(x, e, event_dim)
        slope, divergence = self.slope_near(x.clamp(*self.domain), e)
        return self.weighted(slope), self.weighted(divergence)

    def slope_near(self, x: torch.Tensor, e: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """phi'(x'_i) for the x' = x + e near the lower end of the domain and x - e near the upper one, and D(x, x')
        of each coordinate, shape of x."""
        low, high = self.domain
        if math.isfinite(low) and math.isfinite(high):
            inward = torch.where(x > 0.5 * (low + high), -1.0, 1.0)
        else:
            inward = 1.0 if math.isfinite(low) else -1.0
        near = (x + inward * e).clamp(low, high)
        slope = self.slope(near)
        return slope, self.divergence(x, near, slope)

    def divergence(self, x: torch.Tensor, near: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        """D(x_i, x'_i) for x' = ``near``, where phi' is ``slope``."""
        return (self.elementwise(x) - self.elementwise(near) - slope * (x - near)).clamp(min=0.0)

    def weighted(self, terms: torch.Tensor) -> torch.Tensor:
        """a_i times what belongs to coordinate i, ``(*batch, *event_shape)``."""
        return terms if self.weights is None else terms * self.weights.to(terms.device, terms.dtype)

    def strong_convexity(self, structure: Structure) -> float:
        modulus = self.modulus(structure)
        return modulus if self.weights is None else modulus * float(self.weights.min())

    def modulus(self, structure: Structure) -> float:
        """Smallest phi'' on the hull; 0 if unknown."""
        return 0.0

    def __repr__(self) -> str:
        weighted = "" if self.weights is None else f"weights={tuple(self.weights.shape)}"
        return f"{type(self).__name__}({weighted})"


TINY = np.finfo(np.float64).tiny  # log of an entry that underflowed to 0


def largest_coordinate(structure: Structure) -> float:
    """Of the hull; infinite, for a modulus of 0, where it depends on parameters."""
    reach = structure.coordinate_range()
    return math.inf if reach is None else max(float(reach[1].max()), 1e-12)
