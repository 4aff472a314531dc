"""The one closed form of an argmax: over unit vectors, Gumbel utilities of one scale choose i with probability
softmax(loc / scale)_i (the Gumbel-max trick)."""

from __future__ import annotations

import torch
from torch.distributions import Distribution, Gumbel

from sst_cvx.errors import SolveError
from sst_cvx.faults import spoiled
from sst_cvx.host import may_ask
from sst_cvx.learning.noise import base_of
from sst_cvx.structure.base import Structure


def log_probabilities(structure: Structure, utilities: Distribution, mask: torch.Tensor | None) -> torch.Tensor:
    """log of the probability of each item, ``(*batch, n)``; -inf where the mask is False.

    Raises:
        NotImplementedError: another set, other utilities, scales that differ. SolveError: no item is allowed.
    """
    base = base_of(utilities)
    if type(base) is not Gumbel or structure.parameters or not structure.one_hot:
        raise NotImplementedError(
            "probabilities of an argmax are known in closed form for one-hot sets and Gumbel utilities only: "
            "sst.ExponentialFamily has them for every structure with a log-partition; or estimate from samples."
        )
    scale = base.scale[..., :1]
    logits = base.loc / scale
    if may_ask(logits):
        if bool((base.scale != scale).any()):
            raise NotImplementedError("the Gumbel utilities of one element need one common scale for a closed form.")
    else:
        differ = (base.scale != scale).any(-1)
        logits = spoiled(
            logits, differ, "Gumbel utilities", "scales of one element must be equal: not so for {elements}."
        )
    if mask is not None:
        mask = mask.expand(logits.shape).to(logits.device)
        empty = ~mask.any(-1)
        if may_ask(logits) and bool(empty.any()):
            elements = [tuple(i) for i in torch.nonzero(empty).tolist()]
            raise SolveError("every item of {elements} is forbidden: allow one at least.", elements)
        logits = logits.masked_fill(~mask, -torch.inf)  # NaN where all are
    return logits.log_softmax(-1)
