"""The paper's protocol: random search of the learning rate and the temperature; goes on where it stopped.

    python -m examples.graph_layout.search --edges tree --preset small --trials 10 --folder runs/search-tree

Each trial has its own seed. The trial with the best validation ELBO counts, by its test metrics; their standard errors
are bootstrapped over this selection. With a learning rate or temperature given, trials are only seeds apart in it.
"""

from __future__ import annotations

from examples import command_line  # first: Ctrl-C ends quietly from here on

# isort: split
import argparse
import os
from pathlib import Path

import torch

from examples import runs
from examples.graph_layout import train

LEARNING_RATES, TEMPERATURES = (3e-4, 3e-3), (0.1, 2.0)  # log-uniform
METRICS = ("elbo", "precision", "recall")


def candidates(trials: int) -> list[tuple[float, float]]:
    """Learning rate and temperature of every trial, the same for every distribution."""
    shares = torch.rand(trials, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ranges = torch.tensor([LEARNING_RATES, TEMPERATURES], dtype=torch.float64).log()
    values = (ranges[:, 0] + shares * (ranges[:, 1] - ranges[:, 0])).exp()
    return [(float(f"{rate:.2g}"), float(f"{t:.2g}")) for rate, t in values.tolist()]


def best_elbo(folder: Path) -> float:
    """Of a run on the validation part."""
    return max(line["valid elbo"] for line in runs.read_lines(folder / "metrics.jsonl"))


def search(
    edges: str,
    preset: str,
    trials: int,
    folder: Path,
    options: list[str],
    fixed: tuple[float | None, float | None] = (None, None),
) -> list[Path]:
    """Folders of the trials, run where they are not finished; trial i has seed i.

    ``fixed`` holds the learning rate and the temperature where they are not searched.

    Raises:
        ValueError: a finished trial in the folder is of other settings.
    """
    folders: list[Path] = []
    with runs.resumable(lambda: f"{folder} holds {len(folders)} of {trials} trials: the same command goes on."):
        for seed, found in enumerate(candidates(trials)):
            rate, temperature = (f if given is None else given for f, given in zip(found, fixed, strict=True))
            own = folder / f"{seed}-{rate:g}-{temperature:g}"
            choice = ["--learning-rate", str(rate), "--temperature", str(temperature), "--seed", str(seed)]
            arguments = ["--preset", preset, "--edges", edges, "--folder", str(own), *choice, *options]
            if (own / "test.json").exists():
                settings, *_ = train.parse(arguments)
                runs.refuse_others(settings, runs.read_json(own / "test.json"), own / "test.json", "--folder")
            else:
                train.main(arguments)
            folders.append(own)
    return folders


def select(folders: list[Path], draws: int = 1000) -> tuple[Path, dict[str, tuple[float, float]]]:
    """The trial that validation selects; its test metrics with their bootstrapped standard errors."""
    valid = torch.tensor([best_elbo(folder) for folder in folders], dtype=torch.float64)
    rows = [runs.read_json(folder / "test.json") for folder in folders]
    test = torch.tensor([[row[name] for name in METRICS] for row in rows], dtype=torch.float64)
    again = torch.randint(len(folders), (draws, len(folders)), generator=torch.Generator().manual_seed(0))
    selected = again.gather(1, valid[again].argmax(1, keepdim=True))[:, 0]
    best, errors = int(valid.argmax()), test[selected].std(0)
    return folders[best], {m: (float(test[best, i]), float(errors[i])) for i, m in enumerate(METRICS)}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    train.add_options(parser)
    trials = command_line.whole(1, 100_000)
    parser.add_argument(
        "--trials", type=trials, default=10, help="seeds 0, 1, ...; of these the best counts (default 10)"
    )
    o = parser.parse_args(arguments)
    options = ["--device", o.device, "--regularizer", o.regularizer, "--frames", str(o.frames)]
    if o.graph:
        options.append("--graph")
    folders = search(o.edges, o.preset, o.trials, o.folder, options, (o.learning_rate, o.temperature))
    if int(os.environ.get("RANK", "0")):  # of several processes the first one tells
        return
    for folder in folders:
        print(f"{folder.name:<20} validation ELBO {best_elbo(folder):7.0f}")
    best, metrics = select(folders)
    print(f"selected {best.name}:", ", ".join(f"{m} {v:.1f} ± {e:.1f}" for m, (v, e) in metrics.items()))


if __name__ == "__main__":
    main()
