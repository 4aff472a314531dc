"""Utilities of single words decoded with structure: the best mask of at most two segments, or of one.

What is left of a structured relaxation's lead where an unstructured one may choose segments at test time? The regressor
is taken as trained, or trained on with the new masks.
"""

from __future__ import annotations

import copy

import torch

from examples.learning_to_explain import relaxations
from examples.learning_to_explain.data import Part, precision
from examples.learning_to_explain.model import Explainer

STEPS, EVALUATE_EVERY = 300, 50  # of training on


@torch.no_grad()
def segments(model: Explainer, part: Part) -> torch.Tensor:
    """``(reviews, n)``: the masks of at most two segments that are best by the model's utilities of words."""
    structure = relaxations.make("segments", part.words.shape[1], model.k)
    pieces = zip(part.words.split(256), part.lengths.split(256), strict=True)
    return torch.cat([structure.hard(model.utilities(model.embedding(w)), n) for w, n in pieces])


@torch.no_grad()
def window(model: Explainer, part: Part) -> torch.Tensor:
    """``(reviews, n)``: the k words in a row with the largest sum of utilities."""
    u, k = torch.cat([model.utilities(model.embedding(w)) for w in part.words.split(256)]), model.k
    sums = u.unfold(1, k, 1).sum(2)
    starts = torch.arange(sums.shape[1])
    best = sums.masked_fill(starts > (part.lengths - k)[:, None], -torch.inf).argmax(1, keepdim=True)
    return torch.zeros_like(u).scatter(1, best + torch.arange(k), 1.0)


def metrics(model: Explainer, parts: tuple[Part, Part, Part], rate: float, batch: int) -> dict[str, float]:
    """On the test part, of (train, valid, test): MSE x 100 and precision % of decoded masks.

    Args:
        rate, batch: of Adam, which trains the regressor on for ``STEPS`` steps; the best of the evaluations on the
            validation part counts.
    """
    model.eval()
    masks = [segments(model, part) for part in parts]
    found = {"decoded MSE": _mse(model, parts[2], masks[2]), "decoded precision": 100 * precision(masks[2], parts[2])}
    best, again = float("inf"), copy.deepcopy(model)
    optimizer = torch.optim.Adam(again.regressor.parameters(), rate)
    for step in range(STEPS + 1):
        if step % EVALUATE_EVERY == 0 and (valid := _mse(again, parts[1], masks[1])) < best:
            best, found["refitted MSE"] = valid, _mse(again, parts[2], masks[2])
        rows = parts[0].draw(batch)
        width = parts[0].width(rows)
        embedded = again.dropout.train()(again.embedding(parts[0].words[rows, :width]))
        loss = (again.rate(embedded, masks[0][rows, :width]) - parts[0].ratings[rows]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return found | {"window precision": 100 * precision(window(model, parts[2]), parts[2])}


@torch.no_grad()
def _mse(model: Explainer, part: Part, masks: torch.Tensor) -> float:
    pieces = zip(part.words.split(256), masks.split(256), strict=True)
    ratings = torch.cat([model.rate(model.embedding(w), mask) for w, mask in pieces])
    return 100 * float((ratings - part.ratings).square().mean())
