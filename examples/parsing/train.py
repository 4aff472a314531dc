"""Train and evaluate one parser; resumes where a killed run stopped.

    python -m examples.parsing.train --preset tiny --folder runs/parsing-tiny           # random sentences, seconds
    python -m examples.parsing.train --trees projective --regularizer euclidean --folder runs/parsing-projective

Every epoch's order and dropout follow from the seed and the epoch's number alone, so a resumed run is the same run.
"""

from __future__ import annotations

from examples import command_line  # first: Ctrl-C ends quietly from here on

# isort: split
import argparse
import functools
import json
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from tqdm import tqdm

from examples import runs
from examples.parsing import data, treebank, trees
from examples.parsing.evaluate import coverage, evaluate
from examples.parsing.model import Parser

_ELSEWHERE = ("data",)  # settings that do not make a run: the treebank may lie elsewhere by now
_EVALUATED = 2000  # words of a batch


@dataclass(frozen=True)
class Settings:
    """Everything that a run depends on.

    Raises:
        ValueError: a setting out of range.
    """

    trees: str = "arborescence"
    regularizer: str = "exponential"
    projective_only: int = 0  # train on projective sentences alone; projective trees do anyhow
    source: str = "turkish"
    data: str = ""
    max_words: int = 30  # of sentences to train on
    epochs: int = 12
    batch: int = 500  # words
    embedding: int = 64
    hidden: int = 100
    layers: int = 2
    arcs: int = 100
    labels: int = 32
    dropout: float = 0.33
    learning_rate: float = 2e-3
    seed: int = 0

    def __post_init__(self) -> None:
        runs.check_range(self, epochs=(1, 10_000), batch=(1, 100_000), max_words=(2, 1000), layers=(1, 8))
        runs.check_range(self, embedding=(2, runs.MOST_HIDDEN), hidden=(1, runs.MOST_HIDDEN))
        runs.check_range(self, arcs=(1, runs.MOST_HIDDEN), labels=(1, runs.MOST_HIDDEN))
        runs.check_range(self, dropout=(0.0, 0.99), projective_only=(0, 1), seed=(0, command_line.MOST_SEED))
        runs.check_positive(self, "learning_rate")


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


def build(s: Settings) -> tuple[Parser, data.Vocabulary]:
    """A new parser. Its vocabulary is that of all training sentences, whatever kind of trees it is trained by."""
    known = data.vocabulary(data.fit_for("arborescence", bank_of(s).train, s.max_words))
    return Parser(known.sizes(), s.embedding, s.hidden, s.layers, s.arcs, s.labels, s.dropout), known


def load_best(folder: Path) -> tuple[Settings, Parser, data.Vocabulary]:
    """The best parser of a run, which may be in progress.

    Raises:
        FileNotFoundError: no run there.
    """
    file = folder / "best.pt"
    if not file.exists():
        raise FileNotFoundError(f"{folder} holds no parser ({file.name} is missing): train one first.")
    kept = runs.load(file)
    settings = Settings(**kept["settings"])
    model, known = build(settings)
    model.load_state_dict(kept["model"])
    return settings, model.eval(), known


