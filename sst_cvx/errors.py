"""The errors of the package, and how batch elements are named in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


class EmptySet(ValueError):
    """A set without elements: a hull whose constraints contradict, or a face of one in which nothing is left."""


class SolveError(RuntimeError):
    """A solve failed, or its answer did not pass the guard.

    Args:
        message: may contain ``{elements}``, which is replaced by their names.
        elements: indices of the failed batch elements: tuples in the caller's batch shape, or integers where the
            caller's batch is not known yet, numbers in a flat one.
        status: what the solver said, one string an element (may be empty).

    Attributes:
        elements: tuples of indices in the caller's batch shape.
        status: as given.
        message: as given.
        named: whether the elements are indices of the caller's batch.
    """

    def __init__(self, message: str, elements: Sequence[Any] = (), status: Sequence[str] = ()):
        self.named = all(isinstance(e, tuple) for e in elements)
        self.elements = tuple(e if isinstance(e, tuple) else (int(e),) for e in elements)
        self.status = tuple(status)
        self.message = message
        super().__init__(message.replace("{elements}", name_elements(self.elements)))

    def in_batch(self, batch_shape: Sequence[int]) -> SolveError:
        """The same error, with the numbers of a flattened batch turned into indices of ``batch_shape``."""
        return Elements(torch.Size(batch_shape)).rename(self)

    def __reduce__(self) -> Any:
        elements = self.elements if self.named else tuple(e[0] for e in self.elements)
        return type(self), (self.message, elements, self.status)


@dataclass(frozen=True)
class Elements:
    """Which elements of the caller's batch the rows of a flat batch are.

    Attributes:
        batch_shape: the caller's.
        numbers: of each row in the flattened ``batch_shape``, ``(rows,)``; None where the rows are all of them.
        told: where failures of a backward pass are NaN and not raised: called with these, rows ``(rows,)`` that failed,
            and a message.
    """

    batch_shape: torch.Size
    numbers: torch.Tensor | None = None
    told: Callable[[Elements, torch.Tensor, str], None] | None = None
    #: Consecutive rows, or numbers, that are one element of the caller's.
    copies: int = 1

    def repeated(self, copies: int) -> Elements:
        """Of a batch in which every row stands so many times, one after the other."""
        numbers = self.numbers
        if numbers is not None:
            numbers = (numbers[:, None] * copies + torch.arange(copies, device=numbers.device)).reshape(-1)
        return Elements(self.batch_shape, numbers, self.told, self.copies * copies)

    def take(self, rows: torch.Tensor) -> Elements:
        """Those of some rows."""
        numbers = rows if self.numbers is None else self.numbers.to(rows.device)[rows]
        return Elements(self.batch_shape, numbers, self.told, self.copies)

    def index(self, row: int) -> tuple[int, ...]:
        """Of one row in the caller's batch shape; () where there is no batch."""
        number = (row if self.numbers is None else int(self.numbers[row])) // self.copies
        return tuple(int(i) for i in np.unravel_index(number, self.batch_shape)) if self.batch_shape else ()

    def error(self, message: str, rows: Sequence[int], status: Sequence[str] = ()) -> SolveError:
        """A ``SolveError`` for some rows."""
        if self.copies == 1:
            return SolveError(message, [self.index(row) for row in rows], status)
        told = dict(zip((self.index(row) for row in rows), status or [""] * len(rows), strict=True))  # each once
        return SolveError(message, list(told), list(told.values()) if status else ())

    def refuse(self, wrong: torch.Tensor, message: str, *parts: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """In a backward pass: answers ``(rows, ...)``; where rows ``(rows,)`` are wrong NaN, or SolveError."""
        if not bool(wrong.any()):
            return parts
        if self.told is None:
            raise self.error(message, torch.nonzero(wrong).flatten().tolist())
        self.told(self, wrong, message)
        return tuple(torch.where(wrong.reshape(-1, *[1] * (x.dim() - 1)), torch.nan, x) for x in parts)

    def rename(self, error: SolveError) -> SolveError:
        """The same error, with numbers of rows turned into the caller's indices; named ones stay."""
        if error.named:
            return error
        renamed = self.error(error.message, [e[0] for e in error.elements], error.status)
        renamed.__cause__ = error.__cause__
        return renamed


def name_elements(elements: Sequence[tuple[int, ...]], limit: int = 5) -> str:
    """Readable list of batch elements: ``batch elements (0, 3), (1, 2), ... (7 in all)``."""
    if list(elements) == [()]:
        return "the (unbatched) problem"
    shown = ", ".join(str(e[0] if len(e) == 1 else e) for e in elements[:limit])
    more = f", ... ({len(elements)} in all)" if len(elements) > limit else ""
    return f"batch element{'s' if len(elements) > 1 else ''} {shown}{more}"
