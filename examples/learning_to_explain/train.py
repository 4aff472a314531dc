"""Train one explainer: which k words of a review carry an aspect's rating? See README.md.

python -m examples.learning_to_explain.train                                     # synthetic reviews, 10 seconds
python -m examples.learning_to_explain.train --preset druglib --path druglib.tsv --relaxation segments --k 10
python -m examples.learning_to_explain.train --sweep 20 --storage sqlite:///sweep.db
"""

from __future__ import annotations

from examples import command_line  # first: Ctrl-C ends quietly from here on

# isort: split
import argparse
import copy
import functools
import math
import statistics
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch
from tqdm import tqdm

from examples import runs
from examples.learning_to_explain import relaxations
from examples.learning_to_explain.data import Corpus, Part, corpus, precision
from examples.learning_to_explain.model import Explainer
from examples.learning_to_explain.reviews import MIN_WORDS
from examples.learning_to_explain.sources import ASPECTS

_SAVE_EVERY = 20.0  # seconds
_ELSEWHERE = ("path", "vectors")  # settings that do not make a run: data may lie elsewhere by now
_PROGRESS = ("step", "best", "best_step", "best_state", "losses")  # attributes of a run that its checkpoint keeps


@dataclass(frozen=True)
class Settings:
    """Everything that a run depends on.

    Raises:
        ValueError: a setting out of range.
    """

    source: str = "synthetic"
    aspect: str = "food"
    path: str = ""
    vectors: str = ""
    decorrelate: int = 0
    max_words: int = 40
    relaxation: str = "correlated"
    k: int = 5
    network: str = "simple"
    learning_rate: float = 3e-3
    temperature: float = 0.5
    steps: int = 500
    batch: int = 64
    dimension: int = 64
    hidden: int = 64
    dropout: float = 0.3
    freeze: int = 1
    pair_start: float = 3.0
    evaluate_every: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        # The shortest reviews have MIN_WORDS.
        runs.check_range(self, k=(1, MIN_WORDS), max_words=(MIN_WORDS, 10_000), seed=(0, command_line.MOST_SEED))
        runs.check_range(self, steps=(1, math.inf), evaluate_every=(1, math.inf), batch=(1, 100_000))
        runs.check_range(self, hidden=(1, runs.MOST_HIDDEN), dimension=(1, runs.MOST_HIDDEN))
        runs.check_range(self, decorrelate=(0, 1), freeze=(0, 1), dropout=(0.0, 0.99))
        runs.check_positive(self, "learning_rate", "temperature")
        if not math.isfinite(self.pair_start):
            raise ValueError(f"pair_start must be finite, got {self.pair_start}.")


