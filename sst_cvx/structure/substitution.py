"""Constraints of one structure in the variable of another."""

from __future__ import annotations

from collections.abc import Sequence
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
    places: dict[int, Any] = {}
    constraints: list[Any] = []
    own = part.variable
    if own.id != variable.id:
        places[id(own)] = variable if not _attributes(own) else _like(own)
        if _attributes(own):
            constraints.append(variable == places[id(own)])
    for v in {id(v): v for c in part.constraints for v in c.variables()}.values():
        if id(v) not in places and v.id in taken and v.id != own.id:
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
