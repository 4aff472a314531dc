"""Random search of the learning rate and the temperature, by the best validation ELBO; goes on where it stopped.

python -m examples.graph_layout.search --edges tree --preset small --trials 10 --folder runs/search-tree
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from examples.graph_layout import train
from examples.graph_layout.edges import REGULARIZERS

LEARNING_RATES, TEMPERATURES = (1e-4, 3e-3), (0.1, 2.0)  # log-uniform


def candidates(trials: int) -> list[tuple[float, float]]:
    """The same for every distribution."""
    shares = torch.rand(trials, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ranges = torch.tensor([LEARNING_RATES, TEMPERATURES], dtype=torch.float64).log()
    values = (ranges[:, 0] + shares * (ranges[:, 1] - ranges[:, 0])).exp()
    return [(float(f"{rate:.2g}"), float(f"{t:.2g}")) for rate, t in values.tolist()]


def best_elbo(folder: Path) -> float:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return max(json.loads(line)["valid elbo"] for line in lines)


def search(edges: str, preset: str, trials: int, folder: Path, options: list[str]) -> tuple[float, float, float]:
    """ELBO, learning rate and temperature of the best trial; prints all of them."""
    results = []
    for rate, temperature in candidates(trials):
        own = folder / f"{rate:g}-{temperature:g}"
        if not (own / "test.json").exists():
            choice = ["--learning-rate", str(rate), "--temperature", str(temperature)]
            train.main(["--preset", preset, "--edges", edges, "--folder", str(own), *choice, *options])
        results.append((best_elbo(own), rate, temperature))
        print("ELBO {:.0f}  learning rate {:g}  temperature {:g}".format(*results[-1]), flush=True)
    return max(results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", choices=["independent", "top", "tree"], default="tree")
    parser.add_argument("--preset", choices=train.PRESETS, default="small")
    parser.add_argument("--regularizer", choices=list(REGULARIZERS), default="exponential")
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    o = parser.parse_args()
    best = search(o.edges, o.preset, o.trials, o.folder, ["--device", o.device, "--regularizer", o.regularizer])
    print("best: ELBO {:.0f} at learning rate {:g}, temperature {:g}".format(*best))


if __name__ == "__main__":
    main()
