"""What makes a run, as a frozen dataclass: ranges are checked when it is made, and are the options of a command line.

@dataclass(frozen=True)
class Mine(Settings):
    steps: int = setting(1000, least=1, words="of Adam")
    rows: str = setting("tree", choices=("tree", "top"))
"""

from __future__ import annotations

import math
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar, get_type_hints

from examples import command_line

MOST_HIDDEN = 4096  # units of a layer: more is a slip
_S = TypeVar("_S", bound="Settings")


def setting(
    default: Any,
    least: float = -math.inf,
    most: float = math.inf,
    above: float = -math.inf,
    choices: Sequence[Any] = (),
    words: str = "",
    elsewhere: bool = False,
) -> Any:
    """A field of ``Settings``.

    Args:
        least, most: of a number, ends included; numbers are finite. above: of a real number, the end left out.
        choices: the only values.
        words: what it is, for --help.
        elsewhere: it does not make the run, such as where data lie: another value goes on with the same run.
    """
    limits = {"least": least, "most": most, "above": above}
    return field(default=default, metadata={**limits, "choices": choices, "words": words, "elsewhere": elsewhere})


def positive(default: float, words: str = "") -> Any:
    """A finite number above 0."""
    return setting(default, above=0.0, words=words)


def width(default: int, words: str = "") -> Any:
    """Units of a layer."""
    return setting(default, least=1, most=MOST_HIDDEN, words=words)


@dataclass(frozen=True)
class Settings:
    """Settings that every run has.

    Raises:
        ValueError: a setting out of its range.
    """

    learning_rate: float = positive(1e-3)
    decay: str = setting("none", choices=("none", "cosine"), words="of the learning rate, to 0 at the end")
    average: float = setting(0.0, 0.0, 0.9999, words="share that averaged weights keep at an update; 0: no averaging")
    patience: int = setting(0, least=0, words="end so long after the best validation; 0: never")
    validate_every: int = setting(1, least=1)
    seed: int = setting(0, least=0, most=command_line.MOST_SEED, words="of weights, order and noise")

    def __post_init__(self) -> None:
        for one in fields(self):
            value, limits = getattr(self, one.name), one.metadata
            if not limits:
                continue
            if limits["choices"] and value not in limits["choices"]:
                raise ValueError(f"{one.name} must be one of {', '.join(map(str, limits['choices']))}, got {value!r}.")
            if isinstance(value, int | float) and not _inside(value, limits):
                raise ValueError(f"{one.name} must be {_range(limits)}, got {value}.")

    @classmethod
    def elsewhere(cls) -> tuple[str, ...]:
        """Names of settings that do not make a run."""
        return tuple(one.name for one in fields(cls) if one.metadata.get("elsewhere"))


def _inside(value: float, limits: Mapping[str, Any]) -> bool:
    return math.isfinite(value) and limits["least"] <= value <= limits["most"] and value > limits["above"]


def _range(limits: Mapping[str, Any]) -> str:
    least, most, above = limits["least"], limits["most"], limits["above"]
    if above > -math.inf:
        return f"a finite number above {above:g}"
    if least == -math.inf:
        return "finite"
    return f"at least {least}" if most == math.inf else f"from {least} to {most}"


# -- command lines ------------------------------------------------------------------------------------------------


def add_options(
    parser: ArgumentParser, kind: type[Settings], presets: Mapping[str, Settings], without: Sequence[str] = ()
) -> None:
    """``--preset`` and an option for every setting that is a number or a string."""
    parser.add_argument("--preset", choices=presets, default=next(iter(presets)), help="default: %(default)s")
    hints = get_type_hints(kind)
    for one in fields(kind):
        if hints[one.name] not in (int, float, str) or one.name in without:
            continue
        words = one.metadata.get("words", "")
        parser.add_argument(
            f"--{one.name.replace('_', '-')}",
            type=_reader(one.name, hints[one.name], one.metadata),
            choices=one.metadata.get("choices") or None,
            help=f"{words + '; ' * bool(words)}default by preset",
        )


def _reader(name: str, kind: type, limits: Mapping[str, Any]) -> Callable[[str], Any]:
    """Numbers of a setting. Its range is the settings' to check: one message, here and in Python."""
    if kind is str:
        return str

    def number(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and (not limits or _inside(value, limits))):
            whole = "a whole number " if kind is int else ""
            wanted = _range(limits) if limits else "finite"
            raise command_line.ArgumentTypeError(f"{name} must be {whole}{wanted}, got {text!r}.")
        return value

    return number


def given(options: Namespace, kind: type[Settings]) -> dict[str, Any]:
    """The settings that a command line names."""
    names = [one.name for one in fields(kind)]
    return {name: value for name in names if (value := getattr(options, name, None)) is not None}


def chosen(parser: ArgumentParser, options: Namespace, presets: Mapping[str, _S]) -> _S:
    """The preset with what else is named; ends the script where these do not agree."""
    preset = presets[options.preset]
    try:
        return replace(preset, **given(options, type(preset)))
    except ValueError as error:
        parser.error(str(error))