PRESETS = {
    "synthetic": Settings(),
    "druglib": Settings(source="druglib", aspect="sideEffects", max_words=96, k=10),
    "snippets": Settings(source="snippets", aspect="movie", max_words=96, k=10),
    "beeradvocate": Settings(source="beeradvocate", aspect="aroma", decorrelate=1, max_words=120, k=10),
    "paper": Settings(
        source="lei2016", aspect="aroma", max_words=350, k=10, steps=20_000, batch=128, dimension=200, hidden=100,
        freeze=0, evaluate_every=500,
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


def build(s: Settings, data: Corpus) -> Explainer:
    return Explainer(data.vectors, s.relaxation, s.k, s.hidden, s.network, s.dropout, bool(s.freeze), s.pair_start)


def predictions(model: Explainer, part: Part, noise: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Ratings and hard masks of a whole part."""
    model.eval()
    pieces = [model.explain(w, n, noise) for w, n in zip(part.words.split(256), part.lengths.split(256), strict=True)]
    model.train()
    return torch.cat([rating for rating, _ in pieces]), torch.cat([mask for _, mask in pieces])


def scores(model: Explainer, part: Part, noise: bool = False) -> dict[str, float]:
    """MSE x 100, and precision % of the chosen words, under hard masks."""
    ratings, masks = predictions(model, part, noise)
    return {
        "mse": 100 * float((ratings - part.ratings).square().mean()),
        "precision": 100 * precision(masks, part),
    }


def refuse_others(wanted: Settings, found: dict, file: Path) -> None:
    """Raise ``runs.RunError`` where a file is of other settings."""
    runs.refuse_others(wanted, found, file, "--output", _ELSEWHERE)


def load_best(folder: Path) -> tuple[Settings, Corpus, Explainer]:
    """The best model of a run, or of one in progress, which is left alone.

    Raises:
        FileNotFoundError: no run there.
    """
    files = [folder / name for name in ("best.pt", "checkpoint.pt") if (folder / name).exists()]
    if not files:
        raise FileNotFoundError(f"{folder} holds no run (neither best.pt nor checkpoint.pt): train one first.")
    kept = runs.load(files[0])
    settings = Settings(**kept["settings"])
    data = corpus_of(settings)
    model = build(settings, data)
    model.load_state_dict({**model.state_dict(), **kept["best_state"]})
    return settings, data, model


class Run:
    """A training run that can be stopped at any time and goes on from its folder."""

    def __init__(self, settings: Settings, folder: Path):
        self.settings, self.folder = settings, folder
        self.data = corpus_of(settings)
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(settings.seed)
        self.model = build(settings, self.data)
        self.optimiser = torch.optim.Adam(self.model.parameters(), settings.learning_rate)
        self.step, self.saved, self.best, self.best_step = 0, 0, float("inf"), 0
        self.best_state = copy.deepcopy(self.model.state_dict())
        self.losses: list[float] = []  # since the last evaluation
        self._resume()

    def _resume(self) -> None:
        file, result = self.folder / "checkpoint.pt", self.folder / "result.json"
        if result.exists():  # and no checkpoint, where it is of a table
            refuse_others(self.settings, runs.read_json(result), result)
        if file.exists():
            kept = runs.load(file)
            refuse_others(self.settings, kept["settings"], file)
            self.model.load_state_dict(kept["model"])
            self.optimiser.load_state_dict(kept["optimiser"])
            for name in _PROGRESS:
                setattr(self, name, kept[name])
            self.saved = self.step
            torch.set_rng_state(kept["random"])
        runs.keep_lines(self.folder / "metrics.jsonl", lambda line: line["step"] <= self.step)

    def save(self) -> None:
        """Write the checkpoint; a kill in between leaves the last one whole."""
        state = {
            "settings": asdict(self.settings), "model": self.model.state_dict(), "random": torch.get_rng_state(),
            "optimiser": self.optimiser.state_dict(), **{name: getattr(self, name) for name in _PROGRESS},
        }  # fmt: skip
        runs.save(state, self.folder / "checkpoint.pt")
        self.saved = self.step

    def _save_best(self) -> None:
        """What ``load_best`` needs; frozen embeddings follow from the corpus."""
        frozen = self.settings.freeze
        state = {name: v for name, v in self.best_state.items() if not (frozen and name.startswith("embedding."))}
        runs.save({"settings": asdict(self.settings), "best_state": state}, self.folder / "best.pt")

    def train_step(self) -> None:
        """One step of Adam on a random batch, through soft masks; an evaluation where it is due."""
        part, s = self.data.train, self.settings
        words, lengths, ratings = part.batch(s.batch)
        loss = (self.model(words, lengths, s.temperature) - ratings).square().mean()
        if not loss.isfinite():
            raise runs.Diverged
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.step += 1
        self.losses.append(loss.item())
        if self.step % s.evaluate_every == 0 or self.step == s.steps:
            self._evaluate()

    def _evaluate(self) -> None:
        """A line of metrics, the validation MSE under the best hard masks; the best model is kept."""
        valid = scores(self.model, self.data.valid)["mse"]
        if valid < self.best:
            self.best, self.best_step, self.best_state = valid, self.step, copy.deepcopy(self.model.state_dict())
        record = {"step": self.step, "train_mse": 100 * statistics.mean(self.losses), "valid_mse": valid}
        runs.append_lines([record], self.folder / "metrics.jsonl")
        self.losses = []

    def go(self, quiet: bool = False) -> dict[str, float]:
        """Train to the end, then score the best model on the test part."""
        with runs.resumable(lambda: runs.go_on(self.folder, self.saved, self.settings.steps)):
            self._train(quiet)
            self.save()
            self._save_best()
            self.model.load_state_dict(self.best_state)
            test, sampled = scores(self.model, self.data.test), scores(self.model, self.data.test, noise=True)
        result = {
            "valid_mse": self.best, "best_step": self.best_step, "test_mse": test["mse"],
            "precision": test["precision"], "sampled_mse": sampled["mse"], "sampled_precision": sampled["precision"],
        }  # fmt: skip
        runs.write_json({**asdict(self.settings), **result}, self.folder / "result.json")
        return result

    def _train(self, quiet: bool) -> None:
        saved, s = time.monotonic(), self.settings
        off = True if quiet else None  # None: a bar on terminals alone
        bar = tqdm(total=s.steps, initial=self.step, disable=off, desc=f"{s.relaxation}, k = {s.k}", leave=False)
        while self.step < s.steps:
            self.train_step()
            bar.update()
            bar.set_postfix(valid=f"{self.best:.2f}", refresh=False)
            if time.monotonic() - saved > _SAVE_EVERY:
                self.save()
                saved = time.monotonic()
        bar.close()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="synthetic")
    choices = {"relaxation": relaxations.NAMES, "network": ("simple", "complex"), "source": tuple(ASPECTS)}
    for field in fields(Settings):
        kind = {"str": str, "int": int, "float": float}[str(field.type)]
        words = f"default by preset; synthetic: {field.default!r}"
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, choices=choices.get(field.name), help=words)
    parser.add_argument("--output", type=command_line.folder, help="folder of the run; the same again to resume")
    parser.add_argument(
        "--sweep", type=command_line.whole(0), default=0, metavar="TRIALS", help="search until there are so many"
    )
    parser.add_argument("--storage", default="sqlite:///sweep.db", help="Optuna storage, shared by all that sweep")
    options = parser.parse_args(arguments)
    given = {f.name: v for f in fields(Settings) if (v := getattr(options, f.name)) is not None}
    if "source" in given:
        given.setdefault("aspect", ASPECTS[given["source"]][0])
    try:
        settings = replace(PRESETS[options.preset], **given)
        corpus_of(settings)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    folder = options.output or Path("runs") / f"{settings.source}-{settings.relaxation}-{settings.k}"
    if options.sweep:
        from examples.learning_to_explain.sweep import sweep  # which itself trains

        found = sweep([settings], options.sweep, options.storage, options.output or Path("runs"))
        print("best:", " ".join(f"--{name.replace('_', '-')} {value:.3g}" for name, value in found.items()))
        settings = replace(settings, **found)
        folder = folder / "-".join(["best", *(f"{value:.3g}" for value in found.values())])
    run = Run(settings, folder)
    chance = 100 * float((run.data.test.rationale.sum(1) / run.data.test.lengths).mean())
    for name, value in run.go().items():
        print(f"{name:>18} {value:8.2f}")
    print(f"{'random words':>18} {chance:8.2f} precision")
    print(f"{folder}: see the words by python -m examples.learning_to_explain.report {folder}")


if __name__ == "__main__":
    main()
