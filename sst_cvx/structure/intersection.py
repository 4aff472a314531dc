"""The intersection of structures, ``a & b``: the elements that are in each of them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sst_cvx.arguments import check_vertex_count
from sst_cvx.errors import EmptySet
from sst_cvx.once import computed_once, later
from sst_cvx.structure.base import Structure
from sst_cvx.structure.composable import makes
from sst_cvx.structure.declaration import ParameterValues
from sst_cvx.structure.substitution import in_variable
from sst_cvx.structure.vertex_list import VertexList

if TYPE_CHECKING:
    import cvxpy as cp
else:
    cp = later("cvxpy")

_SAME = 1e-9  # distance of two vertices that are one, relative to 1 + the size of their entries


class Intersection(Structure, final=True):
    """The elements of X_1 that are in X_2, ..., too; also made by ``a & b``. Intersections of intersections are flat.

    The hull is conv(X_1) n conv(X_2) n ..., in the first's variable, where all hulls are declared: a relaxation,
    unless ``integral=True`` says otherwise, for conv(X_1 n X_2) may be smaller. Soft argmaxes are over it, by the
    interior point or the layer. The Euclidean one also goes by the path "splitting", which asks for those of the parts
    alone, and so takes parts that have no hull, by ``from_argmax``. Parameters of the parts are inputs, by their names.

    ``argmax`` is a mixed-integer program where all hulls are declared, linear, and of 0/1 arrays (or of all integer
    points, ``integral=False``); else it goes through the list of common elements, if there is one, and so do
    log-partition and samples.

    Args:
        parts: structures of one event shape, at least two.
        integral: True if you know that conv(X_1) n conv(X_2) n ... is the hull of the common elements, as it is for
            the bases, or independent sets, of two matroids (Edmonds 1970).

    Raises:
        TypeError: a part that is no structure. ValueError: fewer than two parts, different event shapes, parameters of
            one name; when the hull is asked for, ``EmptySet`` (a ValueError) if hulls have no common point.
    """

    def __init__(self, *parts: Structure, integral: bool = False):
        self.parts = _checked_parts(parts)
        event_shape = self.parts[0].event_shape
        if any(part.parameters for part in self.parts):
            found = self.declare()
            if found is None:
                without = next(part for part in self.parts if not part.hull.known)
                raise ValueError(
                    f"{without!r} has no hull, and others of the intersection have parameters: no path takes both. "
                    "Declare the hull, or fix the parameters."
                )
            parameters = list({p.id: p for part in self.parts for p in part.parameters}.values())
            super().__init__(*found, parameters=parameters, integral=integral)
        else:
            super().__init__(event_shape=event_shape, integral=integral)

    def declare(self) -> tuple[cp.Variable, Sequence[cp.Constraint | bool]] | None:
        """All constraints in the first part's variable; None where a part has no hull."""
        if not self._declared_everywhere:
            return None
        first, *others = self.parts
        constraints = list(first.constraints)
        for part in others:
            constraints += in_variable(part, first.variable, constraints)
        return first.variable, constraints

    # -- elements ---------------------------------------------------------------------------------------------

    def argmax(self, u: torch.Tensor, **parameters: torch.Tensor) -> torch.Tensor:
        """By HiGHS over the common hull (``integral=True``) or its integer points, else by the list of elements.

        Raises:
            NotImplementedError: common elements are neither integer points of declared linear hulls nor listed.
            EmptySet, SolveError: there are none. And as ``Structure.argmax``.
        """
        if not self._not_by_program:
            return Structure.argmax(self, u, **parameters)
        if not self.has_vertices():
            raise NotImplementedError(
                f"{self!r} has no argmax: {self._not_by_program}, and the common elements are not listed."
            )
        return self._by_list(self._listed.argmax, u)

    @computed_once
    def _not_by_program(self) -> str:
        """Why a (mixed-integer) linear program has not the common elements for solutions; empty if it has."""
        if not self.hull.known:
            return "a part has no hull"
        if self.integral:
            return ""
        if not self.hull.linear:
            return "a hull has other cones than linear constraints"
        for part in self.parts:
            if part.integral and not _is_binary(part):
                return f"{part!r} is not known to be all integer points of its hull (as 0/1 arrays are)"
        return ""

    def has_vertices(self) -> bool:
        """Whether some part lists its elements, and the others tell which they have."""
        return not self.parameters and self._lister() is not None

    def _lister(self) -> Structure | None:
        for part in self.parts:
            if part.has_vertices() and all(p is part or p.has_vertices() or _is_binary(p) for p in self.parts):
                return part
        return None

    def vertices(self) -> torch.Tensor:
        """The common elements, ``(count, *event_shape)``, float64; none if there are none. Small sizes only.

        Raises:
            NotImplementedError: no part lists its elements, or another cannot tell which of them it has.
        """
        lister = self._lister()
        if lister is None or self.parameters:
            return super().vertices()
        points = lister.vertices()
        check_vertex_count(lister, len(points))
        for part in self.parts:
            if part is not lister:
                points = points[_are_elements(part, points)]
        return points

    @computed_once
    def _listed(self) -> VertexList:
        """``vertices()``, flat; kept."""
        points = self.vertices().flatten(1)
        if not len(points):
            raise EmptySet(f"{self!r} is empty: its parts have no common element.")
        return VertexList(points)

    def _by_list(self, answer: Callable[[torch.Tensor], torch.Tensor], u: torch.Tensor) -> torch.Tensor:
        """Of flat utilities, in the shape of ``u``."""
        return answer(u.reshape(*u.shape[: u.dim() - len(self.event_shape)], self.event_size)).reshape(u.shape)

    @computed_once
    def log_partition_refusal(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Why the common elements are not listed."""
        if not self.has_vertices():
            return "the common elements of the parts are not listed"
        try:
            _ = self._listed
        except ValueError as error:
            return str(error)
        return ""

    def log_partition(self, u: torch.Tensor) -> torch.Tensor:
        """By the list of elements."""
        if self.log_partition_refusal:
            raise NotImplementedError(f"{self!r} has no log_partition: {self.log_partition_refusal}.")
        return self._listed.log_partition(u.flatten(u.dim() - len(self.event_shape)))

    def marginals(self, u: torch.Tensor) -> torch.Tensor:
        """The gradient of ``log_partition``; differentiable any number of times."""
        return self._by_list(self._listed.marginals, u)

    @property
    def known_binary(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether every part says so: masks leave faces of each, and a face of their intersection."""
        return all(part.known_binary for part in self.parts)

    @computed_once
    def binary(self) -> bool:
        """Whether every part is of 0/1 arrays."""
        return all(_is_binary(part) for part in self.parts)

    # -- the hull ---------------------------------------------------------------------------------------------

    def overrides(self, method: str) -> bool:
        """Its own argmax is one by programs or lists; it counts as an algorithm where there is no hull."""
        return super().overrides(method) if method != "argmax" else not self._declared_everywhere

    @property
    def _declared_everywhere(self) -> bool:
        return all(part.hull.known for part in self.parts)

    @computed_once
    def relaxed(self) -> Structure:
        """As ``Structure.relaxed``.

        Raises:
            NotImplementedError: a part has no hull, so that nothing maximises over the intersection of hulls.
        """
        if not self.hull.known:
            raise NotImplementedError(
                f"{self!r} has no declared hull, and no argmax over the intersection of the hulls of its parts: the "
                "path 'splitting' certifies its answers itself."
            )
        return super().relaxed

    def violation(self, x: torch.Tensor, parameters: ParameterValues | None = None) -> torch.Tensor:
        """The largest of the parts."""
        values = parameters or {}
        each = [_violation(part, x, values) for part in self.parts]
        return torch.stack(each).amax(0)

    def violation_by_tensors(self, x: torch.Tensor) -> torch.Tensor:
        """The largest of the parts."""
        return torch.stack([part.violation_by_tensors(x) for part in self.parts]).amax(0)

    def surely_within(self, x: torch.Tensor, tolerance: float) -> bool:
        """Whether all parts say so."""
        return all(part.surely_within(x, tolerance) for part in self.parts)

    @property
    def sees_hull(self) -> bool:
        """Whether all parts do."""
        return all(part.sees_hull for part in self.parts)

    def prepare(self) -> None:
        """Of all parts, and the list, if there is one."""
        for part in self.parts:
            part.prepare()
        if self.has_log_partition():
            self._listed.prepare()

    def coordinate_range(self, tight: bool = False) -> tuple[np.ndarray, np.ndarray] | None:
        """As ``Structure.coordinate_range``; where a part has no hull, what is in the range of every part."""
        if self.parameters or self.hull.known:
            return super().coordinate_range(tight)
        ends = [part.coordinate_range() for part in self.parts]
        lower, upper = zip(*(end for end in ends if end is not None), strict=True)
        return np.max(lower, axis=0), np.min(upper, axis=0)

    def fillers(self, allowed: torch.Tensor) -> torch.Tensor | None:
        """What any part needs."""
        found = [filler for part in self.parts if (filler := part.fillers(allowed)) is not None]
        return torch.stack(found).any(0) if found else None

    def face(self, allowed: np.ndarray) -> Structure:
        """The intersection of the parts' faces."""
        items = torch.from_numpy(allowed).reshape(self.event_shape)
        fillers = self.fillers(items)
        kept = items if fillers is None else items | fillers
        return Intersection(*(_face(part, kept) for part in self.parts), integral=self.integral)

    def _key(self) -> Hashable:
        return self.parts, self.integral

    def __repr__(self) -> str:
        return f"Intersection({', '.join(map(repr, self.parts))}{', integral=True' if self.integral else ''})"


@makes("intersection")
def _intersect(a: Structure, b: Structure) -> Structure:
    return Intersection(a, b)


def _checked_parts(parts: Sequence[Any]) -> tuple[Structure, ...]:
    flat: list[Structure] = []
    for part in parts:
        if not isinstance(part, Structure):
            raise TypeError(f"an intersection needs structures (sst.Structure), got {part!r} ({type(part).__name__}).")
        flat += part.parts if isinstance(part, Intersection) else (part,)
    if len(flat) < 2:
        raise ValueError("an intersection needs at least two structures.")
    shapes = list(dict.fromkeys(part.event_shape for part in flat))
    if len(shapes) > 1:
        raise ValueError(f"structures that intersect need one event shape, got {shapes}.")
    return tuple(flat)


def _is_binary(part: Structure) -> bool:
    """Whether a part is of 0/1 arrays; with parameters, only if it says so."""
    return part.known_binary or (not part.parameters and part.binary)


def _are_elements(part: Structure, points: torch.Tensor) -> torch.Tensor:
    """Which points ``(count, *event_shape)`` are elements of a part that lists its own, or is of 0/1 arrays:
    x is one exactly if the best element in direction 2 x - 1 is x."""
    flat = points.flatten(1)
    if part.has_vertices():
        listed = part.vertices().flatten(1)
        if not len(listed):
            return torch.zeros(len(points), dtype=torch.bool, device=points.device)
        nearest = torch.cdist(flat, listed, p=torch.inf).amin(1)
        return nearest <= _SAME * (1 + flat.abs().amax(1))
    binary = ((flat == 0) | (flat == 1)).all(1)
    return binary & (part.argmax(2 * points - 1).flatten(1) == flat).all(1)


def _violation(part: Structure, x: torch.Tensor, values: ParameterValues) -> torch.Tensor:
    """Of one part, with its own parameters."""
    own = {p.name(): values[p.name()] for p in part.parameters}
    return part.violation(x, own) if own else part.violation(x)


def _face(part: Structure, kept: torch.Tensor) -> Structure:
    """The elements of a part without the items that are not kept, which are all that it has left."""
    if part.hull.known:
        return part.face(kept.reshape(-1).numpy())
    return Structure.from_argmax(part.event_shape, lambda u: part.masked_argmax(u, kept.to(u.device)))
