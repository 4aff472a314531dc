"""Which path answers for a pair, and why."""

from __future__ import annotations

from sst_cvx.paths import PATHS, Path
from sst_cvx.paths.base import Options, Refused
from sst_cvx.regularizers import Regularizer
from sst_cvx.structure.base import Structure

NAMES = ("auto", *(kind.name for kind in PATHS))


def check_name(path: str) -> None:
    """Raise ValueError unless it is "auto" or the name of a path."""
    if path not in NAMES:
        raise ValueError(f"path must be one of {NAMES}, got {path!r}.")


def choose(structure: Structure, regularizer: Regularizer, options: Options, path: str) -> tuple[Path, str]:
    """The first path that takes the pair, or the one of this name; and why, in words.

    Raises:
        ValueError: none does.
    """
    refusals: list[str] = []
    for kind in PATHS:
        if path not in ("auto", kind.name):
            continue
        try:
            found: Path = kind(structure, regularizer, options)
        except Refused as refused:
            refusals.append(str(refused))
            continue
        asked = ["asked for by name"] if path != "auto" else refusals
        return found, "; ".join(part for part in (*asked, found.how) if part)
    if path != "auto":
        raise ValueError(f"path={path!r} does not apply: {refusals[0]}. Use path='auto' or another one.")
    raise ValueError(
        f"no path takes {regularizer!r} over {structure!r}: {'; '.join(filter(None, dict.fromkeys(refusals)))}."
    )
