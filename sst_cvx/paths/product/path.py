"""The path "product": the soft argmax of X_1 x X_2 x ... is that of its factors, where f is a sum over them."""

from __future__ import annotations

import copy
from dataclasses import fields, replace
from typing import Any

import torch

from sst_cvx.faults import Faults
from sst_cvx.paths.base import Accuracy, Batch, Options, Path, Refused
from sst_cvx.paths.logarithm import log_of
from sst_cvx.regularizers import ExponentialFamilyEntropy, Regularizer, SeparableRegularizer
from sst_cvx.structure.base import Structure
from sst_cvx.structure.product import Factor, Product


class ProductPath(Path):
    """Copies of one structure are one batch; different factors are asked one after the other."""

    name = "product"
    takes_masks = True
    checks_hull = True
    by_parts = True

    def __init__(self, structure: Structure, regularizer: Regularizer, options: Options):
        if not isinstance(structure, Product):
            raise Refused(f"{structure!r} is no sst.Product" if options.by_name else "")
        assert options.make is not None
        self._structure, parts = structure, []
        for factor in structure.factors:
            try:
                parts.append(options.make(factor.structure, "auto", _part_of(regularizer, structure, factor)))
            except (ValueError, NotImplementedError) as error:
                raise Refused(f"the factor {factor.structure!r}: {error}") from error
        self.parts: tuple[Any, ...] = tuple(parts)
        self.how = ", ".join(f"{factor.structure!r} by {soft.path!r}" for factor, soft in self._pairs())
        self.accuracy = _worst([soft.accuracy() for soft in parts])  # pyright: ignore[reportAttributeAccessIssue]

    def _pairs(self) -> Any:
        return zip(self._structure.factors, self.parts, strict=True)

    @property
    def within_set(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether some factor's answers are in conv(X) itself, where its declared hull is looser."""
        return any(soft.feasible is not soft.structure.relaxed for soft in self.parts)

    def accuracy_at(self, t: float) -> Accuracy:
        return _worst([soft.accuracy(t) for soft in self.parts])

    def answer(self, batch: Batch) -> torch.Tensor:
        return self._each(batch, lambda soft, part: soft._answer(part))

    def logarithms(self, batch: Batch) -> torch.Tensor:
        """log of the answers; forbidden items have -inf."""
        return self._each(batch, log_of)

    def _each(self, batch: Batch, ask: Any) -> torch.Tensor:
        """What every factor answers, put together."""
        found = []
        for factor, soft in self._pairs():
            part = _batch_of(self._structure, factor, batch)
            x = ask(soft, part)
            if batch.faults is not None and part.faults is not None:
                batch.faults.take(part.faults, factor.copies)
            found.append(x.reshape(len(batch), factor.stop - factor.start))
        x = found[0] if len(found) == 1 else torch.cat(found, 1)
        return x.reshape(batch.u.shape)


class ProductLogarithm:
    """log of what a ``ProductPath`` answers.

    Raises:
        NotImplementedError: some factor has no logarithms.
    """

    by_tensors = True  # as far as the door is concerned: factors see to masks by themselves

    def __init__(self, path: ProductPath):
        self._path = path
        for soft in path.parts:
            _ = soft.logarithm

    def __call__(self, batch: Batch) -> torch.Tensor:
        return self._path.logarithms(batch)


def _batch_of(structure: Product, factor: Factor, batch: Batch) -> Batch:
    """The part of a flat batch that one factor answers; copies are rows of the same element."""
    dims, copies = batch.u.dim() - 1, factor.copies
    u, mask, t, elements = factor.of(batch.u, dims), batch.mask, batch.t, batch.elements
    if mask is not None:
        mask = structure.mask_of(factor, mask)
    if copies > 1:
        u, mask = u.flatten(0, 1), None if mask is None else mask.flat()
        t = t.repeat_interleave(copies, 0) if isinstance(t, torch.Tensor) else t
        elements = elements.repeated(copies)
    faults = None if batch.faults is None else Faults(elements)
    values = structure.values_of(factor, batch.parameters)
    return replace(batch, u=u, t=t, parameters=values, mask=mask, elements=elements, faults=faults)


def _part_of(regularizer: Regularizer, structure: Product, factor: Factor) -> Regularizer:
    """f on one factor.

    Raises:
        Refused: it is no sum over the factors, or differs among copies of one.
    """
    if type(regularizer) is ExponentialFamilyEntropy:
        return regularizer
    if not isinstance(regularizer, SeparableRegularizer):
        raise Refused(f"{regularizer!r} is not known to be a sum over the factors")
    if getattr(regularizer, "is_tensor", False) and factor.copies > 1:
        raise Refused("a tensor alpha is not handed on to the copies of a power")
    if regularizer.weights is None:
        return regularizer
    weights = factor.of(regularizer.weights.broadcast_to(structure.event_shape), len(structure.event_shape))
    if factor.copies > 1:
        if bool((weights != weights[:1]).any()):
            raise Refused("weights that differ among the copies of a power")
        weights = weights[0]
    part = copy.copy(regularizer)
    part.weights = weights.contiguous()
    return part


def _worst(promises: list[Accuracy]) -> Accuracy:
    return Accuracy(**{f.name: max(getattr(a, f.name) for a in promises) for f in fields(Accuracy)})
