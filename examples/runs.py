"""A run's folder: checkpoints that are whole or not there, lines of metrics, and settings that must agree."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from examples.command_line import Told


class RunError(Told, ValueError):
    """A folder that cannot be gone on with: of other settings, or damaged."""


class Diverged(Told, FloatingPointError):
    """Numbers of a training run are no longer finite."""

    def __init__(self) -> None:
        super().__init__("training diverged, to infinite or undefined numbers: try a smaller --learning-rate.")


# -- settings -----------------------------------------------------------------------------------------------------


def refuse_others(
    wanted: Any, found: Mapping[str, Any], file: Path, option: str, ignored: Collection[str] = ()
) -> None:
    """Compare settings (a dataclass) with those in a file of results or a checkpoint.

    Args:
        option: of the command line, by which to choose another place.
        ignored: settings that do not matter.

    Raises:
        RunError: some differ.
    """
    mine = {name: value for name, value in json.loads(json.dumps(asdict(wanted))).items() if name not in ignored}
    differences = [
        f"{name}: {repr(found[name]) if name in found else 'none'} there, {value!r} here"
        for name, value in mine.items()
        if name not in found or found[name] != value
    ]
    if differences:
        words = f"{file} is of other settings ({'; '.join(differences)})"
        raise RunError(f"{words}: choose another place by {option}, or delete that one.")


def is_finished(wanted: Any, folder: Path) -> bool:
    """Whether a folder holds the result of a run of these settings (``settings.Settings``).

    Raises:
        RunError: it is of other settings, or damaged.
    """
    file = folder / "result.json"
    if not file.exists():
        return False
    refuse_others(wanted, read_json(file), file, "--folder", wanted.elsewhere())
    return True


# -- files --------------------------------------------------------------------------------------------------------


@contextmanager
def _whole(file: Path) -> Iterator[Path]:
    """Where to write what then takes the place of ``file``, so that a kill leaves the old one."""
    partial = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        yield partial
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    if not file.exists():
        raise RunError(f"{file} is missing: delete {file.parent}, too, to begin again.")
    try:
        yield
    except Exception as error:  # torch raises RuntimeError, OSError, UnpicklingError, EOFError
        raise RunError(f"{file} is damaged ({error}): delete it to begin again.") from None


def save(state: dict[str, Any], file: Path) -> None:
    """Write a checkpoint."""
    with _whole(file) as partial:
        torch.save(state, partial)


def load(file: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """A checkpoint.

    Raises:
        RunError: missing or damaged.
    """
    with _readable(file):
        return torch.load(file, map_location=device, weights_only=True)


def write_json(value: dict[str, Any], file: Path) -> None:
    with _whole(file) as partial:
        partial.write_text(json.dumps(value, indent=1))


def read_json(file: Path) -> dict[str, Any]:
    """What ``write_json`` wrote.

    Raises:
        RunError: missing or damaged.
    """
    with _readable(file):
        return json.loads(file.read_text())


def append_lines(entries: Iterable[dict[str, Any]], file: Path) -> None:
    """More lines of JSON."""
    with file.open("a") as end:
        end.write("".join(json.dumps(entry) + "\n" for entry in entries))


def read_lines(file: Path) -> list[dict[str, Any]]:
    """All lines but what a kill tore apart, which has no end of line; none where there is no file.

    Raises:
        RunError: damaged.
    """
    found = []
    for number, line in enumerate(file.read_text().split("\n")[:-1] if file.exists() else [], start=1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            raise RunError(f"{file} is damaged (line {number}: {error}): delete it to begin again.") from None
    return found


def keep_lines(file: Path, wanted: Callable[[dict[str, Any]], bool] = lambda entry: True) -> None:
    """Drop the other lines, those of steps that will be done again, and what a kill tore apart."""
    text = "".join(json.dumps(entry) + "\n" for entry in read_lines(file) if wanted(entry))
    if file.exists() and file.read_text() != text:
        with _whole(file) as partial:
            partial.write_text(text)


# -- Ctrl-C -------------------------------------------------------------------------------------------------------


def go_on(folder: Path, saved: int, total: int, unit: str = "step") -> str:
    """What is saved, and how to go on."""
    if not saved:
        return "Nothing is saved yet."
    return f"{folder} holds {unit} {saved} of {total}: the same command goes on from there."


@contextmanager
def resumable(message: Callable[[], str]) -> Iterator[None]:
    """Ctrl-C inside carries a message, e.g. ``go_on``."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(message()) from None
