"""Train one explainer: which k words of a review carry an aspect's rating? See README.md.

python -m examples.learning_to_explain.train --folder runs/explain                       # made-up reviews, 10 seconds
python -m examples.learning_to_explain.train --preset druglib --path druglib.tsv --relaxation l2x --folder runs/l2x
python -m examples.learning_to_explain.train --preset druglib --path druglib.tsv --trials 12 --folder runs/search
"""

from __future__ import annotations

from examples import command_line  # noqa: F401, first: Ctrl-C ends quietly from here on

# isort: split
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from examples import launch
from examples.learning_to_explain import decoded, relaxations
from examples.learning_to_explain.data import Corpus, Part, corpus, precision, random_floor
from examples.learning_to_explain.model import Explainer
from examples.learning_to_explain.reviews import MIN_WORDS
from examples.learning_to_explain.sources import ASPECTS
from examples.settings import Settings as Common
from examples.settings import positive, setting, width
from examples.training import Run as Base

_CHOICES = (*relaxations.NAMES, *relaxations.FLOORS, relaxations.LABELS)
_ANNEALED = 0.5  # share of the steps in which the temperature falls


@dataclass(frozen=True)
class Settings(Common):
    """Everything that a run depends on.

    Raises:
        ValueError: a setting out of range.
    """

    source: str = setting("synthetic", choices=tuple(ASPECTS))
    aspect: str = setting("food", words="whose rating is asked")
    path: str = setting("", words="file or folder of the source", elsewhere=True)
    vectors: str = setting("", words="file of word vectors, if you have one", elsewhere=True)
    decorrelate: int = setting(0, 0, 1, words="BeerAdvocate: what the other aspects' ratings do not tell")
    max_words: int = setting(40, MIN_WORDS, 10_000, words="of a review")
    relaxation: str = setting("correlated", choices=_CHOICES)
    k: int = setting(5, 1, MIN_WORDS, words="words that are let through")
    network: str = setting("simple", choices=("simple", "complex"), words="that gives utilities")
    temperature: float = positive(0.5, "at the end")
    start_temperature: float = setting(0.0, 0.0, words="falls to the other one in half of the steps; 0: it does not")
    pair_start: float = setting(3.0, words="bias of pairs' utilities at the start; above 0 it favours segments")
    warm: int = setting(0, 0, words="first steps, in which all words are let through")
    steps: int = setting(500, 1)
    batch: int = setting(64, 1, 100_000)
    dimension: int = width(64, "of word vectors")
    hidden: int = width(64)
    dropout: float = setting(0.3, 0.0, 0.99)
    freeze: int = setting(1, 0, 1, words="word vectors as given; a small corpus is soon learnt by heart otherwise")
    learning_rate: float = positive(3e-3)
    validate_every: int = setting(50, 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.aspect not in ASPECTS[self.source]:
            raise ValueError(
                f"aspect of {self.source} must be one of {', '.join(ASPECTS[self.source])}, got {self.aspect!r}."
            )


PRESETS = {
    "synthetic": Settings(),
    "tiny": Settings(steps=40, validate_every=20, batch=16, dimension=16, hidden=16),
    "druglib": Settings(
        source="druglib", aspect="sideEffects", max_words=96, k=10, steps=1500, batch=32, decay="cosine", warm=100,
    ),
    "snippets": Settings(
        source="snippets", aspect="movie", max_words=96, k=10, steps=3000, batch=32, decay="cosine", freeze=0,
        validate_every=100,
    ),
    "beeradvocate": Settings(
        source="beeradvocate", aspect="aroma", decorrelate=1, max_words=120, k=10, steps=1000, batch=32,
        decay="cosine", warm=100,
    ),
    "paper": Settings(
        source="lei2016", aspect="aroma", max_words=350, k=10, steps=20_000, batch=128, dimension=200, hidden=100,
        freeze=0, validate_every=500,
    ),
}  # fmt: skip


@functools.lru_cache(maxsize=8)
def load_corpus(
    source: str, aspect: str, path: str, max_words: int, dimension: int, vectors: str, decorrelate: int
) -> Corpus:
    given, start = (Path(p) if p else None for p in (path, vectors))
    return corpus(source, aspect, given, max_words, dimension, start, decorrelate=bool(decorrelate))


def corpus_of(s: Settings) -> Corpus:
    """The corpus of these settings, kept for the next run."""
    return load_corpus(s.source, s.aspect, s.path, s.max_words, s.dimension, s.vectors, s.decorrelate)


def predictions(model: Explainer, part: Part, noise: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Ratings and hard masks of a whole part; the model is set to evaluation."""
    model.eval()
    pieces = [model.explain(w, n, noise) for w, n in zip(part.words.split(256), part.lengths.split(256), strict=True)]
    return torch.cat([rating for rating, _ in pieces]), torch.cat([mask for _, mask in pieces])


def scores(model: Explainer, part: Part, noise: bool = False) -> dict[str, float]:
    """MSE x 100, precision % of the chosen words, and in how many segments they are, under hard masks."""
    ratings, masks = predictions(model, part, noise)
    begun = torch.nn.functional.pad(masks, (1, 0)).diff(dim=1) > 0
    return {
        "MSE": 100 * float((ratings - part.ratings).square().mean()),
        "precision": 100 * precision(masks, part),
        "segments": float(begun.sum(1).double().mean()),
    }


class Run(Base):
    """One explainer, by random soft masks; validated and tested by the best hard ones."""

    settings_type, presets = Settings, PRESETS
    objective, larger = "MSE", False
    searched: ClassVar = {"learning_rate": (1e-3, 1e-2), "temperature": (0.1, 3.0)}
    settings: Settings
    model: Explainer

    @classmethod
    def check(cls, settings: Settings, device: str, **options: Any) -> None:
        corpus_of(settings)
        if device != "cpu":
            raise ValueError(f"argument --device: reviews are kept on the CPU alone, got {device!r}.")

    @classmethod
    def name(cls, settings: Settings) -> str:
        return f"{settings.relaxation}, k = {settings.k}, seed {settings.seed}"

    def build(self) -> Explainer:
        s, self.data = self.settings, corpus_of(self.settings)
        return Explainer(
            self.data.vectors, s.relaxation, s.k, s.hidden, s.network, s.dropout, bool(s.freeze), s.pair_start
        )

    def kept(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Frozen embeddings follow from the corpus."""
        return {name: v for name, v in state.items() if not (self.settings.freeze and name.startswith("embedding."))}

    def adam_options(self) -> dict[str, Any]:
        """Fused: over word vectors that are trained, Adam is a third of a step otherwise."""
        return super().adam_options() | {"fused": True}

    @property
    def temperature(self) -> float:
        """Of this step: it falls geometrically, then stays."""
        s = self.settings
        if not s.start_temperature:
            return s.temperature
        share = min(self.done / (_ANNEALED * s.steps), 1.0)
        return s.start_temperature ** (1 - share) * s.temperature**share

    def advance(self) -> torch.Tensor:
        """One step of Adam on a random batch, through soft masks."""
        part, s = self.data.train, self.settings
        rows = self.share(part.draw(s.batch))
        columns = part.width(rows)
        lengths = part.lengths[rows]
        self.model.train()
        temperature = None if self.done < s.warm else self.temperature
        ratings, utilities = self.model(part.words[rows, :columns], lengths, temperature)
        loss = error = (ratings - part.ratings[rows]).square().mean()
        if s.relaxation == relaxations.LABELS:
            real = torch.arange(columns) < lengths[:, None]
            truth = part.rationale[rows, :columns].to(utilities.dtype)
            loss = error + torch.nn.functional.binary_cross_entropy_with_logits(utilities[real], truth[real])
        self.update(loss)
        return 100 * error.detach()

    def validate(self, model: Explainer) -> dict[str, float]:
        return scores(model, self.data.valid)

    def describe(self, metrics: Any) -> str:
        return f"validation MSE {metrics['MSE']:.2f}"

    def test(self, model: Explainer) -> dict[str, float]:
        """The best masks, random ones, and where utilities are of words alone, these decoded with segments."""
        s, data = self.settings, self.data
        found = scores(model, data.test)
        found |= {f"sampled {name}": value for name, value in scores(model, data.test, noise=True).items()}
        if s.relaxation in (*relaxations.UNSTRUCTURED, relaxations.LABELS):
            torch.manual_seed(self.unit_seed)
            found |= decoded.metrics(model, (data.train, data.valid, data.test), s.learning_rate, s.batch)
        return found | {"random precision": 100 * random_floor(data.test)}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    return launch.main(Run, __doc__, arguments)


if __name__ == "__main__":
    main()
