"""A structure and more constraints on its elements: what ``a & [constraints on a.variable]`` and ``a.where`` make.

Hull: that of ``a``, and the new constraints. Elements: those of ``a`` that keep them. The former is looser than their
convex hull in general, so that argmax is a mixed-integer program, unless ``integral=True`` promises otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sst_cvx.arguments import check_vertex_count
from sst_cvx.errors import EmptySet, SolveError
from sst_cvx.once import computed_once, later
from sst_cvx.structure.base import Structure
from sst_cvx.structure.composable import makes
from sst_cvx.structure.declaration import check_declaration
from sst_cvx.structure.keeping import keep
from sst_cvx.structure.vertex_list import VertexList

if TYPE_CHECKING:
    import cvxpy as cp
else:
    cp = later("cvxpy")

_FEW = 20, 20_000  # coordinates and elements up to which argmax goes by the list of elements
_LISTED = 200_000  # elements of ``a`` that are looked through when somebody asks for a list
_SECONDS = 1.0  # for the mixed-integer program that finds a first element, before the structure is made


class Restricted(Structure, final=True):
    """The elements of a structure that keep more constraints, of the same event shape.

    Soft argmaxes are over the hull of the structure with the new constraints; Euclidean with ``path="active_set"``, and
    the exponential family, over the convex hull of the elements themselves. ``integrality_gap`` measures how far the
    two are apart. Where the structure lists its elements, those that keep the constraints are listed, too
    (``vertices``, ``log_partition``, ``sample``), and up to 20 coordinates argmax goes by that list; else it is a
    mixed-integer program (HiGHS), or with ``integral=True`` a linear one.

    Masks forbid items as everywhere; there are no fillers for what they cut off, which the new constraints would count.

    Args:
        whole: the structure. With ``integral=False`` its elements must be all integer points of its hull: 0/1 arrays,
            or a structure that says ``integral=False`` itself.
        constraints: CVXPY constraints on ``whole.variable``, on other variables along with it (auxiliary ones), and on
            parameters; or a function of that variable to them.
        integral: see ``Structure.where``.

    Raises:
        TypeError, ValueError: no constraints, or on another variable; no hull, or one of other elements.
        EmptySet: nothing keeps the constraints, where they have no parameters. Of more than 20 coordinates that is
            found out if it takes less than a second; else argmax raises SolveError.
    """

    def __init__(self, whole: Structure, constraints: Any, *, integral: bool = False):
        self.whole = whole
        if not whole.hull.known:
            raise ValueError(
                f"{whole!r} has no hull that constraints could be added to, it is known by its argmax alone: declare "
                "its hull by sst.Structure(variable, constraints)."
            )
        self._new = _listed(constraints, whole.variable)
        check_declaration(whole.variable, self._new)
        _check_connected(self._new, whole.variable)
        self._text = _shown(self._new)  # here, not while a compiler traces
        if not integral:
            _check_integer_points(whole)
        self.known_binary = whole.known_binary or (whole.integral and not integral)
        self._fixed = not whole.parameters and not any(c.parameters() for c in self._new)
        self.known_bounded = True  # or else the whole would not be
        super().__init__(whole.variable, [*whole.constraints, *self._new], integral=bool(integral))
        if not (self.integral or self._few or self.declared_hull.linear):
            raise ValueError(
                "mixed-integer programs need linear constraints: HiGHS solves none with cones. Replace the cones, or "
                "say integral=True if the hull with these constraints is that of the elements that keep them."
            )
        if self._fixed:
            self._check_not_empty()

    def _check_not_empty(self) -> None:
        if self._few:  # the list was not empty
            return
        try:
            self.declared_hull.check_bounded()
        except EmptySet:
            raise EmptySet(self._nothing) from None
        if not self.integral and self.declared_hull.integer_oracle.is_surely_empty(_SECONDS):
            raise EmptySet(self._nothing)

    @property
    def _nothing(self) -> str:
        return f"no element of {self.whole!r} keeps the constraints {self._text}: relax them."

    # -- the list of elements ---------------------------------------------------------------------------------

    @computed_once
    def _elements(self) -> VertexList | None:
        """Those that keep the constraints, where the structure lists its own; None where there are too many."""
        if not self.has_vertices() or self._log_count() > math.log(_LISTED):
            return None
        try:
            points = self.whole.vertices()
        except ValueError:  # too many
            return None
        kept = points[keep(self._new, self.whole.variable, points)]
        if not len(kept):
            raise EmptySet(self._nothing)
        return VertexList(kept.flatten(1).contiguous())

    def _log_count(self) -> float:
        """log of the number of elements of the structure, where that is known before they are listed; else 0."""
        if not self.whole.has_log_partition():
            return 0.0
        return float(self.whole.log_partition(torch.zeros(self.event_shape, dtype=torch.float64)))

    @computed_once
    def _few(self) -> bool:
        """Whether argmax goes by the list."""
        if self.event_size > _FEW[0] or not self.has_vertices() or self._log_count() > math.log(_FEW[1]):
            return False
        return self._elements is not None

    def has_vertices(self) -> bool:
        """Where the structure has them, and no parameter decides which are left."""
        return self._fixed and self.whole.has_vertices()

    def vertices(self) -> torch.Tensor:
        """Those of the structure that keep the constraints, ``(count, *event_shape)``, float64. Small sizes only.

        Raises:
            NotImplementedError: the structure does not list its own, or parameters decide. ValueError: too many.
        """
        return self._listed_elements().points.reshape(-1, *self.event_shape)

    def _listed_elements(self) -> VertexList:
        if self._elements is not None:
            return self._elements
        if not self.has_vertices():
            why = "the constraints have parameters" if not self._fixed else f"{self.whole!r} lists none"
            raise NotImplementedError(f"the elements that keep the constraints are not listed: {why}.")
        check_vertex_count(self.whole, max(_LISTED + 1, round(math.exp(min(self._log_count(), 700.0)))), _LISTED)
        raise AssertionError  # the line before has raised

    @property
    def log_partition_refusal(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Sums go over the list."""
        if self._elements is not None:
            return ""
        return f"the elements of {self!r} are not listed: there are parameters, no list of the whole, or too many"

    # -- answers ----------------------------------------------------------------------------------------------

    def overrides(self, method: str) -> bool:
        """Argmax is its own where it goes by the list."""
        return super().overrides(method) and (method != "argmax" or self._few)

    @property
    def argmax_on_device(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """By the list."""
        return self._few

    def argmax(self, u: torch.Tensor, **parameters: torch.Tensor) -> torch.Tensor:
        """A best element that keeps the constraints.

        Raises:
            SolveError: nothing keeps them, e.g. at these parameters, naming the elements.
        """
        if self._few:
            self.flat_parameters(parameters, u.shape[: u.dim() - len(self.event_shape)])  # there are none
            return self._listed_elements().argmax(u.flatten(-len(self.event_shape))).reshape(u.shape)
        try:
            return super().argmax(u, **parameters)
        except SolveError as error:
            if not all("infeasible" in status for status in error.status):
                raise
            message = (
                f"no element of {self.whole!r} keeps the constraints {self._text} for {{elements}}: relax them"
                + (", by other parameters." if self.parameters else ".")
            )
            raise SolveError(message, error.elements, error.status) from None

    def sample(self, u: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        return self._listed_elements().sample(u.flatten(-len(self.event_shape)), generator).reshape(u.shape)

    def log_partition(self, u: torch.Tensor) -> torch.Tensor:
        """log-sum-exp over the elements that keep the constraints; differentiable any number of times.

        Raises:
            NotImplementedError, ValueError: as ``vertices``.
        """
        return self._listed_elements().log_partition(u.flatten(-len(self.event_shape)))

    def marginals(self, u: torch.Tensor) -> torch.Tensor:
        """Gradient of the log-partition, of the shape of ``u``; differentiable."""
        return self._listed_elements().marginals(u.flatten(-len(self.event_shape))).reshape(u.shape)

    def prepare(self) -> None:
        super().prepare()
        if self._elements is not None:
            self._elements.prepare()

    def coordinate_range(self, tight: bool = False) -> tuple[np.ndarray, np.ndarray] | None:
        """Those of the structure hold, but for ``tight``."""
        if self.parameters:
            return None
        return super().coordinate_range(tight) if tight else self.whole.coordinate_range()

    # -- identity ---------------------------------------------------------------------------------------------

    def _key(self) -> Hashable:
        """Constraints are known by their CVXPY numbers."""
        return self.whole, frozenset(c.id for c in self._new), self.integral

    def __repr__(self) -> str:
        more = f", parameters=[{', '.join(p.name() for p in self.parameters)}]" if self.parameters else ""
        return f"{self.whole!r}.where({self._text}{more}{', integral=True' if self.integral else ''})"


@makes("restriction")
def restriction(whole: Structure, constraints: Any, integral: bool = False) -> Restricted:
    """``whole & constraints``, ``whole.where(constraints)``."""
    return Restricted(whole, constraints, integral=integral)


def _shown(constraints: list[Any]) -> str:
    text = ", ".join(" ".join(str(c).split()) for c in constraints)
    return f"[{text}]" if len(text) <= 120 else f"{len(constraints)} constraints"


def _listed(constraints: Any, variable: cp.Variable) -> list[Any]:
    if callable(constraints) and not isinstance(constraints, cp.Constraint):
        constraints = constraints(variable)
    if isinstance(constraints, cp.Constraint):
        return [constraints]
    if isinstance(constraints, (str, bytes, dict)) or not isinstance(constraints, Iterable):
        raise TypeError(
            f"constraints must be CVXPY constraints on the structure's variable, or a function of that variable that "
            f"returns them, got {constraints!r} ({type(constraints).__name__})."
        )
    listed = list(constraints)
    if not listed:
        raise ValueError("no constraints were given: a structure without more constraints is the structure itself.")
    return listed


def _check_connected(constraints: list[Any], variable: cp.Variable) -> None:
    """Raise ValueError unless each constraint is on the variable, or on others that come with it in one."""
    known, waiting = {variable.id}, list(constraints)
    while True:
        reached = [c for c in waiting if known & {v.id for v in c.variables()}]
        if not reached:
            break
        known |= {v.id for c in reached for v in c.variables()}
        waiting = [c for c in waiting if not any(c is r for r in reached)]
    if waiting:
        names = [v.name() for v in waiting[0].variables()]
        raise ValueError(
            f"constraint {waiting[0]} is not on the structure's own variable, but on {names or 'none'}: write it in "
            "structure.variable, or as a function, structure.where(lambda x: [...])."
        )


def _check_integer_points(whole: Structure) -> None:
    """Raise ValueError unless the elements are all integer points of the hull."""
    if not whole.integral or whole.known_binary:
        return
    if whole.parameters:
        raise ValueError(
            f"the elements of {whole!r} depend on its parameters, and need not be whole numbers: declare it with "
            "integral=False, as the integer points of its hull, or say integral=True here."
        )
    if not whole.binary:
        raise ValueError(
            f"{whole!r} has other elements than 0/1 arrays, so that they are not the integer points of its hull, over "
            "which argmax would go: constrain a set of 0/1 arrays, or say integral=True if the hull with these "
            "constraints is that of the elements that keep them."
        )
