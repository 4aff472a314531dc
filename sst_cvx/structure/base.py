"""A structure: a finite set X of arrays, declared through its convex hull."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import cvxpy as cp
import numpy as np
import torch

from sst_cvx.arguments import check_finite, check_size, check_utilities
from sst_cvx.errors import SolveError
from sst_cvx.hull.compiled import CompiledHull
from sst_cvx.hull.linear_oracle import HardArgmax
from sst_cvx.hull.violation import ViolationOfLinearHull
from sst_cvx.structure.declaration import (
    ParameterValues,
    check_declaration,
    expand_parameter,
    order_parameters,
    per_element,
)
from sst_cvx.structure.masks import Faces, Mask, by_face


class Structure:
    """A set X declared by its convex hull in CVXPY: ``Structure(x, [x >= 0, cp.sum(x) == 1])``.

    Every other variable in the constraints is an auxiliary one (an extended formulation). ``cp.Parameter``s in the
    constraints become keyword inputs of ``argmax`` and of ``SoftArgmax``, by their CVXPY names.

    Subclasses may override ``argmax``, ``vertices`` and ``log_partition``, and own fast paths. Look-up of fast paths
    is by exact type; a class declared with ``final=True`` (all of ``polytopes``) cannot be subclassed, because a
    subclass with one more constraint would inherit answers that are outside its hull.

    Args:
        variable: the event, a CVXPY variable of any shape.
        constraints: CVXPY constraints, DCP and DPP; cones that cvxpylayers takes. None where no hull is known: a
            subclass that overrides ``argmax`` then still has the Euclidean soft argmax, by the active-set path. See
            also ``from_argmax``.
        parameters: the hull's parameters in the order you want them listed; found in the constraints if left out.
        integral: True if the constraints describe conv(X). False if they are looser (a relaxation): X is then the
            set of integer points, and the hard argmax is solved as a mixed-integer program.

    Raises:
        TypeError: not a CVXPY variable or constraints.
        ValueError: boolean or complex variables, constraints that are not DCP or DPP, an empty or unbounded hull.
    """

    variable: cp.Variable
    constraints: list[Any]
    parameters: list[cp.Parameter]
    #: A class whose hull is never empty or unbounded may say so: large instances are then not canonicalised at once.
    known_bounded = False
    #: A class of 0/1 arrays may say so: it is then not found out by many calls of argmax.
    known_binary = False
    #: A class whose argmax is cheap beside its hull (an extended formulation) may say so: "auto" then takes the
    #: active-set path before the interior-point path.
    prefers_active_set = False

    def __init_subclass__(cls, *, final: bool = False, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        for base in cls.__mro__[1:]:
            if base.__dict__.get("_final", False):
                raise TypeError(
                    f"{base.__name__} is final: {cls.__name__} would inherit its argmax and fast paths, which are "
                    "wrong under another constraint. Subclass sst.Structure and declare the whole hull."
                )
        cls._final = final

    def __init__(
        self,
        variable: cp.Variable,
        constraints: Sequence[cp.Constraint | bool] | None,  # CVXPY's comparisons are typed so; a bool is refused
        *,
        parameters: Sequence[cp.Parameter] = (),
        integral: bool = True,
    ):
        self.variable, self.constraints, self.integral = variable, list(constraints or ()), integral
        self.has_hull = constraints is not None
        if not self.has_hull and not self.overrides("argmax"):
            raise TypeError(
                "constraints=None needs a subclass that overrides argmax: give the hull's constraints, or declare the "
                "set by sst.Structure.from_argmax(event_shape, argmax)."
            )
        check_declaration(variable, self.constraints)
        self.parameters = order_parameters(self.constraints, parameters)
        self.event_shape: tuple[int, ...] = tuple(variable.shape)
        if self.has_hull:
            self._check_bounded()

    @staticmethod
    def from_argmax(event_shape: int | Sequence[int], argmax: Callable[[torch.Tensor], torch.Tensor]) -> Structure:
        """A structure known by its hard argmax alone: its Euclidean soft argmax goes by the active-set path.

        Args:
            event_shape: shape of an element of X.
            argmax: utilities ``(*batch, *event_shape)`` to a maximiser of <u, x> over X, same shape, dtype and device,
                for any batch. It must be exact, and X finite.

        Raises:
            TypeError: not a function, or it returns no tensor of that dtype.
            ValueError: event_shape is no shape, or what argmax returns has a wrong shape, is not finite, is worse
                than what it returned for other utilities, or is not from a finite set.
        """
        return _ByArgmax(event_shape, argmax)

    # -- what a subclass may override -------------------------------------------------------------------------

    def argmax(self, u: torch.Tensor, **parameters: torch.Tensor) -> torch.Tensor:
        """A maximiser of <u, x> over X, a vertex: ``(*batch, *event_shape)`` in, the same shape, dtype, device out.

        This default visits the CPU: HiGHS, one warm-started LP (or MILP) a batch element. Not differentiable.

        Raises:
            ValueError, TypeError: utilities of a wrong shape or type, or not finite; missing or unknown parameters.
            SolveError: the hull at these parameters is empty or unbounded.
        """
        batch_shape = check_utilities(u, self.event_shape)
        check_finite(u, "utilities")
        values = self.flat_parameters(parameters, batch_shape)
        flat = u.detach().reshape(batch_shape.numel(), self.variable.size).to("cpu", torch.float64).numpy()
        each = per_element(values, len(flat)) if self.parameters else None
        try:
            x = self._hard_argmax(flat, each)
        except SolveError as error:
            raise error.in_batch(batch_shape) from None
        return torch.as_tensor(x).to(u.device, u.dtype).reshape(u.shape)

    def vertices(self) -> torch.Tensor:
        """All elements of X, ``(count, *event_shape)``, float64. Small sizes only.

        Raises:
            NotImplementedError: this structure does not list its vertices.
        """
        raise NotImplementedError(f"{type(self).__name__} does not list its vertices: override vertices() to do so.")

    def log_partition(self, u: torch.Tensor) -> torch.Tensor:
        """A(u) = log sum_{x in X} exp <u, x>: ``(*batch, *event_shape)`` to ``(*batch,)``, differentiable by autograd.

        Raises:
            NotImplementedError: no algorithm is known here.
        """
        raise NotImplementedError(f"{type(self).__name__} has no log_partition: override it, or list vertices().")

    def fillers(self, allowed: torch.Tensor) -> torch.Tensor | None:
        """Items that must be there whatever a mask ``(*batch, *event_shape)`` allows, bool of its shape, or None.

        E.g. an edge to each vertex that a mask cuts off, so that there are spanning trees; answers leave them out.
        """
        del allowed
        return None

    #: Why the log-partition of this instance is out of reach ("" if it is not), e.g. because it is too large.
    log_partition_refusal: str = ""

    # -- with forbidden items ---------------------------------------------------------------------------------

    def masked_argmax(self, u: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """``argmax`` over the elements that are 0 wherever ``mask`` (bool, broadcasts to u) is False.

        Utilities of forbidden items do not count, not even if they are NaN or infinite.

        Raises:
            TypeError, ValueError: as ``argmax``; a mask that is not bool or does not broadcast; a set with other
                entries than 0 and 1, or parameters. SolveError: every element has a forbidden item.
        """
        masked = Mask(self, u, mask)
        wide = u.detach().to(torch.promote_types(u.dtype, torch.float32))  # 16 bits hold no utilities that low
        if type(self).argmax is not Structure.argmax:
            return masked.removed(self.argmax(masked.lowered(wide))).to(u.dtype)
        flat = masked.lowered(wide).reshape(-1, *self.event_shape)
        x = by_face(masked, self._faces, lambda face: face, wide, lambda face, i: face.argmax(flat[i]))
        return x.to(u.dtype)

    def masked_log_partition(self, u: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """``log_partition`` over the elements that are 0 wherever ``mask`` is False; arguments as ``masked_argmax``."""
        masked = Mask(self, u, mask)
        lowered = masked.lowered(u.double())
        values = self.log_partition(lowered)
        masked.refuse(values < masked.least(lowered))
        return values.to(u.dtype)

    @cached_property
    def _faces(self) -> Faces:
        return Faces(self)

    @cached_property
    def binary(self) -> bool:
        """Whether the elements of X are 0/1 arrays."""
        return self.known_binary or self.seems_binary()

    def seems_binary(self) -> bool:
        """Whether the elements of X furthest in many directions are 0/1 arrays."""
        size = self.variable.size
        axes, generator = torch.eye(size, dtype=torch.float64), torch.Generator().manual_seed(0)
        some = torch.randn(64, size, dtype=torch.float64, generator=generator)
        x = self.argmax(torch.cat([axes, -axes, some]).reshape(-1, *self.event_shape))
        return bool((x.abs().minimum((x - 1).abs()) <= 1e-6).all())

    def face(self, kept: np.ndarray) -> Structure:
        """The structure with the items that a flat mask leaves out fixed at 0, as a declaration of its own.

        Raises:
            ValueError: it is empty.
        """
        constraints = list(self.constraints)
        if not kept.all():
            constraints.append(cp.vec(self.variable, order="C")[np.flatnonzero(~kept)] == 0)
        return Structure(self.variable, constraints, parameters=self.parameters, integral=self.integral)

    # -- what follows from the declaration --------------------------------------------------------------------

    @cached_property
    def hull(self) -> CompiledHull:
        """The canonicalised constraints.

        Raises:
            ValueError: the structure has no hull.
        """
        if not self.has_hull:
            raise ValueError(
                f"{self!r} has no hull, it is known by its argmax alone: use Euclidean(), which path='active_set' "
                "answers, or declare the hull by sst.Structure(variable, constraints)."
            )
        return CompiledHull(self.variable, self.constraints, self.parameters)

    @cached_property
    def _hard_argmax(self) -> HardArgmax:
        return HardArgmax(self.hull, self.integral)

    @cached_property
    def _event_violation(self) -> ViolationOfLinearHull:
        return ViolationOfLinearHull(self.hull.at(), event_only=True)

    @cached_property
    def _support(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Directions ``(count, size)``, and the largest <d, x> over X: both ways along each coordinate, and the sum."""
        axes = torch.eye(self.variable.size, dtype=torch.float64)
        directions = torch.cat([axes, -axes, axes.sum(0, keepdim=True), -axes.sum(0, keepdim=True)])
        best = self.argmax(directions.reshape(-1, *self.event_shape))
        return directions, (best.reshape(len(best), -1) * directions).sum(1)

    def overrides(self, method: str) -> bool:
        """Whether this instance's own class (not a base class) gives ``method``."""
        return type(self) is not Structure and method in type(self).__dict__

    def violation(self, x: torch.Tensor) -> torch.Tensor | None:
        """How far points ``(batch, size)`` are outside the hull, ``(batch,)``; None if not decidable from x alone.

        Rows with auxiliary variables are not seen here. Without a hull, by the support function along a few directions.
        """
        if not self.has_hull:
            directions, support = (part.to(x.device, x.dtype) for part in self._support)
            return ((x @ directions.T - support) / (1 + support.abs())).amax(1)
        if self.parameters or not self.hull.linear:
            return None
        return self._event_violation(x)

    @cached_property
    def sees_hull(self) -> bool:
        """Whether ``violation`` sees every row of the hull."""
        if not self.has_hull or self.parameters or self.overrides("violation"):
            return False
        return self.hull.linear and self.hull.at().lower.size == self.variable.size

    def has_vertices(self) -> bool:
        """Whether ``vertices()`` answers."""
        return type(self).vertices is not Structure.vertices

    def has_log_partition(self) -> bool:
        """Whether ``log_partition`` answers for this instance."""
        return type(self).log_partition is not Structure.log_partition and not self.log_partition_refusal

    def coordinate_range(self, tight: bool = False) -> tuple[np.ndarray, np.ndarray] | None:
        """Bounds of each event coordinate over the hull; None if they depend on parameters.

        [0, 1] for ``known_binary`` classes; declared bounds where there are any, else (or with ``tight``) by a linear
        program a coordinate.
        """
        if self.parameters:
            return None
        size = self.variable.size
        if self.known_binary:
            return np.zeros(size), np.ones(size)
        if not self.has_hull:
            ends = self._support[1].numpy()
            return -ends[size : 2 * size], ends[:size]
        lower, upper = np.full(size, -np.inf), np.full(size, np.inf)
        if self.hull.linear and not tight:
            linear = self.hull.at()
            lower, upper = linear.lower[linear.event].copy(), linear.upper[linear.event].copy()
        relaxed = HardArgmax(self.hull, integral=True)
        for ends, sign in ((lower, -1.0), (upper, 1.0)):
            for i in np.flatnonzero(~np.isfinite(ends)):
                ends[i] = relaxed(sign * np.eye(1, size, int(i)))[0, i]
        return lower, upper

    def flat_parameters(self, given: ParameterValues, batch_shape: torch.Size) -> dict[str, torch.Tensor]:
        """Parameter tensors checked and expanded to ``(batch, *shape)``, float64 on the CPU, still differentiable.

        Raises:
            TypeError: a missing or unknown name. ValueError: a wrong shape, non-finite or wrongly signed values.
        """
        if not self.parameters and not given:
            return {}
        names = [p.name() for p in self.parameters]
        missing, unknown = set(names) - set(given), set(given) - set(names)
        if missing or unknown:
            raise TypeError(
                f"hull parameters are {names or 'none'}:"
                + (f" missing {sorted(missing)}" if missing else "")
                + (f" unknown {sorted(unknown)}" if unknown else "")
                + ". Give each by its CVXPY name."
            )
        return {p.name(): expand_parameter(p, given[p.name()], batch_shape) for p in self.parameters}

    def _check_bounded(self) -> None:
        if self.parameters or self.known_bounded:  # with parameters: decided when values are known
            return
        direction = np.random.default_rng(0).normal(size=(1, self.variable.size))
        relaxed = HardArgmax(self.hull, integral=True)
        for sign in (1, -1):
            try:
                relaxed(sign * direction)
            except SolveError as error:
                what = "unbounded" if "unbounded" in error.status[0] else "empty"
                hint = "add bounds on the event variable" if what == "unbounded" else "its constraints contradict"
                raise ValueError(f"the hull is {what} ({error.status[0]}): {hint}.") from None

    def __repr__(self) -> str:
        extra = f", parameters=[{', '.join(p.name() for p in self.parameters)}]" if self.parameters else ""
        loose = "" if self.integral else ", integral=False"
        if not self.has_hull:
            return f"{type(self).__name__}(event_shape={self.event_shape}, no hull)"
        return (
            f"{type(self).__name__}(event_shape={self.event_shape}, {len(self.constraints)} constraints{extra}{loose})"
        )


