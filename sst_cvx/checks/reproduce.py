"""Code that shows one failure by itself."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch

_PREAMBLE = ["import torch", "import sst_cvx as sst", ""]


@dataclass(frozen=True)
class Setting:
    """What ``sst.check`` was asked."""

    structure: Any
    temperatures: tuple[float, ...]
    seed: int
    parameters: dict[str, torch.Tensor]


def code_for(name: str, complaint: str, values: dict[str, Any], shows: str, regularizer: Any, setting: Setting) -> str:
    """Code that raises what the check of this name raises, after what ``shows`` says at the input ``values``."""
    lines = [*_PREAMBLE, *_object("structure", setting.structure)]
    if regularizer is not None:
        lines += _object("regularizer", regularizer)
    lines.append(f"parameters = {{{', '.join(f'{k!r}: {_literal(v)}' for k, v in setting.parameters.items())}}}")
    lines += ["", *(f"{key} = {_literal(value)}" for key, value in values.items())]
    if shows and values:
        lines.append(f"print({shows})")
    asked = "[]" if regularizer is None else "[regularizer]"
    lines += [
        "",
        f"# {complaint}" if complaint else "# passed",
        f"settings = dict(temperatures={setting.temperatures!r}, seed={setting.seed})",
        f"checks = sst.checks(structure, {asked}, **settings, **parameters)",
        f"next(check for check in checks if check.name == {name!r})()",
    ]
    return "\n".join(lines) + "\n"


def _object(name: str, value: Any) -> list[str]:
    """Lines that make it of its class, where that can be imported and its repr says all; else a remark."""
    kind = type(value)
    scope = vars(sys.modules.get(kind.__module__, sys))
    if scope.get(kind.__name__) is kind and kind.__module__ != "__main__":
        try:
            same = eval(repr(value), {kind.__name__: kind, "torch": torch})  # its own constructor, by its own repr
        except Exception:
            same = None
        if type(same) is kind and (same == value or (_plain(same) and vars(same) == vars(value))):
            return [f"from {kind.__module__} import {kind.__name__}", f"{name} = {value!r}"]
    return [f"{name} = {name}  # give it, e.g. exec(code, {{{name!r}: ...}}): {' '.join(repr(value).split())}"]


def _plain(value: Any) -> bool:
    """Whether its attributes are numbers and words, which == compares."""
    return all(isinstance(v, (int, float, str, tuple, type(None))) for v in vars(value).values())


def _literal(value: Any) -> str:
    if not isinstance(value, torch.Tensor):
        return repr(value)
    numbers = repr(value.detach().cpu().double().tolist()).replace("nan", "float('nan')").replace("inf", "float('inf')")
    return f"torch.tensor({numbers}, dtype={value.dtype})"
