"""A structure: a finite set X of arrays, declared through its convex hull."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import cvxpy as cp
import numpy as np
import torch

from sst_cvx.hard_argmax import HardArgmax
from sst_cvx.hull import CompiledHull, ViolationOfLinearHull
from sst_cvx.masking import Faces, Mask, by_face
from sst_cvx.validation import SolveError, check_finite, check_utilities

ParameterValues = dict[str, torch.Tensor]


class Structure:
    """A set X declared by its convex hull in CVXPY: ``Structure(x, [x >= 0, cp.sum(x) == 1])``.

    Every other variable in the constraints is an auxiliary one (an extended formulation). ``cp.Parameter``s in the
    constraints become keyword inputs of ``argmax`` and of ``SoftArgmax``, by their CVXPY names.

    Subclasses may override ``argmax``, ``vertices`` and ``log_partition``, and own fast paths. Look-up of fast paths
    is by exact type; a class declared with ``final=True`` (all of ``polytopes``) cannot be subclassed, because a
    subclass with one more constraint would inherit answers that are outside its hull.

    Args:
        variable: the event, a CVXPY variable of any shape.
        constraints: CVXPY constraints, DCP and DPP; cones that cvxpylayers takes.
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
        constraints: Sequence[cp.Constraint | bool],  # CVXPY's comparisons are typed so; a bool is refused
        *,
        parameters: Sequence[cp.Parameter] = (),
        integral: bool = True,
    ):
        self.variable, self.constraints, self.integral = variable, list(constraints), integral
        _check_declaration(variable, self.constraints)
        self.parameters = _order_parameters(self.constraints, parameters)
        self.event_shape: tuple[int, ...] = tuple(variable.shape)
        self._check_bounded()

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
        per_element = _per_element(values, len(flat)) if self.parameters else None
        try:
            x = self._hard_argmax(flat, per_element)
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
            TypeError, ValueError: as ``argmax``; a mask that is not bool or does not broadcast; a set with negative
                entries or parameters. SolveError: every element has a forbidden item.
        """
        masked = Mask(self, u, mask)
        if type(self).argmax is not Structure.argmax:
            return masked.removed(self.argmax(masked.lowered(u.detach())))
        flat = masked.lowered(u.detach()).reshape(-1, *self.event_shape)
        return by_face(masked, self._faces, lambda face: face, u.detach(), lambda face, i: face.argmax(flat[i]))

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
    def nonnegative(self) -> bool:
        """Whether all entries are at least 0 on the hull."""
        reach = self.coordinate_range()
        return reach is not None and bool((reach[0] >= -1e-9).all())

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
        """The canonicalised constraints."""
        return CompiledHull(self.variable, self.constraints, self.parameters)

    @cached_property
    def _hard_argmax(self) -> HardArgmax:
        return HardArgmax(self.hull, self.integral)

    @cached_property
    def _event_violation(self) -> ViolationOfLinearHull:
        return ViolationOfLinearHull(self.hull.at(), event_only=True)

    def overrides(self, method: str) -> bool:
        """Whether this instance's own class (not a base class) gives ``method``."""
        return type(self) is not Structure and method in type(self).__dict__

    def violation(self, x: torch.Tensor) -> torch.Tensor | None:
        """How far points ``(batch, size)`` are outside the hull, ``(batch,)``; None if not decidable from x alone.

        Rows with auxiliary variables are not seen here.
        """
        if self.parameters or not self.hull.linear:
            return None
        return self._event_violation(x)

    def has_vertices(self) -> bool:
        """Whether ``vertices()`` answers."""
        return type(self).vertices is not Structure.vertices

    def has_log_partition(self) -> bool:
        """Whether ``log_partition`` answers for this instance."""
        return type(self).log_partition is not Structure.log_partition and not self.log_partition_refusal

    def coordinate_range(self, tight: bool = False) -> tuple[np.ndarray, np.ndarray] | None:
        """Bounds of each event coordinate over the hull; None if they depend on parameters.

        Declared bounds where there are any, else (or with ``tight``) by a linear program a coordinate.
        """
        if self.parameters:
            return None
        size = self.variable.size
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
        return {p.name(): _expand_parameter(p, given[p.name()], batch_shape) for p in self.parameters}

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
        return (
            f"{type(self).__name__}(event_shape={self.event_shape}, {len(self.constraints)} constraints{extra}{loose})"
        )


