"""The registry of fast paths: (structure type, regularizer type) -> function, by exact type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from sst_cvx.autodiff import gradient
from sst_cvx.regularizers import ExponentialFamilyEntropy, Regularizer
from sst_cvx.structure.base import Structure

#: (structure, regularizer, utilities / temperature as (*batch, *event_shape), **hull parameters) -> soft argmax
FastPathFunction = Callable[..., torch.Tensor]
Condition = Callable[[Any, Any], bool]


@dataclass(frozen=True)
class Entry:
    """A registered fast path, and for which instances it stands."""

    function: FastPathFunction
    when: Condition | None
    supports_parameters: bool
    supports_masks: bool
    finishes_masks: bool = False
    logarithm: FastPathFunction | None = None


_REGISTRY: dict[tuple[type, type], Entry] = {}


def fast_path(
    structure_type: type[Structure],
    regularizer_type: type[Regularizer],
    *,
    when: Condition | None = None,
    supports_parameters: bool = False,
    supports_masks: bool = False,
    finishes_masks: bool = False,
    log: FastPathFunction | None = None,
) -> Callable[[FastPathFunction], FastPathFunction]:
    """Register a function of (structure, regularizer, utilities / temperature) as the soft argmax of a pair of types.

    Args:
        when: called once with (structure, regularizer), at construction of ``SoftArgmax``; False means not this one.
        supports_parameters: the function also takes the hull's parameters as keywords.
        supports_masks: the function also takes ``mask=``, bool of the utilities' shape; its answer has the structure's
            fillers in place (``with_fillers``). Others see forbidden items as utilities that carry no weight.
        finishes_masks: the function also takes ``mask=``, the flat batch's ``Mask``, and ``faults=``, and answers for
            it: utilities of forbidden items may be any finite numbers, and are ignored; they are exactly 0 in its
            answer, without fillers, and have derivatives of exactly 0; it checks the hull, and whether any element is
            left. Saves passes over a large event that cost more than its algorithm.
        log: a function of the same arguments to log x, with relative accuracy, for ``SoftArgmax.log``.

    Raises:
        ValueError: the pair has a function already. TypeError: not types, or ``Structure`` itself.
    """
    if not (isinstance(structure_type, type) and issubclass(structure_type, Structure)):
        raise TypeError(f"fast_path needs a subclass of sst.Structure, got {structure_type!r}.")
    if structure_type is Structure:
        raise TypeError("fast_path needs a class of your own: sst.Structure itself stands for any hull.")
    if not (isinstance(regularizer_type, type) and issubclass(regularizer_type, Regularizer)):
        raise TypeError(f"fast_path needs a type of regularizer, got {regularizer_type!r}.")
    pair = (structure_type, regularizer_type)

    def register(function: FastPathFunction) -> FastPathFunction:
        if pair in _REGISTRY:
            raise ValueError(
                f"({structure_type.__name__}, {regularizer_type.__name__}) has a fast path already: "
                f"{describe(_REGISTRY[pair].function)}. Remove one of the two."
            )
        _REGISTRY[pair] = Entry(function, when, supports_parameters, supports_masks, finishes_masks, log)
        return function

    return register


def find_fast_path(structure: Structure, regularizer: Regularizer) -> tuple[FastPathFunction | None, str]:
    """The function that answers for this pair, or None; and the reason, in words."""
    names = f"({type(structure).__name__}, {type(regularizer).__name__})"
    if getattr(regularizer, "weights", None) is not None:
        return None, "fast paths take no weights"
    if type(regularizer) is ExponentialFamilyEntropy and not structure.parameters and structure.log_partition_refusal:
        return None, structure.log_partition_refusal
    entry = _REGISTRY.get((type(structure), type(regularizer)))
    if entry is not None:
        if structure.parameters and not entry.supports_parameters:
            return None, f"the fast path of {names} does not take hull parameters"
        if entry.when is not None and not entry.when(structure, regularizer):
            return None, f"the fast path of {names} does not cover this instance"
        return entry.function, describe(entry.function)
    family = type(regularizer) is ExponentialFamilyEntropy and not structure.parameters
    if family and structure.overrides("log_partition"):
        return marginals, "marginals, the gradient of log_partition"
    return None, f"no fast path is registered for {names}"


def find_logarithm(structure: Structure, regularizer: Regularizer) -> FastPathFunction | None:
    """The function registered for logarithms of this pair's fast path, if any."""
    entry = _REGISTRY.get((type(structure), type(regularizer)))
    return None if entry is None else entry.logarithm


def takes_masks(structure: Structure, regularizer: Regularizer) -> bool:
    """Whether the function registered for this pair takes ``mask=``."""
    entry = _REGISTRY.get((type(structure), type(regularizer)))
    return entry is not None and entry.supports_masks


def finishes_masks(structure: Structure, regularizer: Regularizer) -> bool:
    """Whether the function registered for this pair answers for masks by itself."""
    entry = _REGISTRY.get((type(structure), type(regularizer)))
    return entry is not None and entry.finishes_masks


def marginals(structure: Structure, regularizer: Regularizer, u: torch.Tensor) -> torch.Tensor:
    """grad A(u): the exponential-family soft argmax by autograd of the log-partition (paper, section 4.2)."""
    del regularizer
    return gradient(structure.log_partition, u)


def describe(function: FastPathFunction) -> str:
    """Module and name of a function, for repr and errors."""
    return f"{function.__module__}.{function.__qualname__}"
