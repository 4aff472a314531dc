"""All parsers by all seeds: trains what is missing, for as long as allowed, and writes the Markdown tables.

python -m examples.parsing.table                                  # goes on where it was stopped
python -m examples.parsing.table --write examples/parsing/RESULTS.md
"""

from __future__ import annotations

from examples import command_line  # first: Ctrl-C ends quietly from here on

# isort: split
import argparse
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from examples.parsing.train import PRESETS, Run, Settings, bank_of
from examples.parsing.trees import DECODERS
from examples.runs import read_json, refuse_others, resumable

#: What is trained through, the most wanted first; "only" leaves sentences with crossing arcs out, as projective
#: trees do.
ROWS: dict[str, dict[str, Any]] = {
    "arborescence-exponential": {},
    "projective-exponential": {"trees": "projective"},
    "arborescence-euclidean": {"regularizer": "euclidean"},
    "projective-euclidean": {"trees": "projective", "regularizer": "euclidean"},
    "heads-exponential": {"trees": "heads"},
    "arborescence-exponential-only": {"projective_only": 1},
}
_BEGIN, _END = "<!-- figures: written by table.py -->", "<!-- end of figures -->"
_Results = dict[str, list[dict[str, Any]]]  # by row, of every seed


def grid(base: Settings, rows: Iterable[str], seeds: Iterable[int]) -> dict[str, Settings]:
    """Settings by the names of their folders: all rows of a seed, then the next seed."""
    return {f"{row}-{seed}": replace(base, seed=seed, **ROWS[row]) for seed in seeds for row in rows}


def train_missing(root: Path, wanted: dict[str, Settings], minutes: float) -> None:
    """Train runs without a result until the time is up; a run that has begun is ended.

    Raises:
        RunError: a result of other settings is there.
    """
    end, missing = time.monotonic() + 60 * minutes, {}
    for name, settings in wanted.items():
        file = root / name / "result.json"
        if file.exists():
            refuse_others(settings, read_json(file), file, "--output", ("data",))
        else:
            missing[name] = settings
    done = len(wanted) - len(missing)
    with resumable(lambda: f"{root} holds {done} of {len(wanted)} runs: the same command goes on."):
        for name, settings in tqdm(missing.items(), desc="runs", disable=None):
            if time.monotonic() > end:
                break
            tqdm.write(name)
            Run(settings, root / name).go()
            done += 1


def results(root: Path, wanted: dict[str, Settings]) -> _Results:
    """What is there of the runs."""
    found: _Results = defaultdict(list)
    for name in wanted:
        file = root / name / "result.json"
        if file.exists():
            found[name.rsplit("-", 1)[0]].append(read_json(file))
    return found


# -- tables -------------------------------------------------------------------------------------------------------


def markdown(found: _Results) -> str:
    """Means and standard deviations over seeds, all from the runs' files."""
    counts = {row: len(values) for row, values in found.items()}
    seeds = f"Seeds by row: {', '.join(f'{row} {count}' for row, count in counts.items())}."
    return "\n\n".join(
        [
            "UAS / LAS % by decoder, all test sentences:", _by_decoder(found, ""),
            "Of the sentences with crossing arcs alone:", _by_decoder(found, " non-projective"),
            "Of the words alone whose gold arc crosses another one, which no projective tree has all of:",
            _by_decoder(found, " crossing"),
            "Arborescence decoder less projective decoder, UAS:", _difference(found),
            "Trees, sets and seconds:", _sets(found), seeds,
        ]
    )  # fmt: skip


def _cell(values: list[float], digits: int = 1) -> str:
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def _lines(head: list[str], rows: Iterable[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def _by_decoder(found: _Results, group: str) -> str:
    def cell(values: list[dict[str, Any]], decoder: str) -> str:
        return " / ".join(_cell([v[f"{decoder} {m}{group}"] for v in values]) for m in ("UAS", "LAS"))

    rows = ([row, *(cell(values, decoder) for decoder in DECODERS)] for row, values in found.items())
    return _lines(["trained through", *DECODERS], rows)


def _difference(found: _Results) -> str:
    groups = ("", " projective", " non-projective", " crossing")

    def cell(values: list[dict[str, Any]], group: str) -> str:
        return _cell([v[f"arborescence UAS{group}"] - v[f"projective UAS{group}"] for v in values], 2)

    rows = ([row, *(cell(values, group) for group in groups)] for row, values in found.items())
    return _lines(["trained through", *(group.strip() or "all" for group in groups)], rows)


def _sets(found: _Results) -> str:
    columns = {
        "greedy heads are a tree, %": "greedy trees",
        "arcs a word": "arcs a word",
        "gold arcs among them, %": "gold arcs",
        "gold tree in the set, %": "gold trees",
        "a single tree, %": "single trees",
        "s an epoch": "seconds",
        "in the loss of arcs": "seconds in loss",
    }
    rows = (
        [row, *(_cell([v[k] for v in values if k in v]) for k in columns.values())] for row, values in found.items()
    )
    return _lines(["trained through", *columns], rows)


def write(text: str, file: Path) -> None:
    """Put tables in the place that a file marks.

    Raises:
        ValueError: it marks none.
    """
    old = file.read_text(encoding="utf-8")
    before, begin, rest = old.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{file} has no place for the tables: a line {_BEGIN!r} and one {_END!r}.")
    file.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def parse(arguments: list[str] | None) -> tuple[argparse.Namespace, dict[str, Settings]]:
    """Options and the runs that they ask for; their data is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument(
        "--data", default="", help="folder of the treebank's two files; default: the installed package's"
    )
    parser.add_argument("--output", type=command_line.folder, default="runs/parsing")
    parser.add_argument("--minutes", type=command_line.real(least=0), default=math.inf, help="begin no run after these")
    parser.add_argument("--seeds", type=command_line.seed, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--epochs", type=command_line.whole(1), help="default by preset")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables where this file marks their place")
    options = parser.parse_args(arguments)
    base = replace(PRESETS[options.preset], data=options.data)
    base = replace(base, epochs=options.epochs or base.epochs)
    try:
        bank_of(base)
        if options.write:
            write_place = options.write.read_text(encoding="utf-8")
            if _BEGIN not in write_place or _END not in write_place:
                raise ValueError(f"{options.write} has no place for the tables: a line {_BEGIN!r} and one {_END!r}.")
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return options, grid(base, dict.fromkeys(options.rows), dict.fromkeys(options.seeds))


def main(arguments: list[str] | None = None) -> None:
    options, wanted = parse(arguments)
    train_missing(options.output, wanted, options.minutes)
    text = markdown(results(options.output, wanted))
    (options.output / "table.md").write_text(text + "\n", encoding="utf-8")
    if options.write:
        write(text, options.write)
    print(text)


if __name__ == "__main__":
    main()
