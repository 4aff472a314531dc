"""Sparse matrices in torch."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sst_cvx.once import later

if TYPE_CHECKING:
    import scipy.sparse as sp
else:
    sp = later("scipy.sparse")


def sparse_tensor(matrix: Any, device: torch.device) -> torch.Tensor:
    """A matrix of SciPy's in CSR, float64."""
    matrix = sp.csr_array(matrix, dtype=np.float64)
    matrix.sum_duplicates()  # and sorts
    indptr, indices = (torch.tensor(a, dtype=torch.int64, device=device) for a in (matrix.indptr, matrix.indices))
    values = torch.tensor(matrix.data, device=device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that these tensors are in beta
        shape = matrix.shape  # the device is said again: a default one would be taken
        return torch.sparse_csr_tensor(  # type: ignore[no-any-return]
            indptr, indices, values, shape, device=device, check_invariants=True
        )


class SparseMatrix:
    """A constant matrix S ``(m, n)`` for products with batches: S itself and its transpose on one device."""

    def __init__(self, matrix: Any, device: torch.device):
        self._rows = matrix.shape[0]
        self._pair = None  # of nothing: not all versions of torch make a sparse tensor of it
        if sp.csr_array(matrix).nnz:
            self._pair = sparse_tensor(matrix, device), sparse_tensor(matrix.T, device)

    def times(self, v: torch.Tensor) -> torch.Tensor:
        """S v for each v of ``(batch, n)``, ``(batch, m)``; differentiable any number of times."""
        if self._pair is None:
            return v.new_zeros(len(v), self._rows) + 0 * v.sum(-1, keepdim=True)
        return _Product.apply(v, *self._pair)  # type: ignore[return-value]


class _Product(torch.autograd.Function):
    """Linear, so its backward is the transpose, whose backward is it again."""

    @staticmethod
    def forward(ctx: Any, v: torch.Tensor, S: torch.Tensor, S_t: torch.Tensor) -> torch.Tensor:
        ctx.pair = S_t, S
        return (S @ v.T.contiguous()).T.contiguous()

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> Any:
        return _Product.apply(cotangents[0], *ctx.pair), None, None
