"""Command lines of experiments: one run, several runs side by side, or the paper's random search of settings."""

from __future__ import annotations

import json
import math
import os
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from examples import command_line, runs, search, settings
from examples.training import Run


def parser(cls: type[Run], words: str | None) -> ArgumentParser:
    """With all options that every experiment has."""
    made = ArgumentParser(description=words, formatter_class=RawDescriptionHelpFormatter)
    settings.add_options(made, cls.settings_type, cls.presets)
    made.add_argument(
        "--folder", type=command_line.folder, required=True, help="metrics and checkpoints; resumed if they exist"
    )
    made.add_argument("--device", type=command_line.device, default="cpu")
    minutes = command_line.real(above=0)
    made.add_argument("--minutes", type=minutes, default=math.inf, help="save and stop after these; goes on next time")
    made.add_argument("--quiet", action="store_true", help="no progress")
    several = command_line.whole(1, 1000)
    made.add_argument("--together", type=several, default=1, help="seeds, from --seed on, side by side in one process")
    trials = command_line.whole(0, 100_000)
    searched = ", ".join(name.replace("_", " ") for name in cls.searched) or "the seed"
    made.add_argument("--trials", type=trials, default=0, help=f"search {searched} (not what is given)")
    made.add_argument("--storage", help="of the search, for Optuna; processes may share it (default: in the folder)")
    cls.add_options(made)
    return made


def main(cls: type[Run], words: str | None, arguments: list[str] | None = None) -> dict[str, Any]:
    """An experiment's command line: trains, searches, or goes on.

    Args:
        words: for --help.

    Returns:
        What ``result.json`` holds, of the last or the selected run; empty where the time was up.
    """
    made = parser(cls, words)
    options = made.parse_args(arguments)
    if options.trials and options.together > 1:
        made.error("argument --together: the trials of a search have seeds of their own.")
    chosen = settings.chosen(made, options, cls.presets)
    extra = {name: getattr(options, name) for name in cls.options}
    try:
        cls.check(chosen, options.device, **extra)
    except (ValueError, OSError) as error:
        made.error(str(error))
    device, here = joined(options.device)
    try:
        run = _maker(cls, device, extra)
        return _searched(cls, run, chosen, options) if options.trials else _trained(run, chosen, options)
    finally:
        if here:
            dist.destroy_process_group()


def _maker(cls: type[Run], device: str, extra: dict[str, Any]) -> Callable[[settings.Settings, Path], Run]:
    return lambda chosen, folder: cls(chosen, folder, device, **extra)


def _trained(run: Callable[[settings.Settings, Path], Run], chosen: settings.Settings, options: Namespace) -> dict:
    seeds = range(chosen.seed, chosen.seed + options.together)
    alone = options.together == 1
    several = [
        run(replace(chosen, seed=seed), options.folder if alone else options.folder / f"seed-{seed}") for seed in seeds
    ]
    results = together(several, options.quiet, options.minutes)
    for one, result in zip(several, results, strict=True):
        if not one.rank:
            print(json.dumps(result, indent=1) if result else runs.go_on(one.folder, one.saved, one.total, one.unit))
    return results[-1]


def _searched(
    cls: type[Run], run: Callable[[settings.Settings, Path], Run], first: settings.Settings, options: Namespace
) -> dict:
    given = settings.given(options, cls.settings_type)
    ranges = {name: values for name, values in cls.searched.items() if name not in given}

    def train(tried: settings.Settings, folder: Path) -> dict[str, Any]:
        return run(tried, folder).go(options.quiet)

    trials = search.candidates(first, ranges, options.trials)
    folders = search.search(train, trials, options.folder, options.storage, cls.larger)
    best, metrics = search.select(folders, f"valid {cls.objective}", cls.larger)
    if not int(os.environ.get("RANK", "0")):  # of several processes the first one tells
        for folder in folders:
            value = runs.read_json(folder / "result.json")[f"valid {cls.objective}"]
            print(f"trial {folder.name}: validation {cls.objective} {value:.4g}")
        print(f"selected {best.name}:", ", ".join(f"{m} {v:.4g} ± {e:.2g}" for m, (v, e) in metrics.items()))
    return runs.read_json(best / "result.json")


def together(several: list[Run], quiet: bool = False, minutes: float = math.inf) -> list[dict[str, Any]]:
    """Advance runs in turn, each on a stream of its own where it is on a CUDA device; each is the same as alone."""
    cuda = [run.device.type == "cuda" for run in several]
    streams = [torch.cuda.Stream(run.device) if on else None for run, on in zip(several, cuda, strict=True)]
    waiting: list[tuple[Iterator[None], torch.cuda.Stream | None]]
    waiting = [(run.steps(quiet, minutes), stream) for run, stream in zip(several, streams, strict=True)]
    while waiting:
        waiting = [pair for pair in waiting if _went_on(*pair)]
    return [run.result() for run in several]


def _went_on(steps: Iterator[None], stream: torch.cuda.Stream | None) -> bool:
    with torch.cuda.stream(stream):  # nothing where it is None
        return next(steps, steps) is None


def joined(device: str) -> tuple[str, bool]:
    """Join the processes under torchrun, if there are any: this one's device, and whether it joined here."""
    if "WORLD_SIZE" not in os.environ or dist.is_initialized():
        return device, False
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return device, True