def _check_declaration(variable: cp.Variable, constraints: list[Any]) -> None:
    if not isinstance(variable, cp.Variable):
        raise TypeError(f"variable must be a cvxpy.Variable, got {type(variable).__name__}.")
    for c in constraints:
        if isinstance(c, (bool, np.bool_)) or not isinstance(c, cp.Constraint):
            raise TypeError(f"constraints must be CVXPY constraints, got {c!r} ({type(c).__name__}).")
        if not c.is_dcp():
            raise ValueError(f"constraint {c} is not DCP: rewrite it so that CVXPY can see that it is convex.")
        if not c.is_dcp(dpp=True):
            raise ValueError(f"constraint {c} is not DPP: parameters must enter affinely (no product of parameters).")
    for v in [variable, *(v for c in constraints for v in c.variables())]:
        if v.attributes["boolean"] or v.attributes["integer"]:
            raise ValueError(
                f"variable {v.name()} is boolean or integer: declare the convex hull with a continuous variable; "
                "if the constraints are looser than conv(X), say integral=False."
            )
        if v.is_complex():
            raise ValueError(f"variable {v.name()} is complex: structures are sets of real arrays.")


def _order_parameters(constraints: list[Any], listed: Sequence[cp.Parameter]) -> list[cp.Parameter]:
    found = {p.id: p for c in constraints for p in c.parameters()}
    if listed and {p.id for p in listed} != set(found):
        raise ValueError(
            f"parameters lists {[p.name() for p in listed]}, but the constraints contain "
            f"{[p.name() for p in found.values()]}: list exactly these, or leave the argument out."
        )
    ordered = list(listed) if listed else list(found.values())
    names = [p.name() for p in ordered]
    taken = {"self", "u", "x", "temperature", "mask"}
    if len(set(names)) < len(names) or taken & set(names) or not all(name.isidentifier() for name in names):
        raise ValueError(f"hull parameters {names} need distinct names, valid in Python and none of {sorted(taken)}.")
    return ordered


def _expand_parameter(p: cp.Parameter, value: object, batch_shape: torch.Size) -> torch.Tensor:
    tensor = torch.as_tensor(value).to("cpu", torch.float64)
    split = tensor.dim() - len(p.shape)
    event, batch = tuple(tensor.shape[max(split, 0) :]), tensor.shape[: max(split, 0)]
    try:
        fits = split >= 0 and event == tuple(p.shape) and torch.broadcast_shapes(batch, batch_shape) == batch_shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"parameter {p.name()} has shape {tuple(tensor.shape)}; it must be {tuple(p.shape)}, optionally with "
            f"leading dimensions that broadcast to the batch {tuple(batch_shape)}."
        )
    check_finite(tensor, f"parameter {p.name()}")
    numbers = tensor.detach().numpy().reshape(-1, *p.shape)
    if not all(np.allclose(p.project(v), v, atol=1e-9) for v in numbers):
        raise ValueError(f"parameter {p.name()} violates its CVXPY attributes (sign, symmetry, ...).")
    return tensor.expand((*batch_shape, *p.shape)).reshape(batch_shape.numel(), *p.shape)


def _per_element(values: dict[str, torch.Tensor], batch: int) -> list[dict[str, np.ndarray]]:
    arrays = {name: v.detach().numpy() for name, v in values.items()}
    return [{name: a[i] for name, a in arrays.items()} for i in range(batch)]
