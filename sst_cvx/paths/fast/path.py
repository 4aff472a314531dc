"""The path "fast": a closed-form or combinatorial algorithm that is registered for the pair."""

from __future__ import annotations

import torch

from sst_cvx.arguments import surely_finite
from sst_cvx.errors import SolveError
from sst_cvx.paths.base import Accuracy, Batch, Options, Path, Refused
from sst_cvx.paths.fast.registry import describe, find_fast_path, finishes_masks, takes_masks
from sst_cvx.regularizers import Regularizer
from sst_cvx.structure.base import Structure


class FastPath(Path):
    """Calls the registered function; unless it takes them, masks reach it as utilities that carry no weight."""

    name = "fast"
    takes_masks = True
    accuracy = Accuracy(gap=1e-9, gradient=1e-7, differences=1e-7, batches=1e-10, value=1e-9)

    def __init__(self, structure: Structure, regularizer: Regularizer, options: Options):
        function, self.how = find_fast_path(structure, regularizer)
        if function is None:
            raise Refused(self.how)
        self._function, self._structure, self._regularizer = function, structure, regularizer
        self._takes_masks = takes_masks(structure, regularizer)
        self._finishes_masks = finishes_masks(structure, regularizer)
        structure.prepare()  # here, not while a compiler traces

    def who(self) -> str:
        return f"fast path {self.how}"

    def finishes(self, batch: Batch) -> bool:
        return self._finishes_masks and batch.mask is not None and not batch.mask.implied

    def answer(self, batch: Batch) -> torch.Tensor:
        if self.finishes(batch):
            seen = batch if batch.faults is None and surely_finite(batch.u) else batch.without_mask()
            u = batch.over_temperature(seen.u)
            x = self._function(self._structure, self._regularizer, u, mask=batch.mask, faults=batch.faults)
        elif batch.mask is not None and self._takes_masks and not batch.mask.implied:
            u = batch.over_temperature(batch.without_mask().u)
            x = self._function(self._structure, self._regularizer, u, mask=batch.mask.allowed)
        else:
            u = batch.divided()
            x = self._function(self._structure, self._regularizer, u, **batch.parameters)
        if x.shape != u.shape or x.dtype != u.dtype or x.device != u.device:
            raise SolveError(
                f"fast path {describe(self._function)} returned {tuple(x.shape)} {x.dtype} {x.device} for utilities "
                f"{tuple(u.shape)} {u.dtype} {u.device}: it must keep shape, dtype and device."
            )
        return x
