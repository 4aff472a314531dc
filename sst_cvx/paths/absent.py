"""Utilities of -inf in a batch."""

from __future__ import annotations

from dataclasses import replace

from sst_cvx.paths.base import Batch
from sst_cvx.structure.absent import with_absent
from sst_cvx.structure.base import Structure


def without_absent(structure: Structure, batch: Batch) -> Batch:
    """The batch with a mask for what is -inf; see ``with_absent``."""
    given = None if batch.mask is None else batch.mask.allowed
    allowed = with_absent(structure, batch.u, given)
    if allowed is given or allowed is None:
        return batch
    mask = structure.check_mask(allowed, batch.u.shape, batch.u.device)
    return replace(batch, mask=replace(mask, implied=given is None and batch.faults is not None))
