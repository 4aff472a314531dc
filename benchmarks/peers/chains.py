"""Labelled chains, 50 places with 20 labels as paths through a layered graph: torch-struct and the plain loop."""

from __future__ import annotations

import numpy as np
import torch

import polytopes
import sst_cvx as sst
from benchmarks.marginal_peers import Way as TensorWay
from benchmarks.marginal_peers import by_autograd
from benchmarks.peers.race import Contest, Row, available, by_torch, has, normal, of_marginals


def rows() -> list[Row]:
    return [Row("labelled chain 50 x 20, marginals", lambda: _chain(50, 20))]


def graph(places: int, labels: int) -> tuple[torch.Tensor, int, int]:
    """Edges source -> first labels, label -> next label (previous first), last labels -> target; source and target."""
    label = torch.arange(labels)
    steps = [
        torch.stack(
            [1 + place * labels + label.repeat_interleave(labels), 1 + (place + 1) * labels + label.repeat(labels)]
        )
        for place in range(places - 1)
    ]
    target = 1 + places * labels
    first = torch.stack([torch.zeros_like(label), 1 + label])
    last = torch.stack([1 + (places - 1) * labels + label, torch.full_like(label, target)])
    return torch.cat([first, *steps, last], 1), 0, target


def _chain(places: int, labels: int) -> Contest:
    structure = polytopes.Path(*graph(places, labels))
    middle = places - 1, labels, labels

    def parts(u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return u[:, :labels], u[:, labels:-labels].reshape(-1, *middle), u[:, -labels:]

    def plain(u: torch.Tensor) -> torch.Tensor:
        alpha, steps, last = parts(u)
        for step in steps.unbind(1):
            alpha = (alpha[..., None] + step).logsumexp(1)
        return (alpha + last).logsumexp(1)

    def lay_out(u: torch.Tensor) -> torch.Tensor:
        """torch-struct's ``(batch, places - 1, next, previous)``: first and last scores within the outermost steps."""
        first, steps, last = parts(u)
        steps = steps.mT.clone()
        steps[:, 0] += first[:, None, :]
        steps[:, -1] += last[:, :, None]
        return steps

    def read(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[:, 0].sum(1), x.mT.flatten(1), x[:, -1].sum(2)], 1)

    peers = [of_marginals("torch loop", by_autograd(plain))]
    if has("torch_struct"):
        import torch_struct

        way = TensorWay(lambda s: torch_struct.LinearChainCRF(s).marginals, lay_out, read)
        peers.append(of_marginals("torch-struct", way))
    soft = sst.SoftArgmax(structure, sst.ExponentialFamilyEntropy())
    return Contest(
        normal(*structure.event_shape),
        by_torch("ours", soft),
        peers,
        lambda u: torch.stack([_forward_backward(*(p[0].numpy() for p in parts(row))) for row in u.split(1)]),
        checked=2,
        missing=available("torch_struct"),
    )


def _forward_backward(first: np.ndarray, steps: np.ndarray, last: np.ndarray) -> torch.Tensor:
    """Marginals of all edges, in long doubles."""
    wide = [p.astype(np.longdouble) for p in (first, steps, last)]
    first, steps, last = wide
    before, after = [first], [last]
    for step in steps:
        before.append(np.logaddexp.reduce(before[-1][:, None] + step, axis=0))
    for step in steps[::-1]:
        after.append(np.logaddexp.reduce(step + after[-1], axis=1))
    after = after[::-1]
    total = np.logaddexp.reduce(before[-1] + last)
    pairs = [b[:, None] + s + a for b, s, a in zip(before[:-1], steps, after[1:], strict=True)]
    scores = [first + after[0], *(p.ravel() for p in pairs), before[-1] + last]
    return torch.from_numpy(np.exp(np.concatenate(scores) - total).astype(np.float64))
