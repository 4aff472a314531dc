"""Every relaxation on every aspect: trains what is missing, for as long as allowed, and writes the Markdown table.

python -m examples.learning_to_explain.table --druglib druglib.tsv --beeradvocate FOLDER --minutes 50
python -m examples.learning_to_explain.table --timing            # time of a training step by relaxation
"""

from __future__ import annotations

from examples import command_line  # first: Ctrl-C ends quietly from here on

# isort: split
import argparse
import itertools
import json
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from examples.learning_to_explain.floors import FLOORS, add_floors, load_floors
from examples.learning_to_explain.relaxations import NAMES
from examples.learning_to_explain.reviews import MIN_WORDS
from examples.learning_to_explain.sweep import sweep
from examples.learning_to_explain.train import PRESETS, Run, Settings, build, corpus_of, refuse_others
from examples.runs import read_json, resumable, write_json

TASKS = (
    ("druglib", "sideEffects"),
    ("druglib", "effectiveness"),
    ("beeradvocate", "aroma"),
    ("beeradvocate", "appearance"),
)
_SEARCH_SEED = 100
_Values = list[tuple[float, float, float]]  # of every seed: test MSE, precision, validation MSE


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
    """Train runs without a result until the time is up; a run that has begun is ended.

    Raises:
        ValueError: a result of other settings is there.
    """
    end, missing = time.monotonic() + 60 * minutes, []
    for s in runs:
        file = run_folder(root, s) / "result.json"
        if file.exists():
            refuse_others(s, read_json(file), file)
        else:
            missing.append(s)
    done = len(runs) - len(missing)
    with resumable(lambda: f"{root} holds {done} of {len(runs)} runs: the same command goes on."):
        for settings in tqdm(missing, desc="runs", disable=None):
            if time.monotonic() > end:
                break
            folder = run_folder(root, settings)
            Run(settings, folder).go()
            (folder / "checkpoint.pt").unlink()
            done += 1


def tune(root: Path, runs: list[Settings], trials: int) -> dict[str, dict[str, float]]:
    """Learning rate and temperature of every relaxation: one search over all tasks together, with a seed that the
    table does not use. Kept in ``tuned.json``; the trials in ``sweep.db``, which several processes may share."""
    tasks: dict[str, list[Settings]] = defaultdict(list)
    for s in runs:
        if s.seed == runs[0].seed and s.k == runs[0].k:
            tasks[s.relaxation].append(replace(s, seed=_SEARCH_SEED))
    file = root / "tuned.json"
    for name, settings in tqdm(tasks.items(), desc="searches", disable=None):
        best = sweep(settings, trials, f"sqlite:///{root / 'sweep.db'}", root)
        found = read_json(file) if file.exists() else {}  # another process's rows, too
        write_json({**found, name: best}, file)
    return read_json(file)


# -- tables -----------------------------------------------------------------------------------------------------


def markdown(root: Path, sampled: bool = False, selected: bool = False) -> str:
    """MSE x 100 / precision % from all results under ``root``: mean and standard deviation over seeds.

    With ``sampled`` under random hard masks. With ``selected`` of the seed that has the best validation MSE, with
    standard errors bootstrapped over this selection (the paper's protocol).
    """
    cells: dict[tuple[str, int], dict[str, _Values]] = defaultdict(lambda: defaultdict(list))
    kind = ("sampled_mse", "sampled_precision") if sampled else ("test_mse", "precision")
    for file in sorted(root.glob("*/result.json")):
        r = read_json(file)
        task = f"{r['source']} {r['aspect']}" + ", complex network" * (r["network"] == "complex")
        cells[task, r["k"]][r["relaxation"]].append((r[kind[0]], r[kind[1]], r["valid_mse"]))
    for r in load_floors(root):
        cells[f"{r['source']} {r['aspect']}", r["k"]][r["floor"]].append(
            (r["test_mse"], r["precision"], r["valid_mse"])
        )
    parts = []
    for task in dict.fromkeys(task for task, _ in cells):
        ks = sorted(k for t, k in cells if t == task)
        lines = [f"### {task}\n", "| |" + "".join(f" k = {k} | n |" for k in ks), "|---|" + "---|---|" * len(ks)]
        for name in (*FLOORS, *NAMES):
            values = [cells[task, k][name] for k in ks]
            show = _selected if selected else _over_seeds
            lines.append(f"| {name} |" + "".join(f" {show(v) if v else ''} | {len(v) or ''} |" for v in values))
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _over_seeds(values: _Values) -> str:
    mse, hits, _ = zip(*values, strict=True)
    return _cell(statistics.mean(mse), statistics.mean(hits), mse, hits)


