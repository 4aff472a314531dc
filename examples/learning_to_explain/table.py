"""Every relaxation on every aspect: trains what is missing, for as long as allowed, and writes the Markdown table.

python -m examples.learning_to_explain.table --druglib druglib.tsv --beeradvocate FOLDER --minutes 50
python -m examples.learning_to_explain.table --timing            # time of a training step by relaxation
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from examples.learning_to_explain.data import Part, precision, random_floor, window_masks
from examples.learning_to_explain.model import Regressor
from examples.learning_to_explain.relaxations import NAMES
from examples.learning_to_explain.train import PRESETS, Run, Settings, build, corpus_of

TASKS = (
    ("druglib", "sideEffects"),
    ("druglib", "effectiveness"),
    ("beeradvocate", "aroma"),
    ("beeradvocate", "appearance"),
)
FLOORS = ("random words", "fixed window")
_TEMPERATURES = (0.2, 0.5, 1.0)
_PLACES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def grid(paths: dict[str, str], common: dict, tuned: dict[str, dict], ks: list[int], seeds: int) -> Iterator[Settings]:
    """All runs, the most wanted first: a seed of the first k for every row, then of the other k, then the next seed.

    ``tuned`` gives settings of a relaxation, e.g. its temperature.
    """
    tasks = [task for task in TASKS if task[0] in paths]
    for seed, k, (source, aspect), name in itertools.product(range(seeds), ks, tasks, NAMES):
        base = replace(PRESETS[source], aspect=aspect, path=paths[source], k=k, seed=seed, relaxation=name)
        yield replace(base, **{**common, **tuned.get(name, {})})


def run_folder(root: Path, s: Settings) -> Path:
    return root / f"{s.source}-{s.aspect}-{s.network}-{s.relaxation}-k{s.k}-seed{s.seed}"


def train_missing(root: Path, runs: list[Settings], minutes: float) -> None:
    """Train runs without a result until the time is up; a run that has begun is ended."""
    end = time.monotonic() + 60 * minutes
    missing = [s for s in runs if not (run_folder(root, s) / "result.json").exists()]
    for settings in tqdm(missing, desc="runs"):
        if time.monotonic() > end:
            break
        folder = run_folder(root, settings)
        Run(settings, folder).go()
        (folder / "checkpoint.pt").unlink()


def tune(root: Path, paths: dict[str, str], steps: int) -> dict[str, dict]:
    """A temperature for each relaxation: the least validation MSE, in shares of the rating's variance, summed over the
    first aspect of every source, at k = 10 and with a seed that the table does not use. Kept in ``tuned.json``.
    """
    losses: dict[str, dict[float, float]] = defaultdict(lambda: defaultdict(float))
    tasks = [(source, path, next(a for s, a in TASKS if s == source)) for source, path in paths.items()]
    for name, temperature, (source, path, aspect) in tqdm(list(itertools.product(NAMES, _TEMPERATURES, tasks))):
        base = replace(PRESETS[source], aspect=aspect, path=path, relaxation=name, steps=steps, seed=100)
        run = Run(replace(base, temperature=temperature), root / "tune" / f"{source}-{name}-{temperature}")
        losses[name][temperature] += run.go()["valid_mse"] / (100 * float(run.data.valid.ratings.var()))
    (root / "tuning.json").write_text(json.dumps(losses, indent=1))
    tuned = {name: {"temperature": min(of, key=lambda t: of[t])} for name, of in losses.items()}
    (root / "tuned.json").write_text(json.dumps(tuned, indent=1))
    return tuned


# -- floors -----------------------------------------------------------------------------------------------------


def fixed_window(s: Settings) -> dict[str, float]:
    """The best window of k words at one relative position: a regressor on each, chosen by the validation MSE."""
    data = corpus_of(s)
    fits = [_regress(s, window_masks, place) for place in _PLACES]
    best = min(range(len(_PLACES)), key=lambda i: fits[i][0])
    masks = window_masks(data.test, s.k, _PLACES[best])
    return {"test_mse": fits[best][1], "precision": 100 * precision(masks, data.test)}


def random_words(s: Settings) -> dict[str, float]:
    """k words at random, others after each evaluation, and a regressor on them."""

    def masks(part: Part, k: int, place: float) -> torch.Tensor:
        key = torch.rand(part.words.shape).masked_fill(part.words == 0, -1.0)
        return torch.zeros_like(key).scatter(1, key.topk(k).indices, 1.0)

    _, mse = _regress(s, masks, 0.0)
    return {"test_mse": mse, "precision": 100 * random_floor(corpus_of(s).test)}


def _regress(s: Settings, make_masks, place: float) -> tuple[float, float]:
    """Validation and test MSE x 100 of the example's regressor on the chosen words, in order and without gaps."""
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

    best, words = (float("inf"), float("inf")), data.train.words
    for step in range(1, s.steps + 1):
        if (step - 1) % s.evaluate_every == 0:
            words = seen(data.train)
        rows = torch.randint(len(data.train), (s.batch,))
        optimiser.zero_grad()
        (regressor(dropout(embedding(words[rows]))) - data.train.ratings[rows]).square().mean().backward()
        optimiser.step()
        if step % s.evaluate_every == 0:
            best = min(best, (mse(data.valid), mse(data.test)))
    return best


