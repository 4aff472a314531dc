"""What Newton's steps ask of linear algebra: a diagonal Hessian batched.

    [ diag(1 / d)  M' ] [ dw ]   [ p ]
    [ M            0  ] [ dy ] = [ q ]        M = [[A, 0], [G, I]] d >= 0 of each element

``DenseRows`` answers, or for large extended formulations ``SparseRows``, both with one M for the batch; ``BatchedRows``
(``varying``) where parameters multiply variables, with one of each element.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch


class Factor(Protocol):
    """A factorised Newton system."""

    def solve(self, p: torch.Tensor, q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """dw and dy for right sides p ``(batch, columns)`` and q ``(batch, rows)``."""
        ...


class LinearAlgebra(Protocol):
    """M on one device, and its Newton systems."""

    equalities: int
    slacks: int

    def __getitem__(self, index: Any) -> LinearAlgebra:
        """Of some elements."""
        ...

    def times(self, w: torch.Tensor) -> torch.Tensor:
        """M w, ``(batch, rows)``."""
        ...

    def residual(self, right: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """right - M w, ``(batch, rows)``."""
        ...

    def dual_residual(self, linear: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """linear - M' y, ``(batch, columns)``."""
        ...

    def factor(self, d: torch.Tensor) -> Factor:
        """Factorise for d ``(batch, columns)``, all positive and finite."""
        ...

    def factor_active(self, d: torch.Tensor, t: torch.Tensor) -> Factor:
        """Factorise where d has zeros (fixed columns) and 1e20 (free slacks), regularised for temperatures t
        ``(batch, 1)``: refinement is up to the caller."""
        ...