def _selected(values: _Values, draws: int = 1000) -> str:
    rng = random.Random(0)
    again = [min(rng.choices(values, k=len(values)), key=lambda r: r[2]) for _ in range(draws)]
    mse, hits, _ = zip(*(again if len(values) > 1 else values), strict=True)
    best = min(values, key=lambda r: r[2])
    return _cell(best[0], best[1], mse, hits)


def _cell(mse: float, hits: float, all_mse: Sequence[float], all_hits: Sequence[float]) -> str:
    if len(all_mse) == 1:
        return f"{mse:.2f} / {hits:.1f}"
    return f"{mse:.2f} ± {statistics.stdev(all_mse):.2f} / {hits:.1f} ± {statistics.stdev(all_hits):.1f}"


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


def read_tuned(file: Path) -> dict[str, dict[str, float]]:
    """Settings by relaxation, as ``tune`` writes them.

    Raises:
        ValueError: they are none.
    """
    if not file.is_file():
        raise ValueError(f"no file {file}: --tune makes it.")
    found = read_json(file)
    try:
        for name, settings in found.items():
            replace(Settings(relaxation=name), **settings)
            if name not in NAMES:
                raise ValueError(f"no relaxation is called {name!r}")
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{file} holds no settings by relaxation ({error}).") from None
    return found


def parse(arguments: list[str] | None) -> tuple[argparse.Namespace, list[Settings]]:
    """Options and the runs that they ask for; their data is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--druglib", help="path of druglib.tsv")
    parser.add_argument("--beeradvocate", help="folder of the excerpt")
    parser.add_argument("--output", type=command_line.folder, default="runs/table")
    parser.add_argument("--minutes", type=command_line.real(least=0), default=50.0, help="begin no run after these")
    parser.add_argument("--seeds", type=command_line.whole(1, 1000), default=3)
    kind = command_line.whole(1, MIN_WORDS)
    parser.add_argument("--k", type=kind, nargs="+", default=[10, 5, 15], help="in order of importance")
    parser.add_argument("--steps", type=command_line.whole(1), default=300)
    parser.add_argument("--raw", action="store_true", help="BeerAdvocate's ratings as they are, not decorrelated")
    parser.add_argument("--tuned", type=Path, help="JSON: settings by relaxation, from --tune")
    tune_help = "search settings for --tuned and end"
    parser.add_argument("--tune", type=command_line.whole(0), default=0, metavar="TRIALS", help=tune_help)
    parser.add_argument("--rows", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--network", choices=("simple", "complex"), default="simple")
    parser.add_argument("--timing", action="store_true", help="time training steps and end")
    options = parser.parse_args(arguments)
    paths = {source: path for source in ("druglib", "beeradvocate") if (path := getattr(options, source))}
    if not paths and not options.timing:
        parser.error("nothing to do: give --druglib FILE, --beeradvocate FOLDER, or both.")
    common = {"steps": options.steps, "network": options.network}
    try:
        tuned = read_tuned(options.tuned) if options.tuned else {}
        runs = grid(paths, common, tuned, list(dict.fromkeys(options.k)), options.seeds)
        runs = [replace(s, decorrelate=0) if options.raw else s for s in runs if s.relaxation in options.rows]
        for s in {(s.source, s.aspect): s for s in runs}.values():
            corpus_of(s)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return options, runs


def main(arguments: list[str] | None = None) -> None:
    options, runs = parse(arguments)
    if options.timing:
        print(timing(runs[0] if runs else PRESETS["synthetic"]))
        return
    if options.tune:
        print(json.dumps(tune(options.output, runs, options.tune)))
        return
    train_missing(options.output, runs, options.minutes)
    add_floors(options.output, runs)
    best = "The seed with the best validation MSE, with bootstrapped standard errors:"
    parts = [markdown(options.output), best, markdown(options.output, selected=True)]
    table = "\n\n".join([*parts, "Random masks at test time:", markdown(options.output, sampled=True)])
    (options.output / "table.md").write_text(table + "\n")
    print(table)


if __name__ == "__main__":
    main()
