"""What was compiled for the faces of one hull, and answers put together from those of single faces."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np
import torch

from sst_cvx.errors import EmptySet
from sst_cvx.once import CVXPY_LOCK
from sst_cvx.structure.masks import Mask, empty_error

_KEPT = 256  # faces kept by one structure or soft argmax

Compiled = TypeVar("Compiled")


class Faces(Generic[Compiled]):
    """The latest faces of one hull; any number of threads.

    Args:
        make: what answers for the face of a flat mask of allowed items. Raises EmptySet where there is nothing.
    """

    def __init__(self, make: Callable[[np.ndarray], Compiled]):
        self._make = make
        self._made: OrderedDict[bytes, Compiled] = OrderedDict()

    def __call__(self, allowed: np.ndarray) -> Compiled:
        key = allowed.tobytes()
        with CVXPY_LOCK:
            if key not in self._made:
                self._made[key] = self._make(allowed)
                while len(self._made) > _KEPT:
                    self._made.popitem(last=False)
            self._made.move_to_end(key)
            return self._made[key]

    def answer(
        self, mask: Mask, like: torch.Tensor, ask: Callable[[Compiled, torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """``ask(compiled, elements)`` for every distinct mask of a flat batch, put together in the shape of ``like``.

        Raises:
            SolveError: masks that leave no element, naming the elements of the flat batch.
        """
        x = torch.zeros_like(like)
        for allowed, elements in mask.groups():
            try:
                compiled = self(allowed)
            except EmptySet as error:
                raise empty_error(elements.tolist()) from error
            x = x.index_copy(0, elements.to(x.device), ask(compiled, elements))
        return torch.where(mask.allowed, x, 0.0)