class Run:
    """One training run in a folder: metrics.jsonl, last.pt (to resume), best.pt (best validation LAS), result.json."""

    def __init__(self, settings: Settings, folder: Path):
        self.settings, self.folder = settings, folder
        bank = bank_of(settings)
        self.sentences = data.fit_for(settings.trees, bank.train, settings.max_words, bool(settings.projective_only))
        if not self.sentences:
            raise runs.RunError(f"no sentence of up to {settings.max_words} words to train on.")
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(settings.seed)
        self.model, self.known = build(settings)
        self.valid, self.test = (data.batches(part, self.known, _EVALUATED) for part in (bank.valid, bank.test))
        self.optimizer = torch.optim.Adam(self.model.parameters(), settings.learning_rate, betas=(0.9, 0.9))
        self.epoch, self.best = 0, -math.inf
        self._resume()

    def _resume(self) -> None:
        file, result = self.folder / "last.pt", self.folder / "result.json"
        if result.exists():
            runs.refuse_others(self.settings, runs.read_json(result), result, "--folder", _ELSEWHERE)
        if file.exists():
            kept = runs.load(file)
            runs.refuse_others(self.settings, kept["settings"], file, "--folder", _ELSEWHERE)
            self.model.load_state_dict(kept["model"])
            self.optimizer.load_state_dict(kept["optimizer"])
            self.epoch, self.best = kept["epoch"], kept["best"]
        runs.keep_lines(self.folder / "metrics.jsonl", lambda line: line["epoch"] <= self.epoch)

    def _save(self) -> None:
        state = {"settings": asdict(self.settings), "model": self.model.state_dict(), "epoch": self.epoch}
        state |= {"optimizer": self.optimizer.state_dict(), "best": self.best}
        runs.save(state, self.folder / "last.pt")

    def train_step(self, batch: data.Batch) -> tuple[float, float]:
        """One step of Adam; the loss, and CPU seconds in the loss of arcs."""
        s = self.settings
        scores, states = self.model(batch)
        start = time.process_time()
        loss = trees.arc_loss(s.trees, s.regularizer, scores, batch.heads, batch.lengths)
        seconds = time.process_time() - start
        labels = self.model.label_scores(states, batch.heads)[batch.present]
        loss = loss + torch.nn.functional.cross_entropy(labels, batch.labels[batch.present])
        if not loss.isfinite():
            raise runs.Diverged
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.optimizer.step()
        return loss.item(), seconds

    def train_epoch(self, quiet: bool = False) -> dict[str, float]:
        """Every sentence once: mean loss, CPU seconds of all and in the loss of arcs."""
        seed = 1000 * self.settings.seed + self.epoch
        torch.manual_seed(seed)  # dropout
        # At first all utilities are nearly equal, and Euclidean solutions mix very many trees: hundreds of milliseconds
        # for a long sentence, so that short ones go first.
        generator, rising = torch.Generator().manual_seed(seed), self.epoch == 0
        order = data.batches(self.sentences, self.known, self.settings.batch, generator, rising)
        words = f"{self.settings.trees}, {self.settings.regularizer}, epoch {self.epoch + 1} of {self.settings.epochs}"
        self.model.train()
        start, losses, inside = time.process_time(), 0.0, 0.0
        for batch in tqdm(order, desc=words, leave=False, disable=True if quiet else None):  # None: on terminals alone
            loss, seconds = self.train_step(batch)
            losses, inside = losses + loss, inside + seconds
        return {"loss": losses / len(order), "seconds": time.process_time() - start, "seconds in loss": inside}

    def go(self, quiet: bool = False) -> dict[str, float]:
        """Train to the end, then score the best parser on the test part.

        An epoch that a kill or Ctrl-C interrupts is begun again.
        """
        with runs.resumable(self._go_on):
            while self.epoch < self.settings.epochs:
                metrics = self.train_epoch(quiet)
                self.epoch += 1
                self._validate(metrics, quiet)
                self._save()
            return self._test()

    def _go_on(self) -> str:
        if not self.epoch:
            return "Nothing is saved yet."
        at = f"epoch {self.epoch} of {self.settings.epochs}"
        return f"{self.folder} holds {at}: the same command goes on from there."

    @property
    def _decoder(self) -> str:
        """By whose LAS on the validation part the best epoch is chosen: that of the trees it is trained through."""
        return "projective" if self.settings.trees == "projective" else "arborescence"

    def _validate(self, metrics: dict[str, float], quiet: bool) -> None:
        decoder = self._decoder
        valid = evaluate(self.model, self.valid, (decoder,))
        if valid[f"{decoder} LAS"] > self.best:
            self.best = valid[f"{decoder} LAS"]
            runs.save({"settings": asdict(self.settings), "model": self.model.state_dict()}, self.folder / "best.pt")
        entry = {"epoch": self.epoch, **metrics, **{f"valid {name}": v for name, v in valid.items()}}
        runs.append_lines([entry], self.folder / "metrics.jsonl")
        if not quiet:
            uas, las = valid[f"{decoder} UAS"], valid[f"{decoder} LAS"]
            shown = f"epoch {self.epoch}: {metrics['seconds']:.0f} s, loss {metrics['loss']:.3f}"
            tqdm.write(f"{shown}, validation UAS {uas:.1f} %, LAS {las:.1f} %")

    def _test(self) -> dict[str, float]:
        s = self.settings
        self.model.load_state_dict(runs.load(self.folder / "best.pt")["model"])
        lines = runs.read_lines(self.folder / "metrics.jsonl")
        result = {f"valid {self._decoder} LAS": self.best, "sentences": len(self.sentences)}
        for name in ("seconds", "seconds in loss"):
            result[name] = sum(line[name] for line in lines) / len(lines)
        result |= evaluate(self.model, self.test)
        result |= coverage(self.model, self.test, s.trees, s.regularizer)
        runs.write_json({**asdict(s), **result}, self.folder / "result.json")
        return result


def parse(arguments: list[str] | None = None) -> tuple[Settings, Path]:
    """Settings and folder of a command line; the treebank is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--trees", choices=trees.KINDS, help="what is trained through (default: arborescence)")
    parser.add_argument("--regularizer", choices=list(trees.REGULARIZERS), help="default: exponential")
    parser.add_argument("--data", help="folder of the treebank's two files; default: the installed package's")
    integers = ("projective-only", "max-words", "epochs", "batch", "embedding", "hidden", "layers", "arcs", "labels")
    for name in (*integers, "seed"):
        parser.add_argument(f"--{name}", type=command_line.seed if name == "seed" else int, help="default by preset")
    parser.add_argument("--dropout", type=float, help="default by preset")
    parser.add_argument("--learning-rate", type=command_line.real(above=0), help="default by preset")
    parser.add_argument(
        "--folder", type=command_line.folder, required=True, help="metrics and checkpoints; resumed if they exist"
    )
    options = vars(parser.parse_args(arguments))
    folder, preset = options.pop("folder"), PRESETS[options.pop("preset")]
    try:
        settings = replace(preset, **{name: value for name, value in options.items() if value is not None})
        bank_of(settings)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return settings, folder


def main(arguments: list[str] | None = None) -> dict[str, float]:
    result = Run(*parse(arguments)).go()
    print(json.dumps(result, indent=1))
    return result


if __name__ == "__main__":
    main()
