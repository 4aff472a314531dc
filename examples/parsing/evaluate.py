"""What a parser is worth: attachment scores by decoder, and how much a sparse distribution over trees covers."""

from __future__ import annotations

from collections import Counter

import torch

from examples.parsing import trees
from examples.parsing.data import Batch
from examples.parsing.model import Parser

#: Words that are scored, by name; punctuation (coarse tag PUNCT) never is.
GROUPS = {
    "": lambda batch: batch.scored,
    " projective": lambda batch: batch.scored & batch.projective[:, None],
    " non-projective": lambda batch: batch.scored & ~batch.projective[:, None],
    " crossing": lambda batch: batch.scored & trees.crossing(batch.heads, batch.lengths),
    " between words": lambda batch: batch.scored & ~batch.groups,
}
_SUPPORT = 1e-7  # a probability that is rounding error, at solutions right to 1e-10
_SHORTFALL = 1e-6  # the same of utilities
_LIKELY = 0.01  # probabilities that count where all are positive


@torch.no_grad()
def evaluate(model: Parser, parts: list[Batch], decoders: tuple[str, ...] = trees.DECODERS) -> dict[str, float]:
    """By decoder UAS and LAS in %, of the words of GROUPS; and the share of sentences whose heads are a tree."""
    found: Counter[str] = Counter()
    for batch, scores, states in _scored(model, parts):
        for name in decoders:
            heads = trees.decode(name, scores, batch.lengths)
            labels = model.label_scores(states, heads).argmax(-1)
            right = heads == batch.heads
            for group, words in GROUPS.items():
                which = words(batch)
                found[f"{name} UAS{group}"] += int((right & which).sum())
                found[f"{name} LAS{group}"] += int((right & (labels == batch.labels) & which).sum())
            found[f"{name} trees"] += int(trees.are_trees(heads, batch.lengths).sum())
        found["sentences"] += len(batch.sentences)
        for group, words in GROUPS.items():
            found[f"words{group}"] += int(words(batch).sum())

    def total(key: str) -> int:
        _, measure, *group = key.split(" ", 2)
        return found["sentences"] if measure == "trees" else found["words" + "".join(f" {g}" for g in group)]

    names = [key for key in found if key.split(" ")[0] in decoders]
    return {key: 100 * found[key] / total(key) for key in names if total(key)}


@torch.no_grad()
def coverage(model: Parser, parts: list[Batch], kind: str, regularizer: str) -> dict[str, float]:
    """Of the soft argmax that the model was trained by, punctuation included:

    arcs a word with a probability above 0 (of exponential families, where all have one, of 1 % at least), the share of
    gold arcs among them; for Euclidean trees also the share of sentences whose gold tree is in the ambiguity set
    (``trees.shortfall``), and of those where this set is a single tree.
    """
    found: Counter[str] = Counter()
    sparse = regularizer == "euclidean"
    for batch, scores, _ in _scored(model, parts):
        x, present = trees.marginals(kind, regularizer, scores, batch.lengths), batch.present
        kept = x >= (_SUPPORT if sparse else _LIKELY)
        found["arcs a word"] += int(kept.sum())
        found["gold arcs"] += int((kept.gather(1, batch.heads[:, None])[:, 0] & present).sum())
        found["words"] += int(present.sum())
        if sparse and kind != "heads":
            short = trees.shortfall(scores, x, batch.heads, batch.lengths)
            found["gold trees"] += int((short.abs() <= _SHORTFALL).sum())
            found["single trees"] += int((kept.sum((1, 2)) == batch.lengths - 1).sum())
        found["sentences"] += len(batch.sentences)
    result = {
        "arcs a word": found["arcs a word"] / found["words"],
        "gold arcs": 100 * found["gold arcs"] / found["words"],
    }
    return result | {k: 100 * found[k] / found["sentences"] for k in ("gold trees", "single trees") if k in found}


def _scored(model: Parser, parts: list[Batch]):
    """Batches with scores of arcs, and states, in evaluation mode."""
    training = model.training
    model.eval()
    for batch in parts:
        yield batch, *model(batch)
    model.train(training)
