"""log X_t(u) with relative accuracy: what ``SoftArgmax.log`` answers.

By the function registered with the fast path; of exponential families by log-partitions; of entropies over polytopes by
the interior-point path's tableau, whichever path answers itself.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from sst_cvx.arguments import check_utilities
from sst_cvx.errors import SolveError
from sst_cvx.once import without_autocast
from sst_cvx.paths import opaque
from sst_cvx.paths.absent import without_absent
from sst_cvx.paths.base import Batch, Path
from sst_cvx.paths.fast.registry import FastPathFunction, find_logarithm
from sst_cvx.paths.interior_point.path import InteriorPointPath
from sst_cvx.paths.interior_point.polytope import Polytope
from sst_cvx.paths.interior_point.tableau import is_entropy
from sst_cvx.regularizers import ExponentialFamilyEntropy, Regularizer, SeparableRegularizer
from sst_cvx.structure.base import Structure

_CHUNK = 10_000_000  # numbers in the utilities of one log-partition
_NEGLIGIBLE = 60.0  # log-odds of what an item that is asked for leaves to others: rounding errors
_NEVER = 40.0


class Logarithm:
    """log X_t(u) of one pair, whose points come by ``path``.

    Raises:
        NotImplementedError: the pair has no logarithms with relative accuracy, saying why.
    """

    def __init__(self, structure: Structure, regularizer: Regularizer, path: Path):
        self._structure, self._regularizer = structure, regularizer
        self._function = self._by_tensors()
        self._polytope: Polytope | None = None
        if self._function is not None:
            return
        if not (isinstance(regularizer, SeparableRegularizer) and is_entropy(regularizer)):
            raise NotImplementedError(
                f"{regularizer!r} has no logarithms: take those of CategoricalEntropy, BinaryEntropy or "
                "ExponentialFamilyEntropy. Others have solutions with entries of exactly 0."
            )
        if structure.hull.nonlinearity or (structure.parameters and structure.declared_hull.affine is None):
            raise NotImplementedError(
                f"logarithms need linear constraints, of which parameters are right sides: {structure!r} has others."
            )
        own = isinstance(path, InteriorPointPath)
        self._polytope = path.polytope if own else Polytope(structure, regularizer)

    def _by_tensors(self) -> FastPathFunction | None:
        structure, regularizer = self._structure, self._regularizer
        function = find_logarithm(structure, regularizer)
        if getattr(regularizer, "weights", None) is None and function is not None:
            return function
        if type(regularizer) is not ExponentialFamilyEntropy:
            return None
        if structure.log_partition_refusal or not structure.overrides("log_partition") or not structure.binary:
            raise NotImplementedError(
                f"logarithms of marginals need a log-partition over 0/1 arrays, which {structure!r} has not."
            )
        return log_marginals

    @property
    def by_tensors(self) -> bool:
        """Whether it is a program of tensors, of u / t, that takes forbidden items as utilities without weight."""
        return self._function is not None

    def __call__(self, batch: Batch) -> torch.Tensor:
        """``(count, *event_shape)``, of the dtype and device of the batch, whose mask is taken care of.

        Raises:
            SolveError: elements that did not settle. NotImplementedError: on this path, where a compiler traces.
        """
        if self._function is not None:
            u = batch.divided()
            return self._function(self._structure, self._regularizer, u, **batch.parameters)
        if opaque.is_needed(batch.u):
            raise NotImplementedError(
                f"logarithms over {self._structure!r} ask the host at every step, and are not compiled, exported or "
                "transformed by torch.func: take them eagerly, or use a pair with a fast path."
            )
        assert self._polytope is not None
        batch.check_finite()
        wide = batch.to(batch.u.device, torch.float64)
        u, t = wide.u.reshape(len(wide), self._structure.event_size), wide.temperatures
        try:
            u = u * (t.detach() / t)[:, None]
            x = self._polytope.logarithms(u, t.detach(), wide.parameters, wide.elements)
        except SolveError as error:
            raise batch.elements.rename(error) from error.__cause__
        return x.reshape(batch.u.shape).to(batch.u.dtype)


def log_marginals(structure: Structure, regularizer: Regularizer, u: torch.Tensor) -> torch.Tensor:
    """log P(x_i = 1) = A(u + b e_i) - b - A(u), where b is so large that elements without item i do not count, and no
    larger: with the first, safe b, rounding errors of b tell the size of the logarithm, and with it the second b."""
    del regularizer
    dims = tuple(range(-len(structure.event_shape), 0))
    wide, size = u.double(), math.prod(structure.event_shape)
    flat = wide.reshape(*wide.shape[: wide.dim() - len(dims)], size)
    total = structure.log_partition(wide)[..., None]
    safe = _NEGLIGIBLE + 2 * flat.detach().abs().sum(-1, keepdim=True) + size
    at_least = _asked_for(structure, flat.detach(), safe.expand(flat.shape)) - total.detach()
    never = at_least <= _NEVER - safe
    b = _NEGLIGIBLE - torch.where(never, 0.0, at_least).clamp(max=0.0)
    found = (_asked_for(structure, flat, b) - total).clamp(max=0.0)
    return torch.where(never, -math.inf, found).reshape(u.shape).to(u.dtype)


def _asked_for(structure: Structure, flat: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """A(u + b_i e_i) - b_i, ``(*batch, size)``."""
    size = flat.shape[-1]
    chunk = max(1, _CHUNK // max(1, flat.numel()))
    parts = []
    for items in torch.arange(size, device=flat.device).split(chunk):
        asked = flat[..., None, :] + b[..., items, None] * (items[:, None] == torch.arange(size, device=flat.device))
        parts.append(structure.log_partition(asked.reshape(*asked.shape[:-1], *structure.event_shape)) - b[..., items])
    return torch.cat(parts, -1)


def log_soft_argmax(soft: Any, u: torch.Tensor, temperature: Any, mask: Any, parameters: Any) -> torch.Tensor:
    """``SoftArgmax.log``."""
    structure, logarithm = soft.structure, soft.logarithm
    shape = check_utilities(u, structure.event_shape)
    with without_autocast(u.device.type):
        masked = None if mask is None else structure.check_mask(mask, u.shape, u.device).flat()
        batch = Batch.of(structure, u, temperature, masked, parameters, shape)
        if batch.faults is None or logarithm.by_tensors:
            batch = without_absent(structure, batch)
        if not u.numel():
            return u * 0
        return batch.spoiled(log_of(soft, batch), soft).reshape(u.shape).to(u.dtype)


def log_of(soft: Any, batch: Batch) -> torch.Tensor:
    """log of a soft argmax of a flat batch, -inf at forbidden items."""
    if batch.mask is None:
        return soft.logarithm(batch)
    if soft.logarithm.by_tensors:
        return torch.where(batch.mask.allowed, soft.logarithm(batch), -math.inf)
    return _by_faces(soft, batch)


def _by_faces(soft: Any, batch: Batch) -> torch.Tensor:
    rest, mask = batch.without_mask(), batch.mask
    assert mask is not None

    def ask(face: Any, rows: torch.Tensor) -> torch.Tensor:
        return face.logarithm(rest.take(rows))

    try:
        x = soft._faces.answer(mask, batch.u, ask)
    except SolveError as error:
        raise batch.elements.rename(error) from error.__cause__
    return torch.where(mask.allowed, x, -math.inf)
