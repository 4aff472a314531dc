"""Exact samples of exponential families, one choice after the other, each given those before; batched, any device.

Where the probabilities of one choice given the earlier ones are known, so is the way to sample: the count of items left
for a suffix of a list, the parent of a vertex given the parents of others. Loops run over items, never over the batch.
"""

from __future__ import annotations

import torch

from polytopes.kernels.log_weights import ABSENT, draw_one
from polytopes.kernels.subset_tree import sample_subset_by_halves
from polytopes.kernels.tree_log_elimination import log_domain_sample
from polytopes.kernels.tree_sum import tree_marginals
from sst_cvx.host import stops_early


def sample_subset(u: torch.Tensor, least: int, most: int, generator: torch.Generator | None) -> torch.Tensor:
    """Subsets of ``least`` to ``most`` of n items with probability proportional to exp <u, x>, in O(n most).

    Args:
        u: ``(*batch, n)``. least, most: 0 <= least <= most <= n.
        generator: on the device of ``u``.

    Returns:
        0/1 of the shape, dtype and device of ``u``.
    """
    n, flat = u.shape[-1], u.detach().reshape(-1, u.shape[-1]).double()
    if not stops_early(u):
        return sample_subset_by_halves(flat, least, most, generator).reshape(u.shape).to(u.dtype)
    suffix = flat.new_full((len(flat), most + 1), -torch.inf)
    suffix[:, 0] = 0.0
    suffixes = [suffix]  # log of the sum over subsets of items i, ..., n - 1 by their size, for i = n, ..., 0
    for i in range(n - 1, -1, -1):
        with_item = torch.nn.functional.pad(suffix[:, :-1] + flat[:, i : i + 1], (1, 0), value=-torch.inf)
        suffix = torch.logaddexp(suffix, with_item)
        suffixes.append(suffix)
    left = least + torch.multinomial(suffix[:, least:].softmax(1), 1, generator=generator)
    uniform = torch.rand(flat.shape, dtype=flat.dtype, device=flat.device, generator=generator)
    x = torch.zeros_like(flat)
    for i in range(n):
        rest = suffixes[n - i - 1].gather(1, (left - 1).clamp(min=0))
        share = (flat[:, i : i + 1] + rest - suffixes[n - i].gather(1, left)).exp()
        chosen = (left > 0) & ((uniform[:, i : i + 1] < share) | (left == n - i))
        x[:, i : i + 1], left = chosen.double(), left - chosen.long()
    return x.reshape(u.shape).to(u.dtype)


def sample_tree(w: torch.Tensor, single_root: bool, generator: torch.Generator | None) -> torch.Tensor:
    """Parents ``(*batch, n)`` of all vertices in a random tree, in n computations of marginals; 0 is its own.

    Where the host must not be asked, in one elimination; from other random numbers.

    Args:
        w: log-weights ``(*batch, n, n)`` and ``single_root`` as for ``log_tree_sum``.
        generator: on the device of ``w``.
    """
    n = w.shape[-1]
    if not stops_early(w):
        return log_domain_sample(w.detach().double(), single_root and n > 2, generator)
    flat = w.detach().reshape(-1, n, n).double()
    parents = torch.zeros(flat.shape[:2], dtype=torch.long, device=w.device)
    rows = torch.arange(n, device=w.device)
    for v in range(1, n):
        share = tree_marginals(flat, single_root)[:, :, v].clamp(min=0.0)  # given the parents of 1, ..., v - 1
        parent = draw_one(share.log(), generator)
        parents[:, v] = parent[:, 0]
        column = torch.where(rows == parent, flat[:, :, v], ABSENT)
        flat = torch.where(rows == v, column[:, :, None], flat)
    return parents.reshape(w.shape[:-1])
