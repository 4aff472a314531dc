"""The error of a failed solve, and how batch elements are named in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class SolveError(RuntimeError):
    """A solve failed, or its answer did not pass the guard.

    Args:
        message: may contain ``{elements}``, which is replaced by their names.
        elements: indices of the failed batch elements; integers stand for a flat batch.
        status: what the solver said, one string an element (may be empty).

    Attributes:
        elements: tuples of indices in the caller's batch shape.
        status: as given.
    """

    def __init__(self, message: str, elements: Sequence[Any] = (), status: Sequence[str] = ()):
        self.elements = tuple(e if isinstance(e, tuple) else (int(e),) for e in elements)
        self.status = tuple(status)
        self._message = message
        super().__init__(message.replace("{elements}", name_elements(self.elements)))

    def among(self, numbers: Sequence[int]) -> SolveError:
        """The same error, with element i of a part of a flat batch turned into element ``numbers[i]`` of the whole."""
        error = SolveError(self._message, [int(numbers[e[0]]) for e in self.elements], self.status)
        error.__cause__ = self.__cause__
        return error

    def in_batch(self, batch_shape: Sequence[int]) -> SolveError:
        """The same error, with the numbers of a flattened batch turned into indices of ``batch_shape``."""
        shaped = [
            tuple(int(i) for i in np.unravel_index(e[0], tuple(batch_shape))) if len(batch_shape) else ()
            for e in self.elements
        ]
        error = SolveError(self._message, shaped, self.status)
        error.__cause__ = self.__cause__
        return error


def name_elements(elements: Sequence[tuple[int, ...]], limit: int = 5) -> str:
    """Readable list of batch elements: ``batch elements (0, 3), (1, 2), ... (7 in all)``."""
    if list(elements) == [()]:
        return "the (unbatched) problem"
    shown = ", ".join(str(e[0] if len(e) == 1 else e) for e in elements[:limit])
    more = f", ... ({len(elements)} in all)" if len(elements) > limit else ""
    return f"batch element{'s' if len(elements) > 1 else ''} {shown}{more}"
