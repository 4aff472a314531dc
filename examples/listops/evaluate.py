"""Accuracy of the answers, and precision and recall of the edges, along hard samples."""

from __future__ import annotations

import torch

from examples.listops import edges
from examples.listops.data import CLOSE, Part, batches
from examples.listops.model import Model

_BATCH = 500


def scores_of_edges(found: torch.Tensor, part: Part, undirected: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Precision and recall ``(B,)`` of hard edges ``(B, parents, children)``; those at closing brackets do not count.

    Of undirected ones, which are there both ways, the true edges count both ways, too. Precision is 0 where no edge is
    left that counts.
    """
    counted = part.present & (part.vertex_tokens != CLOSE)
    pairs = counted[:, :, None] & counted[:, None]
    truth = part.true_edges & pairs
    truth = truth | truth.mT if undirected else truth
    found = (found > 0.5) & pairs
    hits = (found & truth).sum((1, 2))
    return hits / found.sum((1, 2)).clamp(min=1), hits / truth.sum((1, 2))


def floors(part: Part) -> dict[str, tuple[float, float]]:
    """Precision and recall in % of what knows nothing: all under token 0, and trees for utilities that are all
    noise."""
    found: dict[str, list[torch.Tensor]] = {"all under token 0": [], "noise alone": []}
    generator = torch.Generator().manual_seed(0)
    for batch in batches(part, _BATCH):
        zeros = torch.zeros(len(batch), batch.vertices.shape[1], batch.vertices.shape[1])
        star = zeros.index_fill(1, torch.tensor([0]), 1.0).index_fill(2, torch.tensor([0]), 0.0)
        noise = edges.sample("arborescence", "gumbel", zeros, batch.counts, 1.0, True, generator)
        for rows, x in zip(found.values(), (star, noise), strict=True):
            rows.append(torch.stack(scores_of_edges(x, batch), 1))
    return {name: tuple((100 * torch.cat(rows).mean(0)).tolist()) for name, rows in found.items()}  # pyright: ignore


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
