"""The one closed form of an argmax: over unit vectors, Gumbel utilities of one scale choose i with probability
softmax(loc / scale)_i (the Gumbel-max trick)."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch.distributions import Distribution, Gumbel

from sst_cvx.errors import SolveError
from sst_cvx.learning.noise import base_of
from sst_cvx.structure.base import Structure

_one_hot: WeakKeyDictionary[Structure, bool] = WeakKeyDictionary()  # found out once a structure, by argmax


def log_probabilities(structure: Structure, utilities: Distribution, mask: torch.Tensor | None) -> torch.Tensor:
    """log of the probability of each item, ``(*batch, n)``; -inf where the mask is False.

    Raises:
        NotImplementedError: another set, other utilities, scales that differ. SolveError: no item is allowed.
    """
    base = base_of(utilities)
    if type(base) is not Gumbel or structure.parameters or not _is_one_hot(structure):
        raise NotImplementedError(
            "probabilities of an argmax are known in closed form for one-hot sets and Gumbel utilities only: "
            "sst.ExponentialFamily has them for every structure with a log-partition; or estimate from samples."
        )
    scale = base.scale[..., :1]
    if bool((base.scale != scale).any()):
        raise NotImplementedError("the Gumbel utilities of one element need one common scale for a closed form.")
    logits = base.loc / scale
    if mask is not None:
        mask = mask.expand(logits.shape).to(logits.device)
        if not bool(mask.any(-1).all()):
            elements = [tuple(i) for i in torch.nonzero(~mask.any(-1)).tolist()]
            raise SolveError("every item of {elements} is forbidden: allow one at least.", elements)
        logits = logits.masked_fill(~mask, -torch.inf)
    return logits.log_softmax(-1)


def _is_one_hot(structure: Structure) -> bool:
    """Whether X is the set of unit vectors: 0/1 vectors of sum 1, each of them an answer of argmax."""
    if structure not in _one_hot:
        _one_hot[structure] = _finds_unit_vectors(structure)
    return _one_hot[structure]


def _finds_unit_vectors(structure: Structure) -> bool:
    if len(structure.event_shape) != 1 or not structure.binary:
        return False
    n = structure.event_shape[0]
    one = torch.ones(n, dtype=torch.float64, device="cpu")
    if not bool((structure.argmax(torch.stack([one, -one])).sum(1) == 1).all()):
        return False
    for some in torch.arange(n, device="cpu").split(256):  # not all at once: n^2 numbers
        units = torch.nn.functional.one_hot(some, n).double()
        if not torch.equal(structure.argmax(units), units):
            return False
    return True
