"""What a command line names: a structure, regularizers, values of parameters."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from sst_cvx.checks import REGULARIZERS as CERTIFIED
from sst_cvx.regularizers import Regularizer
from sst_cvx.structure.base import Structure

#: Those that ``check`` certifies by default, by name.
REGULARIZERS: dict[str, Regularizer] = dict(
    zip(("euclidean", "categorical", "binary", "tsallis", "exponential"), CERTIFIED, strict=True)
)


class TargetError(ValueError):
    """A name that leads nowhere, or to something else: one line for the user."""


def structure(target: str) -> Structure:
    """The structure of "module:name", "file.py:name", or either with literal arguments, "polytopes:KSubset(20, 5)".

    Raises:
        TargetError: there is none.
    """
    place, colon, name = target.partition(":")
    if not colon or not place or not name:
        raise TargetError(f"{target!r} is no module:name, such as polytopes:OneHot(5) or sets.py:team.")
    made = _call(_module(place), name, target)
    if isinstance(made, type) or (callable(made) and not isinstance(made, Structure)):
        made = _made(made, (), {}, target)
    if not isinstance(made, Structure):
        raise TargetError(f"{target} is {type(made).__name__}, not an sst_cvx.Structure.")
    return made


def _module(place: str) -> ModuleType:
    file = Path(place)
    if file.suffix == ".py":
        if not file.is_file():
            raise TargetError(f"no file {place}.")
        found = importlib.util.spec_from_file_location(file.stem, file)
        assert found is not None
        assert found.loader is not None
        module = importlib.util.module_from_spec(found)
        sys.modules.setdefault(file.stem, module)
        sys.path.insert(0, str(file.parent.resolve()))
        return _imported(place, lambda: found.loader.exec_module(module) or module)  # type: ignore[union-attr]
    if "" not in sys.path:  # as with python -m: modules of the working folder
        sys.path.insert(0, "")
    return _imported(place, lambda: importlib.import_module(place))


def _imported(place: str, load: Any) -> ModuleType:
    try:
        return load()
    except Exception as error:
        raise TargetError(f"{place} cannot be imported: {_line(error)}") from error


def _call(module: ModuleType, name: str, target: str) -> Any:
    """An attribute, or what it makes of literal arguments."""
    try:
        tree = ast.parse(name.strip(), mode="eval").body
    except SyntaxError:
        raise TargetError(f"{name!r} in {target!r} is neither a name nor a call with literal arguments.") from None
    if not isinstance(tree, ast.Call):
        return _attribute(module, ast.unparse(tree), target)
    try:
        arguments = [ast.literal_eval(part) for part in tree.args]
        keywords = {str(part.arg): ast.literal_eval(part.value) for part in tree.keywords}
    except ValueError:
        raise TargetError(f"arguments in {target!r} must be literals, such as 5, [1, 2] or 'global'.") from None
    return _made(_attribute(module, ast.unparse(tree.func), target), arguments, keywords, target)


def _attribute(module: ModuleType, name: str, target: str) -> Any:
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            near = sorted(n for n in vars(found) if n.lower().startswith(part[:3].lower()) and not n.startswith("_"))
            hint = f"; there is {', '.join(near[:5])}" if near else ""
            raise TargetError(f"{module.__name__} has no {name!r}{hint}.")
        found = getattr(found, part)
    return found


def _made(factory: Any, arguments: Sequence[Any], keywords: dict[str, Any], target: str) -> Any:
    try:
        return factory(*arguments, **keywords)
    except Exception as error:
        raise TargetError(f"{target} cannot be made: {_line(error)}") from error


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {words(error)}"


def words(error: Exception) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split())


def regularizers(names: Sequence[str] | None) -> list[Regularizer]:
    return [REGULARIZERS[name] for name in names or REGULARIZERS]


def parameters(given: Sequence[str], wanted: Structure) -> dict[str, torch.Tensor]:
    """Values of the hull's parameters, float64.

    Raises:
        TargetError: not JSON, or not those of the structure.
    """
    found = {}
    for text in given:
        name, _, value = text.partition("=")
        try:
            found[name] = torch.tensor(json.loads(value), dtype=torch.float64)
        except (TypeError, ValueError):
            raise TargetError(
                f"--parameter takes NAME=VALUE, a number or nested lists of them in JSON (0.5, not .5), got {text!r}."
            ) from None
    try:
        wanted.flat_parameters(found, torch.Size())
    except (TypeError, ValueError) as error:
        raise TargetError(f"--parameter: {error}") from None
    return found
