"""Train and evaluate one parser; resumes where a killed run stopped.

    python -m examples.parsing.train --preset tiny --folder runs/parsing-tiny           # random sentences, seconds
    python -m examples.parsing.train --trees projective --regularizer euclidean --folder runs/parsing-projective

Every epoch's order and dropout follow from the seed and the epoch's number alone, so a resumed run is the same run.
"""

from __future__ import annotations

from examples import command_line  # noqa: F401  (first: Ctrl-C ends quietly from here on)

# isort: split
import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from tqdm import tqdm

from examples import launch
from examples.parsing import data, treebank, trees
from examples.parsing.evaluate import coverage, evaluate
from examples.parsing.model import Parser
from examples.parsing.trees import KINDS, REGULARIZERS
from examples.settings import MOST_HIDDEN, positive, setting, width
from examples.settings import Settings as Common
from examples.training import Run as Base

_EVALUATED = 2000  # words of a batch


@dataclass(frozen=True)
class Settings(Common):
    """Everything that a run depends on.

    Raises:
        ValueError: a setting out of range.
    """

    trees: str = setting("arborescence", choices=KINDS, words="what is trained through")
    regularizer: str = setting("exponential", choices=tuple(REGULARIZERS))
    projective_only: int = setting(0, 0, 1, words="train on projective sentences alone; projective trees do anyhow")
    source: str = setting("turkish", choices=("turkish", "synthetic"))
    data: str = setting("", words="folder of the treebank's two files, else the installed package's", elsewhere=True)
    max_words: int = setting(30, 2, 1000, words="of sentences to train on")
    epochs: int = setting(12, 1, 10_000)
    batch: int = setting(500, 1, 100_000, words="words")
    embedding: int = setting(64, 2, MOST_HIDDEN)
    hidden: int = width(100)
    layers: int = setting(2, 1, 8)
    arcs: int = width(100, "of an arc's scores")
    labels: int = width(32, "of a label's scores")
    dropout: float = setting(0.33, 0.0, 0.99)
    learning_rate: float = positive(2e-3)


PRESETS = {
    "small": Settings(),
    "tiny": Settings(
        source="synthetic", epochs=6, batch=60, embedding=16, hidden=16, layers=1, arcs=16, labels=8, dropout=0.1,
        learning_rate=1e-2,
    ),
}  # fmt: skip


@functools.lru_cache(maxsize=4)
def load(source: str, folder: str) -> treebank.Treebank:
    return treebank.synthetic(250) if source == "synthetic" else treebank.turkish(Path(folder) if folder else None)


def bank_of(s: Settings) -> treebank.Treebank:
    """The sentences of these settings, kept for the next run."""
    return load(s.source, s.data)


class Run(Base):
    """One parser; an epoch that a kill or Ctrl-C interrupts is begun again."""

    settings_type, presets, unit, seeds_apart = Settings, PRESETS, "epoch", 1000
    objective = "LAS"  # by the decoder of the trees it is trained through
    save_every = 0.0
    searched: ClassVar = {"learning_rate": (5e-4, 5e-3)}
    settings: Settings
    model: Parser

    @classmethod
    def check(cls, settings: Settings, device: str, **options: Any) -> None:
        bank = bank_of(settings)
        if not cls._sentences(settings, bank):
            raise ValueError(f"max_words: no sentence of up to {settings.max_words} words to train on.")
        if device != "cpu":
            raise ValueError(f"argument --device: sentences are gathered on the CPU alone, got {device!r}.")

    @classmethod
    def name(cls, settings: Settings) -> str:
        return f"{settings.trees}, {settings.regularizer}, seed {settings.seed}"

    @staticmethod
    def _sentences(settings: Settings, bank: treebank.Treebank) -> list[treebank.Sentence]:
        return data.fit_for(settings.trees, bank.train, settings.max_words, bool(settings.projective_only))

    def build(self) -> Parser:
        """Its vocabulary is that of all training sentences, whatever kind of trees it is trained by."""
        s, bank = self.settings, bank_of(self.settings)
        self.sentences = self._sentences(s, bank)
        self.known = data.vocabulary(data.fit_for("arborescence", bank.train, s.max_words))
        self.valid_batches, self.test_batches = (
            data.batches(part, self.known, _EVALUATED) for part in (bank.valid, bank.test)
        )
        self._seconds = [0.0, 0.0]  # CPU, of all epochs: all, and in the loss of arcs
        return Parser(self.known.sizes(), s.embedding, s.hidden, s.layers, s.arcs, s.labels, s.dropout)

    def make_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.model.parameters(), betas=(0.9, 0.9), **self.adam_options())

    def state(self) -> dict[str, Any]:
        return super().state() | {"seconds": self._seconds}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self._seconds = state["seconds"]

    def train_step(self, batch: data.Batch) -> tuple[torch.Tensor, float]:
        """One step of Adam; the loss, and CPU seconds in the loss of arcs."""
        s = self.settings
        scores, states = self.model(batch)
        start = time.process_time()
        loss = trees.arc_loss(s.trees, s.regularizer, scores, batch.heads, batch.lengths)
        seconds = time.process_time() - start
        labels = self.model.label_scores(states, batch.heads)[batch.present]
        loss = loss + torch.nn.functional.cross_entropy(labels, batch.labels[batch.present])
        return self.update(loss, clip=5.0), seconds

    def advance(self) -> torch.Tensor:
        """Every sentence once; the mean loss. Under torchrun each process takes its batches, as many as the others."""
        # At first all utilities are nearly equal, and Euclidean solutions mix very many trees: hundreds of milliseconds
        # for a long sentence, so that short ones go first.
        generator, rising = torch.Generator().manual_seed(self.unit_seed), self.done == 0
        order = data.batches(self.sentences, self.known, self.settings.batch, generator, rising)
        own = self.share_batches(order)
        self.model.train()
        start, losses = time.process_time(), torch.zeros(())
        words = f"epoch {self.done + 1} of {self.total}"
        for batch in tqdm(own, desc=words, leave=False, disable=self.quiet or None):  # None: on terminals alone
            loss, seconds = self.train_step(batch)
            losses += loss
            self._seconds[1] += seconds
        self._seconds[0] += time.process_time() - start
        return losses / len(own)

    @property
    def _decoder(self) -> str:
        return "projective" if self.settings.trees == "projective" else "arborescence"

    def validate(self, model: Parser) -> dict[str, float]:
        found = evaluate(model, self.valid_batches, (self._decoder,))
        return {name.removeprefix(f"{self._decoder} "): value for name, value in found.items()}

    def describe(self, metrics: Mapping[str, float]) -> str:
        return f"validation UAS {metrics['UAS']:.1f} %, LAS {metrics['LAS']:.1f} %"

    def test(self, model: Parser) -> dict[str, float]:
        s = self.settings
        found = {"sentences": float(len(self.sentences))}
        found |= {
            name: value / self.done for name, value in zip(("seconds", "seconds in loss"), self._seconds, strict=True)
        }
        found |= evaluate(model, self.test_batches)
        return found | coverage(model, self.test_batches, s.trees, s.regularizer)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    return launch.main(Run, __doc__, arguments)


if __name__ == "__main__":
    main()
