"""Accuracy of the answers, and precision and recall of the edges, along hard samples."""

from __future__ import annotations

import torch

from examples.listops.data import CLOSE, Part, batches
from examples.listops.model import Model

_BATCH = 500


def scores_of_edges(found: torch.Tensor, part: Part, undirected: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Precision and recall ``(B,)`` of hard edges ``(B, parents, children)``; those at closing brackets do not count.

    Of undirected ones, which are there both ways, the true edges count both ways, too. Precision is 0 where no edge is
    left that counts.
    """
    counted = part.present & (part.tokens != CLOSE)
    pairs = counted[:, :, None] & counted[:, None]
    truth = part.true_edges & pairs
    truth = truth | truth.mT if undirected else truth
    found = (found > 0.5) & pairs
    hits = (found & truth).sum((1, 2))
    return hits / found.sum((1, 2)).clamp(min=1), hits / truth.sum((1, 2))


@torch.no_grad()
def evaluate(model: Model, part: Part, seed: int = 0, noise: bool = True) -> dict[str, float]:
    """Means over expressions, in %: accuracy, and where there are edges, precision and recall; with the answers' nats.

    Args:
        noise: one hard sample of edges an expression; else the best edges without noise.
    """
    device, training = next(model.parameters()).device, model.training
    model.eval()
    generator, rows = torch.Generator(device).manual_seed(seed), []
    for batch in (b.to(device) for b in batches(part, _BATCH)):
        if model.kind == "none":
            answers, of_edges = model.read(batch), ()
        else:
            weights = model.sample(batch, 1.0, hard=True, generator=generator) if noise else model.best(batch)
            answers, of_edges = model.answer(batch, weights), scores_of_edges(weights, batch, model.kind == "tree")
        right = (answers.argmax(1) == batch.answers).float()
        loss = torch.nn.functional.cross_entropy(answers, batch.answers, reduction="none")
        rows.append(torch.stack([loss, right, *of_edges], 1))
    model.train(training)
    loss, *shares = torch.cat(rows).double().mean(0).tolist()
    names = ("accuracy", "precision", "recall")
    return {"loss": loss} | {name: 100 * value for name, value in zip(names, shares, strict=False)}
