"""Axes, and the libraries that draw: imported when the first picture is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def library(name: str) -> Any:
    """Matplotlib's pyplot or networkx.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        package = name.split(".")[0]
        raise ImportError(f"sst.plot needs {package}: pip install 'sst-cvx[plot]'.") from error


def axes(ax: Any, dimensions: int = 2) -> Any:
    """The given axes, or the only ones of a new figure.

    Raises:
        ValueError: axes of the other number of dimensions.
    """
    if ax is None:
        projection = "3d" if dimensions == 3 else None
        return library("matplotlib.pyplot").figure(layout="constrained").add_subplot(projection=projection)
    if (getattr(ax, "name", "") == "3d") != (dimensions == 3):
        how = 'subplot_kw={"projection": "3d"}' if dimensions == 3 else "plain axes"
        raise ValueError(f"this is drawn in {dimensions} dimensions: give ax such axes ({how}), or none.")
    return ax
