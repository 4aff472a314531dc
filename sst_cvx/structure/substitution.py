"""Constraints of one structure on the event of another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from sst_cvx.once import later
from sst_cvx.structure.base import Structure

if TYPE_CHECKING:
    import cvxpy as cp
else:
    cp = later("cvxpy")


def in_variable(part: Structure, variable: cp.Variable, before: Sequence[Any]) -> list[Any]:
    """A part's constraints, in another event variable, and with auxiliary variables that none of those before has."""
    taken = {v.id for c in before for v in c.variables()} | {variable.id}
    if part.variable.id == variable.id:
        taken -= {variable.id}
    return in_event(part, variable, lambda v: v.id in taken)


def in_event(part: Structure, event: Any, renewed: Callable[[cp.Variable], bool]) -> list[Any]:
    """A part's constraints on another event, an expression of the variable's shape, with new auxiliary variables in
    place of some; parameters are shared."""
    own, constraints = part.variable, []
    places: dict[int, Any] = {}
    if not (isinstance(event, cp.Variable) and own.id == event.id):
        places[id(own)] = event if not _attributes(own) else _like(own)
        if _attributes(own):
            constraints.append(event == places[id(own)])
    for v in {id(v): v for c in part.constraints for v in c.variables()}.values():
        if id(v) not in places and v.id != own.id and renewed(v):
            places[id(v)] = _like(v)
    return constraints + [_substituted(c, places) for c in part.constraints]


def _attributes(variable: cp.Variable) -> dict[str, Any]:
    """What a variable's declaration demands: nonneg, symmetric, bounds, ..."""
    given = {name: value for name, value in variable.attributes.items() if value is not None and value is not False}
    return {name: value for name, value in given.items() if not (isinstance(value, list) and not value)}


def _like(variable: cp.Variable) -> cp.Variable:
    return cp.Variable(variable.shape, name=variable.name(), **_attributes(variable))


def _substituted(constraint: Any, places: dict[int, Any]) -> Any:
    """A copy with some leaves replaced, and a number of its own."""
    from cvxpy.lin_ops.lin_utils import get_id

    copy = constraint.tree_copy(places)
    copy.constr_id = get_id()
    return copy
