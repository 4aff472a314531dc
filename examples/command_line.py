"""What the scripts share: options that are checked before any work, and endings without a traceback.

Types for ``add_argument``: numbers in a range, devices, places that can be written to. A script of this folder that
imports this module (first, before the packages that take seconds) ends by Ctrl-C in one line, with exit status 130.
"""

from __future__ import annotations

import math
import sys
import tempfile
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

PICTURES = (".png", ".pdf", ".svg", ".jpg", ".webp")
MOST_SEED = 2**32 - 1  # NumPy's; PyTorch takes more


class Told(Exception):
    """Something that the user can mend: a script tells its message alone, without a traceback."""


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """Whole numbers in a range, ends included."""
    wanted = f"at least {least}" if most is None else f"from {least} to {most}"

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least or (most is not None and value > most):
            raise ArgumentTypeError(f"must be a whole number {wanted}, got {text!r}.")
        return value

    return number


seed = whole(0, MOST_SEED)


def real(least: float = -math.inf, above: float = -math.inf) -> Callable[[str], float]:
    """Finite numbers, at least ``least`` and beyond ``above``."""
    wanted = "".join(f" {words} {end:g}" for words, end in (("at least", least), ("above", above)) if end > -math.inf)

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= least and value > above):
            raise ArgumentTypeError(f"must be a finite number{wanted}, got {text!r}.")
        return value

    return number


def picture(text: str) -> Path:
    """A file for a picture; its folder is made."""
    path = Path(text)
    if path.suffix.lower() not in PICTURES:
        raise ArgumentTypeError(f"must end in {', '.join(PICTURES[:-1])} or {PICTURES[-1]}, got {text!r}.")
    if path.is_dir():
        raise ArgumentTypeError(f"{text} is a folder.")
    folder(path.parent)
    return path


def folder(text: str | Path) -> Path:
    """A folder to write in; it is made."""
    path = Path(text)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ArgumentTypeError(f"{path} cannot be written to ({error.strerror}): choose another place.") from None
    return path


def add_output(parser: ArgumentParser, default: Path) -> None:
    """The option --output, a picture. The default is checked, too, as all strings are."""
    parser.add_argument(
        "--output", "--out", type=picture, default=str(default), metavar="PICTURE", help="default: %(default)s"
    )


def device(text: str) -> str:
    """A device that this PyTorch can compute on: "cpu", "cuda", "cuda:1"."""
    import torch

    try:
        wanted = torch.device(text)
    except RuntimeError:
        wanted = None
    if wanted is None or wanted.type not in ("cpu", "cuda"):
        raise ArgumentTypeError(f"must be cpu, cuda or cuda:NUMBER, got {text!r}.")
    count = torch.cuda.device_count() if wanted.type == "cuda" else 1
    if (wanted.index or 0) >= count:
        raise ArgumentTypeError(f"this PyTorch sees {count or 'no'} CUDA devices, got {text!r}.")
    return text


def _end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The last word of a script that an exception ends."""
    if issubclass(kind, KeyboardInterrupt):
        new_line = "\n" if sys.stderr.isatty() else ""  # after ^C or half a progress bar
        print(f"{new_line}Stopped. {error}".rstrip(), file=sys.stderr)
        raise SystemExit(130)
    if issubclass(kind, Told):
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        raise SystemExit(1)
    sys.__excepthook__(kind, error, trace)


_script = getattr(sys.modules["__main__"], "__file__", None)
if _script and Path(_script).resolve().is_relative_to(Path(__file__).resolve().parent):  # not in a test or a notebook
    sys.excepthook = _end