def add_floors(root: Path, runs: list[Settings]) -> None:
    """The floors of every task and k, kept in ``floors.json``."""
    file = root / "floors.json"
    kept = json.loads(file.read_text()) if file.exists() else {}
    wanted = {f"{s.source}/{s.aspect}/{s.k}": s for s in runs if s.relaxation == NAMES[0] and s.seed == 0}
    for key, s in tqdm(wanted.items(), desc="floors"):
        if key not in kept:
            kept[key] = {"random words": random_words(s), "fixed window": fixed_window(s)}
            file.write_text(json.dumps(kept, indent=1))


# -- tables -----------------------------------------------------------------------------------------------------


def markdown(root: Path, sampled: bool = False) -> str:
    """MSE x 100 / precision %, mean and standard deviation over seeds, from all results under ``root``."""
    cells: dict[tuple[str, int], dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    kind = ("sampled_mse", "sampled_precision") if sampled else ("test_mse", "precision")
    for file in sorted(root.glob("*/result.json")):
        r = json.loads(file.read_text())
        cells[f"{r['source']} {r['aspect']}", r["k"]][r["relaxation"]].append((r[kind[0]], r[kind[1]]))
    floors = json.loads((root / "floors.json").read_text()) if (root / "floors.json").exists() else {}
    for key, rows in floors.items():
        source, aspect, k = key.split("/")
        for name, r in rows.items():
            cells[f"{source} {aspect}", int(k)][name].append((r["test_mse"], r["precision"]))
    parts = []
    for task in dict.fromkeys(task for task, _ in cells):
        ks = sorted(k for t, k in cells if t == task)
        lines = [f"### {task}\n", "| |" + "".join(f" k = {k} | n |" for k in ks), "|---|" + "---|---|" * len(ks)]
        for name in (*FLOORS, *NAMES):
            values = [cells[task, k][name] for k in ks]
            lines.append(f"| {name} |" + "".join(f" {_cell(v)} | {len(v) if name in NAMES else ''} |" for v in values))
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _cell(values: list[tuple[float, float]]) -> str:
    if not values:
        return ""
    means = [statistics.mean(column) for column in zip(*values, strict=True)]
    if len(values) == 1:
        return f"{means[0]:.2f} / {means[1]:.1f}"
    spread = [statistics.stdev(column) for column in zip(*values, strict=True)]
    return f"{means[0]:.2f} ± {spread[0]:.2f} / {means[1]:.1f} ± {spread[1]:.1f}"


def timing(s: Settings, steps: int = 10) -> str:
    """Milliseconds of a training step, and of its relaxation alone, forward and backward; medians."""
    data, lines = corpus_of(s), ["| relaxation | step, ms | relaxation, ms | share |", "|---|---|---|---|"]
    for name in NAMES:
        model = build(replace(s, relaxation=name), data)
        rows = torch.arange(s.batch)
        words, lengths, ratings = (x[rows] for x in (data.train.words, data.train.lengths, data.train.ratings))
        width = 2 * data.n - 1 if model.chooser.pairs else data.n
        utilities = torch.randn(s.batch, width, requires_grad=True)

        def whole(model=model, words=words, lengths=lengths, ratings=ratings) -> None:
            (model(words, lengths, s.temperature) - ratings).square().mean().backward()

        def part(model=model, utilities=utilities, lengths=lengths) -> None:
            model.chooser.soft(utilities, lengths, s.temperature).square().sum().backward()

        a, b = _median_ms(whole, steps), _median_ms(part, steps)
        lines.append(f"| {name} | {a:.0f} | {b:.1f} | {b / a:.0%} |")
    return "\n".join(lines)


def _median_ms(function, steps: int) -> float:
    times = []
    for _ in range(steps + 2):
        start = time.perf_counter()
        function()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--druglib", help="path of druglib.tsv")
    parser.add_argument("--beeradvocate", help="folder of the excerpt")
    parser.add_argument("--output", type=Path, default=Path("runs/table"))
    parser.add_argument("--minutes", type=float, default=50)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--k", type=int, nargs="+", default=[10, 5, 15], help="in order of importance")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--raw", action="store_true", help="BeerAdvocate's ratings as they are, not decorrelated")
    parser.add_argument("--tuned", type=Path, help="JSON: settings by relaxation, e.g. from --sweep of train.py")
    parser.add_argument("--tune", action="store_true", help="search temperatures for --tuned and end")
    parser.add_argument("--timing", action="store_true", help="time training steps and end")
    arguments = parser.parse_args()
    paths = {source: path for source in ("druglib", "beeradvocate") if (path := getattr(arguments, source))}
    tuned = json.loads(arguments.tuned.read_text()) if arguments.tuned else {}
    common = {"steps": arguments.steps} | ({"decorrelate": 0} if arguments.raw else {})
    runs = list(grid(paths, common, tuned, arguments.k, arguments.seeds))
    if arguments.timing:
        print(timing(runs[0] if runs else PRESETS["synthetic"]))
        return
    arguments.output.mkdir(parents=True, exist_ok=True)
    if arguments.tune:
        print(tune(arguments.output, paths, arguments.steps))
        return
    train_missing(arguments.output, runs, arguments.minutes)
    add_floors(arguments.output, runs)
    table = markdown(arguments.output) + "\n\nRandom masks at test time:\n\n" + markdown(arguments.output, sampled=True)
    (arguments.output / "table.md").write_text(table + "\n")
    print(table)


if __name__ == "__main__":
    main()
