"""What a structure may be declared with, and the values of its hull's parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sst_cvx.arguments import check_finite
from sst_cvx.host import may_ask
from sst_cvx.once import later

if TYPE_CHECKING:
    import cvxpy as cp
else:
    cp = later("cvxpy")

ParameterValues = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Declaration:
    """What a structure was declared with; ``known`` is False where it has no hull, and then it may have no variable."""

    variable: Any
    constraints: list[Any]
    known: bool

    @staticmethod
    def of(variable: Any, constraints: Sequence[Any] | None) -> Declaration:
        """Raises: TypeError, ValueError."""
        if variable is None and constraints is None:  # nothing to import CVXPY for
            return Declaration(None, [], False)
        if isinstance(constraints, cp.Constraint):  # its truth value is an error
            raise TypeError("constraints must be a list of CVXPY constraints: put it into brackets.")
        listed = list(constraints or ())
        check_declaration(variable, listed)
        return Declaration(variable, listed, constraints is not None)


def check_declaration(variable: Any, constraints: list[Any]) -> None:
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


def order_parameters(constraints: list[Any], listed: Sequence[cp.Parameter]) -> list[cp.Parameter]:
    found = {p.id: p for c in constraints for p in c.parameters()}
    if listed and {p.id for p in listed} != set(found):
        raise ValueError(
            f"parameters lists {[p.name() for p in listed]}, but the constraints contain "
            f"{[p.name() for p in found.values()]}: list exactly these, or leave the argument out."
        )
    ordered = list(listed) if listed else list(found.values())
    names = [p.name() for p in ordered]
    taken = {"self", "u", "x", "y", "temperature", "mask", "log", "structure", "utilities", "soft_argmax", "generator"}
    taken |= {"on_failure", "return_info"}
    if len(set(names)) < len(names) or taken & set(names) or not all(name.isidentifier() for name in names):
        raise ValueError(f"hull parameters {names} need distinct names, valid in Python and none of {sorted(taken)}.")
    return ordered


def expand_parameter(p: cp.Parameter, value: object, batch_shape: torch.Size) -> torch.Tensor:
    tensor = value if isinstance(value, torch.Tensor) else torch.as_tensor(value, dtype=torch.float64, device="cpu")
    tensor = tensor.to("cpu", torch.float64)
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
    if may_ask(tensor) and not torch._C._are_functorch_transforms_active():  # else where it is solved: ``admitted``
        check_finite(tensor, f"parameter {p.name()}")
        if not bool(admitted(p, tensor.reshape(-1, *p.shape)).all()):
            said = ", ".join(name for name, value in p.attributes.items() if value)
            raise ValueError(f"parameter {p.name()} violates its CVXPY attributes ({said}).")
    return tensor.expand((*batch_shape, *p.shape)).reshape(batch_shape.numel(), *p.shape)


_SIGNS = {"nonneg": 1.0, "pos": 1.0, "nonpos": -1.0, "neg": -1.0}  # attributes that need no projection


def admitted(p: cp.Parameter, value: torch.Tensor) -> torch.Tensor:
    """Which of the values ``(count, *shape)`` are finite and have the parameter's CVXPY attributes, ``(count,)``."""
    if not any(p.attributes[name] for name in p.attributes if name not in _SIGNS):
        finite = value.detach().cpu().reshape(len(value), p.size)
        right = torch.isfinite(finite)
        for name, sign in _SIGNS.items():
            if p.attributes[name]:
                right &= sign * finite >= -1e-9
        return right.all(1)
    numbers = value.detach().numpy(force=True)
    right = [bool(np.isfinite(v).all() and np.allclose(p.project(v), v, atol=1e-9)) for v in numbers]
    return torch.tensor(right, device="cpu")


def per_element(values: dict[str, torch.Tensor], batch: int) -> list[dict[str, np.ndarray]]:
    arrays = {name: v.detach().numpy() for name, v in values.items()}
    return [{name: a[i] for name, a in arrays.items()} for i in range(batch)]


def renumber(variable: cp.Variable | None, constraints: Sequence[Any]) -> None:
    """New numbers for all variables, parameters and constraints that CVXPY tells apart by them.

    Loaded from a pickle, their old ones may be taken in this process.
    """
    from cvxpy.lin_ops.lin_utils import get_id

    leaves = {id(leaf): leaf for c in constraints for leaf in (*c.variables(), *c.parameters(), *c.dual_variables)}
    for leaf in (leaves if variable is None else leaves | {id(variable): variable}).values():
        leaf.id = get_id()
        forget_canonical_form(leaf)
    for c in constraints:
        c.constr_id = get_id()
        forget_canonical_form(c)


def forget_canonical_form(expression: Any) -> None:
    """Drop what CVXPY keeps of a canonicalisation in an expression and all its arguments: it holds old numbers."""
    for name in [name for name in vars(expression) if name.startswith("_lazy") or name.endswith("__cache__")]:
        del expression.__dict__[name]
    for argument in expression.args:
        forget_canonical_form(argument)
