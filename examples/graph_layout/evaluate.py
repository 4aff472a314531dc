"""ELBO, and precision and recall of the edges, on hard samples."""

from __future__ import annotations

import torch

from examples.graph_layout.data import Part
from examples.graph_layout.edges import to_directed
from examples.graph_layout.model import Model


@torch.no_grad()
def evaluate(model: Model, part: Part, frozen: bool = True, batch: int = 500, seed: int = 0) -> dict[str, float]:
    """Means over a part: elbo, nll, kl of one hard sample each, the decoder fed the truth at every step; precision
    and recall in percent over the 90 directed edges, of the edge type (X or 1 - X) that has the higher precision.

    Args:
        frozen: BatchNorm by its running statistics; else by those of the batch, as the authors' test ran by oversight.
    """
    was_training, device = model.training, next(model.parameters()).device
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    model.train(not frozen)
    generator, rows = torch.Generator(device).manual_seed(seed), []
    for edges, positions in zip(part.edges.split(batch), part.positions.split(batch), strict=True):
        nll, kl, found = model(positions.to(device), 1.0, hard=True, roll_out=1, generator=generator)
        truth = to_directed(edges.to(device))
        rows.append(torch.stack([-(nll + kl), nll, kl, *_scores(found, truth), *_scores(1 - found, truth)], 1))
    model.load_state_dict(kept)
    model.train(was_training)
    elbo, nll, kl, precision, recall, other_precision, other_recall = torch.cat(rows).double().mean(0).tolist()
    if other_precision > precision:
        precision, recall = other_precision, other_recall
    return {"elbo": elbo, "nll": nll, "kl": kl, "precision": 100 * precision, "recall": 100 * recall}


def _scores(found: torch.Tensor, truth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    hits = (found * truth).sum(1)
    return hits / found.sum(1).clamp(min=1), hits / truth.sum(1)
