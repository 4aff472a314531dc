"""A structure: a finite set X of arrays, declared through its convex hull."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sst_cvx.arguments import check_vertex_count
from sst_cvx.errors import SolveError
from sst_cvx.hull.compiled import CompiledHull
from sst_cvx.hull.unknown import UnknownHull
from sst_cvx.once import computed_once, constants, later, state_without_computed
from sst_cvx.structure import operator
from sst_cvx.structure.calls import checked
from sst_cvx.structure.composable import Composable, make
from sst_cvx.structure.declaration import (
    Declaration,
    ParameterValues,
    expand_parameter,
    order_parameters,
    per_element,
    renumber,
)
from sst_cvx.structure.integrality import integrality_gap
from sst_cvx.structure.maskable import Maskable

if TYPE_CHECKING:
    import cvxpy as cp
else:
    cp = later("cvxpy")

_KEYWORDS = "Other keywords: temperature, mask, on_failure and return_info of a soft argmax."
_CHUNK = 20_000_000  # probabilities in memory at once, of samples from a list


class Structure(Maskable, Composable["Structure"]):
    """A set X declared by its convex hull in CVXPY: ``Structure(x, [x >= 0, cp.sum(x) == 1])``.

    Every other variable in the constraints is an auxiliary one (an extended formulation). Each ``cp.Parameter`` in the
    constraints becomes a keyword input of ``argmax`` and of ``SoftArgmax``, by its CVXPY name.

    A subclass whose answers seldom need its hull may declare it later: its ``__init__`` calls
    ``super().__init__(event_shape=(n,))``, and ``declare()`` returns the variable and the constraints. That is called
    once, when the hull is first asked for.

    Subclasses may override ``argmax``, ``vertices`` and ``log_partition``, and own fast paths. Look-up of fast paths
    is by exact type; a class declared with ``final=True`` (all of ``polytopes``) cannot be subclassed, because a
    subclass with one more constraint would inherit answers that are outside its hull. A base of such classes, which
    gives them what is right for each of them, is declared with ``abstract=True``: it has no instances, and what it
    overrides counts as overridden by the classes made directly from it.

    Args:
        variable: the event, a CVXPY variable of any shape.
        constraints: CVXPY constraints, DCP and DPP; cones that cvxpylayers takes. None where no hull is known: a
            subclass that overrides ``argmax`` then still has the Euclidean soft argmax, by the active-set path. See
            also ``from_argmax``.
        event_shape: in place of these two, in a subclass that overrides ``declare``. Its hull has no parameters.
        parameters: the hull's parameters in the order you want them listed; found in the constraints if left out.
        integral: True if the constraints describe conv(X). False if they are looser (a relaxation): X is then the
            set of integer points, and the hard argmax is solved as a mixed-integer program.

    Raises:
        TypeError: not a CVXPY variable or constraints, or neither these nor ``declare``.
        ValueError: boolean or complex variables, constraints that are not DCP or DPP, an empty or unbounded hull.
    """

    parameters: list[cp.Parameter]
    #: A class whose hull is never empty or unbounded may say so; large instances are then not canonicalised at once.
    known_bounded = False
    #: A class of 0/1 arrays may say so; it is then not found out by many calls of argmax.
    known_binary = False
    #: A class whose own argmax is a program of tensors on any device, without a read on the host, may say so; others
    #: are asked through an operator by compilers and ``vmap``.
    argmax_on_device = False
    #: A class whose argmax is cheap beside its hull (an extended formulation) may say so, or by a property from which
    #: size on: "auto" then takes the active-set path before the interior-point path.
    prefers_active_set: bool | property = False

    def __init_subclass__(cls, *, final: bool = False, abstract: bool = False, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        for base in cls.__mro__[1:]:
            if base.__dict__.get("_final", False):
                raise TypeError(
                    f"{base.__name__} is final: {cls.__name__} would inherit its argmax and fast paths, which are "
                    "wrong under another constraint. Subclass sst.Structure and declare the whole hull."
                )
        cls._final, cls._abstract = final, abstract
        for name in ("argmax", "sample"):
            if name in cls.__dict__:
                setattr(cls, name, checked(cls.__dict__[name]))
        if "__init__" in cls.__dict__:
            cls.__init__ = constants()(cls.__init__)  # whatever the caller's default device or inference mode

    def __init__(
        self,
        variable: cp.Variable | None = None,
        constraints: Sequence[cp.Constraint | bool] | None = (),  # CVXPY's comparisons are typed so; a bool is refused
        *,
        event_shape: Sequence[int] | None = None,
        parameters: Sequence[cp.Parameter] = (),
        integral: bool = True,
    ):
        if type(self).__dict__.get("_abstract", False):
            raise TypeError(f"{type(self).__name__} is a base of structures: subclass it.")
        self.integral = integral
        self.handle = operator.handle_of(self)
        if event_shape is not None:
            self._declare_later(event_shape, variable, parameters)
            return
        self._declared = self._checked(variable, constraints)
        self.parameters = order_parameters(self.constraints, parameters)
        self.event_shape: tuple[int, ...] = tuple(self.variable.shape)
        self.event_size = self.variable.size
        self._bounded = bool(self.parameters) or self.known_bounded  # with parameters: decided when values are known
        _ = self.hull

    def _declare_later(self, event_shape: Sequence[int], variable: object, parameters: Sequence[object]) -> None:
        if variable is not None or len(parameters) or type(self).declare is Structure.declare:
            raise TypeError(
                "event_shape goes with declare(), which returns the variable and the constraints: override it, and "
                "give neither of these to __init__, nor parameters."
            )
        self.parameters, self.event_shape = [], tuple(event_shape)
        self.event_size = math.prod(self.event_shape)
        self._bounded = self.known_bounded

    def _checked(self, variable: Any, constraints: Sequence[Any] | None) -> Declaration:
        if constraints is None and not self.overrides("argmax"):
            raise TypeError(
                "constraints=None needs a subclass that overrides argmax: give the hull's constraints, or declare the "
                "set by sst.Structure.from_argmax(event_shape, argmax)."
            )
        return Declaration.of(variable, constraints)

    def declare(self) -> tuple[cp.Variable, Sequence[cp.Constraint | bool]] | None:
        """The variable and the constraints, of a subclass that gives ``event_shape`` alone; None where no hull is
        known. Called once, when somebody asks for them."""
        raise TypeError(f"{type(self).__name__} must override declare(), which returns the variable and constraints.")

    @computed_once
    def _declared(self) -> Declaration:
        found = self.declare()
        if found is None:
            return self._checked(None, None)
        declared = self._checked(*found)
        known = {p.id for p in self.parameters}
        if tuple(declared.variable.shape) != self.event_shape or not known.issuperset(
            p.id for p in order_parameters(declared.constraints, ())
        ):
            raise ValueError(
                f"declare() must return a variable of shape {self.event_shape}, and constraints without parameters."
            )
        return declared

    @property
    def variable(self) -> cp.Variable:
        """The event, in CVXPY."""
        declared = self._declared.variable
        return self._own_variable if declared is None else declared

    @computed_once
    def _own_variable(self) -> cp.Variable:
        """Where there is no hull, and so far nobody needed one."""
        return cp.Variable(self.event_shape)

    @property
    def constraints(self) -> list[Any]:
        """The hull's, in CVXPY."""
        return self._declared.constraints

    @computed_once
    def hull(self) -> CompiledHull | UnknownHull:
        """What is known of conv(X): the declared hull, or what the argmax tells."""
        if not self._declared.known:
            return UnknownHull(self.event_size, self._furthest)
        hull = CompiledHull(self.variable, self.constraints, self.parameters)
        if not self._bounded:
            hull.check_bounded()
            self._bounded = True
        return hull

    def _furthest(self, directions: torch.Tensor) -> torch.Tensor:
        return self.argmax(directions.reshape(-1, *self.event_shape)).reshape(len(directions), -1)

    # -- what a subclass may override -------------------------------------------------------------------------

    @checked
    def argmax(self, u: torch.Tensor, **parameters: torch.Tensor) -> torch.Tensor:
        """A maximiser of <u, x> over X, a vertex: ``(*batch, *event_shape)`` in, the same shape, dtype, device out.

        This default visits the CPU: HiGHS, one warm-started LP (or MILP) a batch element. Not differentiable.

        Raises:
            ValueError, TypeError: utilities of a wrong shape or type, or not finite; missing or unknown parameters.
            SolveError: the hull at these parameters is empty or unbounded.
        """
        batch_shape = u.shape[: u.dim() - len(self.event_shape)]
        values = self.flat_parameters(parameters, batch_shape)
        flat = u.reshape(batch_shape.numel(), self.event_size).to("cpu", torch.float64).numpy()
        each = per_element(values, len(flat)) if self.parameters else None
        hull = self.declared_hull
        solve = hull.oracle if self.integral else hull.integer_oracle
        try:
            x = solve(flat, each)
        except SolveError as error:
            raise error.in_batch(batch_shape) from None
        return torch.from_numpy(x).to(u.device, u.dtype).reshape(u.shape)

    @checked
    def sample(self, u: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """An element drawn with probability proportional to exp <u, x>, exact: same shape, dtype, device as ``u``.

        This default draws from the list of all elements.

        Raises:
            NotImplementedError: this structure does not list its vertices.
        """
        points = self.vertices()
        check_vertex_count(self, len(points))
        flat, points = u.reshape(-1, self.event_size).double(), points.to(u.device).flatten(1)
        chunk = max(1, _CHUNK // len(points))
        which = [
            torch.multinomial((part @ points.T).softmax(-1), 1, generator=generator)[:, 0] for part in flat.split(chunk)
        ]
        return points[torch.cat(which)].reshape(u.shape).to(u.dtype) if which else torch.zeros_like(u)

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

    #: Why the log-partition of this instance is out of reach ("" if it is not), e.g. because it is too large.
    log_partition_refusal: str = ""

    # -- what follows from the declaration --------------------------------------------------------------------

    @property
    def declared_hull(self) -> CompiledHull:
        """The hull, where it is declared.

        Raises:
            ValueError: the structure is known by its argmax alone.
        """
        if isinstance(self.hull, UnknownHull):
            raise ValueError(
                f"{self!r} has no hull, it is known by its argmax alone: use Euclidean(), which path='active_set' "
                "answers, or declare the hull by sst.Structure(variable, constraints)."
            )
        return self.hull

    @computed_once
    def relaxed(self) -> Structure:
        """The extreme points of the declared hull, over which soft argmaxes are; this structure, unless the hull is
        looser than conv(X) (``integral=False``)."""
        return self if self.integral else make("relaxed", self)

    def integrality_gap(self, directions: int | torch.Tensor = 64, seed: int = 0, **parameters: torch.Tensor) -> float:
        """How much further the declared hull reaches than conv(X): the largest, over directions d, of

            (max over the hull of <d, x>  -  max over X of <d, x>) / (width of the hull along d),   from 0 to 1.

        0 where ``integral=True`` says that they are the same (which ``sst.check`` tests). Else, where it is 0 for all
        directions, they are.

        Args:
            directions: ``(*count, *event_shape)``; or how many random ones, of this ``seed``, in addition to both ways
                along each coordinate, and to normals of constraints. Each takes an argmax, by default a mixed-integer
                program, and two linear ones.
            parameters: of the hull.

        Raises:
            TypeError, ValueError, SolveError: as ``argmax``.
        """
        return 0.0 if self.integral else integrality_gap(self, directions, seed, parameters)

    def overrides(self, method: str) -> bool:
        """Whether this instance's own class gives ``method``, or an ``abstract`` one right above it: not a base class
        that is a set of its own."""
        for base in type(self).__mro__:
            if base is Structure or (base is not type(self) and not base.__dict__.get("_abstract", False)):
                return False
            if method in base.__dict__:
                return True
        return False

    def violation(self, x: torch.Tensor, parameters: ParameterValues | None = None) -> torch.Tensor:
        """How far points ``(batch, size)`` are outside the hull, ``(batch,)``; at most 0 inside.

        Rows with auxiliary variables are not seen here. Without a hull, by the support function along a few directions.
        """
        return self.hull.violation(x, parameters)

    def violation_by_tensors(self, x: torch.Tensor) -> torch.Tensor:
        """``violation`` without parameters, of tensors alone: what is asked where the host must not be."""
        return self.violation(x)

    def prepare(self) -> None:
        """Make what is kept and asked for on the fast path, which cannot be made while a compiler traces."""
        if not (self.overrides("violation") or self.overrides("violation_by_tensors") or self.parameters):
            self.violation(torch.zeros(1, self.event_size, dtype=torch.float64, device="cpu"))

    def surely_within(self, x: torch.Tensor, tolerance: float) -> bool:
        """Whether ``violation`` of all points is at most the tolerance, told quickly; False says nothing."""
        return not self.overrides("violation") and self.hull.surely_within(x, tolerance)

    @property
    def sees_hull(self) -> bool:
        """Whether ``violation`` sees every row of the hull."""
        return not self.overrides("violation") and self.hull.sees_everything

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
        if self.known_binary:
            return np.zeros(self.event_size), np.ones(self.event_size)
        return self.hull.coordinate_range(tight)

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
                + (". Give each by its CVXPY name." if names else f". {_KEYWORDS}")
            )
        return {p.name(): expand_parameter(p, given[p.name()], batch_shape) for p in self.parameters}

    # -- identity ---------------------------------------------------------------------------------------------

    def _key(self) -> Hashable:
        """What makes an instance of this class the set that it is: equal keys, equal sets. By default only itself."""
        return id(self)

    def __eq__(self, other: object) -> bool:
        if self is other:  # which compilers follow
            return True
        return isinstance(other, Structure) and type(self) is type(other) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash((type(self), self._key()))

    def __deepcopy__(self, memo: dict[int, Any]) -> Structure:
        """Nothing to copy: a structure never changes, and CVXPY objects must keep their identity."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Without what was compiled, which is made anew where it is loaded. What was declared goes along: others may
        hold its variable, too."""
        kept = {name: vars(self)[name] for name in ("_declared", "_own_variable") if name in vars(self)}
        return {name: value for name, value in (state_without_computed(self) | kept).items() if name != "handle"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """CVXPY knows variables by numbers, which may be taken here: they get new ones."""
        self.__dict__.update(state)
        self.handle = operator.handle_of(self)
        if "_declared" in state:
            renumber(self._declared.variable or state.get("_own_variable"), self.constraints)

    def __repr__(self) -> str:
        extra = f", parameters=[{', '.join(p.name() for p in self.parameters)}]" if self.parameters else ""
        loose = "" if self.integral else ", integral=False"
        known = f"{len(self.constraints)} constraints" if self.hull.known else "no hull"
        return f"{type(self).__name__}(event_shape={self.event_shape}, {known}{extra}{loose})"
