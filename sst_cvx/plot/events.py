"""Points of a hull: bars, heat maps, graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from sst_cvx.arguments import check_utilities
from sst_cvx.plot.canvas import axes, library
from sst_cvx.structure.base import Structure

_COLOUR = "C0"
_BROADEST = 4.0  # points, of an edge of weight 1
_INVISIBLE = 1e-3  # weight of edges that are left out
_NODE = 160  # area, square points


def event(
    structure: Structure,
    x: torch.Tensor,
    ax: Any = None,
    *,
    positions: Any = None,
    names: Any = None,
    colorbar: bool = True,
) -> Any:
    """A point of the hull as the structure sees it; the axes.

    A structure with ``edge_index``, one edge an entry, is a graph whose edges are as broad and as dark as their entries
    are large; one with ``labels(x)``, as ``polytopes.Chain``, a heat map of places and labels; a matrix a heat map, a
    vector bars.

    Args:
        x: marginals, a soft argmax or an element, of the event's shape, no batch.
        ax: Matplotlib axes; new ones by default.
        positions: of a graph, ``(vertices, 2)``; by default on a circle, where the sides are two, on two lines.
        names: of the vertices, or of the entries of a vector: a sequence of strings.
        colorbar: whether a heat map has one.

    Raises:
        ImportError: Matplotlib, or for a graph networkx, is not installed.
        TypeError, ValueError: x, positions or names of a wrong shape; an event that is none of these.
    """
    if not isinstance(structure, Structure):
        raise TypeError(f"structure must be an sst.Structure, got {type(structure).__name__}.")
    if check_utilities(x, structure.event_shape, "x"):
        raise ValueError(f"x must be one event, of shape {tuple(structure.event_shape)}, got {tuple(x.shape)}: x[0]?")
    if not bool(x.isfinite().all()):
        raise ValueError("x must be finite.")
    edges = getattr(structure, "edge_index", None)
    x = x.detach().cpu().double()
    if isinstance(edges, torch.Tensor) and edges.shape[1:] == structure.event_shape:
        return _graph(structure, edges, x.numpy(), axes(ax), positions, names)
    if positions is not None:
        raise ValueError(f"positions are for structures whose entries are edges; {structure!r} has none.")
    labels: Callable[[torch.Tensor], torch.Tensor] | None = getattr(structure, "labels", None)
    values = (labels(x).T if callable(labels) else x).numpy()
    if values.ndim not in (1, 2):
        raise ValueError(
            f"an event of shape {tuple(structure.event_shape)} is neither vector, matrix nor graph: draw a part of it."
        )
    return _bars(values, axes(ax), names) if values.ndim == 1 else _heat(values, axes(ax), colorbar)


def _bars(values: np.ndarray, ax: Any, names: Any) -> Any:
    ax.bar(np.arange(len(values)), values, color=_COLOUR)
    ax.set_ylim(min(0.0, values.min()), max(1.0, values.max()))
    if names is not None:
        ax.set_xticks(range(len(values)), _checked("names", names, len(values)), rotation=45, ha="right")
    return ax


def _heat(values: np.ndarray, ax: Any, colorbar: bool) -> Any:
    colours = library("matplotlib.colors").LinearSegmentedColormap.from_list("", ["#3b82d600", "#3b82d6"])
    image = ax.imshow(values, cmap=colours, vmin=min(0.0, values.min()), vmax=max(1.0, values.max()), aspect="auto")
    for axis in (ax.xaxis, ax.yaxis):
        axis.get_major_locator().set_params(integer=True)
    if colorbar:
        ax.figure.colorbar(image, ax=ax, shrink=0.8)
    return ax


def _graph(structure: Structure, edges: torch.Tensor, x: np.ndarray, ax: Any, positions: Any, names: Any) -> Any:
    networkx, ends, sides = library("networkx"), edges.cpu().numpy(), getattr(structure, "size", None)
    if isinstance(sides, tuple):  # two kinds of vertices, each numbered from 0
        ends, count = ends + np.array([[0], [sides[0]]]), sum(sides)
    else:
        count = int(getattr(structure, "n", ends.max() + 1))
    where = _checked("positions", positions, count) if positions is not None else _places(count, sides)
    words = range(count) if names is None else _checked("names", names, count)
    seen = x > _INVISIBLE
    colour = library("matplotlib.colors").to_rgba
    directed = getattr(structure, "directed", False)
    graph = networkx.DiGraph() if directed else networkx.Graph()
    graph.add_nodes_from(range(count))
    pairs, weights = list(map(tuple, ends.T[seen].tolist())), x[seen].clip(max=1)
    graph.add_edges_from(pairs)
    networkx.draw_networkx_edges(
        graph,
        where,
        pairs,
        width=_BROADEST * weights,
        edge_color=[colour(_COLOUR, 0.2 + 0.8 * weight) for weight in weights],
        node_size=_NODE,
        ax=ax,
        **({"arrowsize": 10, "connectionstyle": "arc3,rad=0.12"} if directed else {}),
    )
    networkx.draw_networkx_nodes(graph, where, node_size=_NODE, node_color="0.75", ax=ax)
    networkx.draw_networkx_labels(graph, where, dict(enumerate(map(str, words))), font_size=8, ax=ax)
    ax.set_axis_off()
    return ax


def _places(count: int, sides: Any) -> list[list[float]]:
    """On a circle; two sides on two lines."""
    if isinstance(sides, tuple):
        lines = zip((0.0, 1.0), sides, strict=True)
        return [[place, 1 - (i + 0.5) / many] for place, many in lines for i in range(many)]
    angles = 2 * np.pi * np.arange(count) / count
    return np.stack([np.sin(angles), np.cos(angles)], 1).tolist()


def _checked(name: str, given: Any, count: int) -> list[Any]:
    """As many as there are vertices or entries; positions are pairs of numbers."""
    found = given.tolist() if isinstance(given, torch.Tensor | np.ndarray) else list(given)
    if len(found) != count or (name == "positions" and any(len(pair) != 2 for pair in found)):
        shape = f"({count}, 2)" if name == "positions" else f"({count},)"
        raise ValueError(f"{name} must be of shape {shape}, got {len(found)} of them.")
    return found