class _ByArgmax(Structure, final=True):
    """What ``Structure.from_argmax`` returns."""

    def __init__(self, event_shape: int | Sequence[int], argmax: Callable[[torch.Tensor], torch.Tensor]):
        if not callable(argmax):
            raise TypeError(f"argmax must be a function of utilities, got {type(argmax).__name__}.")
        shape = (event_shape,) if isinstance(event_shape, int) else tuple(event_shape)
        self._function = argmax
        super().__init__(cp.Variable(tuple(check_size("event_shape", s, 1) for s in shape)), None)
        self._probe()

    def argmax(self, u: torch.Tensor, **parameters: torch.Tensor) -> torch.Tensor:
        """The function given to ``from_argmax``, with its answer checked for shape, dtype, device and finiteness."""
        batch_shape = check_utilities(u, self.event_shape)
        check_finite(u, "utilities")
        self.flat_parameters(parameters, batch_shape)  # there are none
        with torch.no_grad():
            x = self._function(u.detach())
        if not isinstance(x, torch.Tensor) or x.dtype != u.dtype or x.device != u.device:
            got = f"{x.dtype} on {x.device}" if isinstance(x, torch.Tensor) else type(x).__name__
            raise TypeError(
                f"argmax must return a tensor of the dtype and device of the utilities, {u.dtype} on {u.device}, got "
                f"{got}: end it with .to(u)."
            )
        if x.shape != u.shape:
            raise ValueError(
                f"argmax must return the shape of the utilities, {tuple(u.shape)}, got {tuple(x.shape)}: it maps "
                "(*batch, *event_shape) to the same, for any leading batch dimensions."
            )
        check_finite(x, "what argmax returned")
        return x.detach()

    def _probe(self) -> None:
        """On random utilities: batched and single, both dtypes; no answer may be worse than another element's, and
        none may follow small changes of the utilities continuously."""
        u = torch.randn(8, *self.event_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        self.argmax(u[:0])
        self.argmax(u[0].float())
        x = self.argmax(u.reshape(2, 4, *self.event_shape)).reshape(8, -1)
        values = u.reshape(8, -1) @ x.T
        loss = values.amax(1) - values.diagonal()
        if bool((loss > 1e-9 * (1 + values.abs().amax())).any()):
            raise ValueError(
                f"argmax is not a maximiser: for some utilities its answer is worse, by {float(loss.max()):.3g}, than "
                "what it returned for others. Return the x in X with the largest (u * x).sum()."
            )

        moved = (self.argmax(u + 1e-6 * u.flip(0)).reshape(8, -1) - x).abs().amax(1) / (1e-300 + x.abs().max())
        if bool(((moved > 1e-11) & (moved < 1e-4)).any()):
            raise ValueError(
                "argmax is not that of a finite set: its answer moves a little when utilities do. For a smooth body "
                "declare its hull: sst.Structure(variable, constraints)."
            )

    def __repr__(self) -> str:
        name = getattr(self._function, "__qualname__", type(self._function).__name__)
        return f"Structure.from_argmax({self.event_shape}, {name})"
