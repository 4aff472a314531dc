"""Two floors for the table: a regressor on k words at random, and on the best window at a fixed relative position."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch
from tqdm import tqdm

from examples.learning_to_explain.data import Part, precision, random_floor, window_masks
from examples.learning_to_explain.model import Regressor
from examples.learning_to_explain.relaxations import NAMES
from examples.learning_to_explain.train import Settings, corpus_of, refuse_others
from examples.runs import append_lines, keep_lines, read_lines, resumable

FLOORS = ("random words", "fixed window")
_PLACES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def add_floors(root: Path, runs: list[Settings]) -> None:
    """The floors of every task, k and seed, at the default learning rate: lines of ``floors.jsonl``.

    Raises:
        ValueError: lines of other settings are there.
    """
    wanted = {}
    for s in runs:
        floor = replace(s, relaxation=NAMES[0], learning_rate=Settings.learning_rate, temperature=1.0, pair_start=0.0)
        wanted[s.source, s.aspect, s.k, s.seed] = floor
    file = root / "floors.jsonl"
    keep_lines(file)
    known = {_key(row): row for row in load_floors(root)}
    for key, s in wanted.items():
        for name in FLOORS:
            if (*key, name) in known:
                refuse_others(s, known[*key, name], file)
    missing = [s for key, s in wanted.items() if not all((*key, name) in known for name in FLOORS)]
    with resumable(lambda: "The same command goes on with the next floor."):
        for s in tqdm(missing, desc="floors", disable=None):
            rows = zip(FLOORS, (random_words(s), fixed_window(s)), strict=True)
            append_lines(({**asdict(s), "floor": name, **row} for name, row in rows), file)


def load_floors(root: Path) -> list[dict]:
    """One line of each floor of a task, k and seed, whichever of several processes wrote it."""
    return list({_key(row): row for row in read_lines(root / "floors.jsonl")}.values())


def _key(row: dict) -> tuple:
    return row["source"], row["aspect"], row["k"], row["seed"], row["floor"]


def fixed_window(s: Settings) -> dict[str, float]:
    """The best window of k words at one relative position: a regressor on each, chosen by the training MSE."""
    data = corpus_of(s)
    fits = {place: _regress(s, window_masks, place) for place in _PLACES}
    place = min(fits, key=lambda p: fits[p]["train"])
    masks = window_masks(data.test, s.k, place)
    return {
        "valid_mse": fits[place]["valid"],
        "test_mse": fits[place]["test"],
        "precision": 100 * precision(masks, data.test),
    }


def random_words(s: Settings) -> dict[str, float]:
    """k words at random, others after each evaluation, and a regressor on them."""

    def masks(part: Part, k: int, place: float) -> torch.Tensor:
        key = torch.rand(part.words.shape).masked_fill(part.words == 0, -1.0)
        return torch.zeros_like(key).scatter(1, key.topk(k).indices, 1.0)

    fit = _regress(s, masks, 0.0)
    return {"valid_mse": fit["valid"], "test_mse": fit["test"], "precision": 100 * random_floor(corpus_of(s).test)}


def _regress(s: Settings, make_masks: Callable[[Part, int, float], torch.Tensor], place: float) -> dict[str, float]:
    """MSE x 100 on every part, of the example's regressor on the chosen words, in order and without gaps; of its
    evaluations the one with the best validation MSE."""
    data = corpus_of(s)
    torch.manual_seed(s.seed)
    embedding = torch.nn.Embedding.from_pretrained(data.vectors.clone(), freeze=bool(s.freeze), padding_idx=0)
    dropout, regressor = torch.nn.Dropout(s.dropout), Regressor(data.vectors.shape[1], s.hidden)
    optimiser = torch.optim.Adam([*embedding.parameters(), *regressor.parameters()], s.learning_rate)

    def seen(part: Part) -> torch.Tensor:
        order = make_masks(part, s.k, place).topk(s.k).indices.sort().values
        return part.words.gather(1, order)

    def mse(part: Part) -> float:
        with torch.no_grad():
            return 100 * float((regressor(embedding(seen(part))) - part.ratings).square().mean())

    best, words = {"valid": float("inf")}, data.train.words
    for step in range(1, s.steps + 1):
        if (step - 1) % s.evaluate_every == 0:
            words = seen(data.train)
        rows = torch.randint(len(data.train), (s.batch,))
        optimiser.zero_grad()
        (regressor(dropout(embedding(words[rows]))) - data.train.ratings[rows]).square().mean().backward()
        optimiser.step()
        if step % s.evaluate_every == 0 or step == s.steps:
            now = {"valid": mse(data.valid), "test": mse(data.test), "train": mse(data.train)}
            best = min(best, now, key=lambda m: m["valid"])
    return best
