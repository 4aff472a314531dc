"""A hull, and what the soft argmax does in it."""

from __future__ import annotations

import weakref
from typing import Any

import torch

from sst_cvx.arguments import check_utilities
from sst_cvx.plot.canvas import axes, library
from sst_cvx.plot.shadow import Frame, Shadow, cast
from sst_cvx.soft_argmax import SoftArgmax
from sst_cvx.structure.base import Structure

_GREY = "0.5"  # is read on white and on black
_POINTS = 121  # of a path
_frames: weakref.WeakKeyDictionary[Any, tuple[Structure, Frame]] = weakref.WeakKeyDictionary()


def hull(structure: Structure, ax: Any = None, *, directions: Any = None, **parameters: torch.Tensor) -> Any:
    """The hull of a set, in two or three dimensions; the axes.

    Found by the hard argmax alone, so any structure will do, declared ones included. Where the hull has fewer
    dimensions than x has entries, as that of the 2-subsets of 4, coordinates are orthonormal ones of its own.

    Args:
        structure: the set; its hull has 2 or 3 dimensions, unless there are directions.
        ax: Matplotlib axes, 3-D ones for 3 dimensions; new ones by default.
        directions: ``(2 or 3, *event_shape)``, to project on; coordinates are the products with these.
        parameters: the hull's parameters by name.

    Raises:
        ImportError: Matplotlib is not installed.
        ValueError: the hull has more dimensions, or fewer; directions or axes of a wrong shape.
    """
    if not isinstance(structure, Structure):
        raise TypeError(f"structure must be an sst.Structure, got {type(structure).__name__}.")
    library("matplotlib.pyplot")  # before any work
    shadow = cast(structure, directions, parameters)
    ax = axes(ax, len(shadow.frame.basis))
    (_solid if len(shadow.frame.basis) == 3 else _flat)(ax, shadow)
    _frames[ax] = structure, shadow.frame
    return ax


def path(
    soft: SoftArgmax,
    u: torch.Tensor,
    ax: Any = None,
    *,
    temperatures: torch.Tensor | None = None,
    directions: Any = None,
    label: str | None = None,
    **parameters: torch.Tensor,
) -> Any:
    """The way of X_t(u) through the hull as t falls, from the minimiser of f (a dot) to the argmax (a square).

    Args:
        soft: the soft argmax.
        u: utilities, of the event's shape, no batch.
        ax: axes on which ``hull`` or ``path`` drew this structure, for further paths; on others the hull is drawn
            first.
        temperatures: ``(count,)``, positive; by default from 30 times the range of u to a hundredth of it.
        directions, parameters: see ``hull``.
        label: in the legend, by default the regularizer.

    Raises:
        ImportError, ValueError: see ``hull``; u or temperatures of a wrong shape.
        SolveError: the path of the soft argmax gave up.
    """
    if not isinstance(soft, SoftArgmax):
        raise TypeError(f"soft must be an sst.SoftArgmax, got {type(soft).__name__}.")
    structure = soft.structure
    if check_utilities(u, structure.event_shape):
        raise ValueError(f"u must be one event, of shape {tuple(structure.event_shape)}, got {tuple(u.shape)}.")
    u = u.detach().double()
    t = _falling(u) if temperatures is None else torch.as_tensor(temperatures).to(u)
    if t.dim() != 1 or not len(t):
        raise ValueError(f"temperatures must be of shape (count,), got {tuple(t.shape)}.")
    known = None if ax is None else _frames.get(ax)
    if ax is None or known is None or known[0] != structure or directions is not None:
        ax = hull(structure, ax, directions=directions, **parameters)
    frame = _frames[ax][1]
    with torch.no_grad():
        x = soft(u.expand(len(t), *u.shape), t.sort(descending=True)[0], **parameters)
    way = frame(x.flatten(1)).T
    (line,) = ax.plot(*way, lw=1.8, label=repr(soft.regularizer).removesuffix("()") if label is None else label)
    ax.plot(*way[:, :1], "o", color=line.get_color(), ms=5)
    ax.plot(*way[:, -1:], "s", color=line.get_color(), ms=5)
    ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0))  # clear of the hull
    return ax


def _falling(u: torch.Tensor) -> torch.Tensor:
    spread = float(u.max() - u.min()) or 1.0
    return spread * torch.logspace(1.5, -2, _POINTS, dtype=u.dtype)


def _flat(ax: Any, shadow: Shadow) -> None:
    ax.fill(*shadow.outline.T, color=_GREY, alpha=0.15, lw=0)
    ax.plot(*shadow.outline.T, color=_GREY, lw=1)
    ax.plot(*shadow.corners.T, "o", color=_GREY, ms=4)
    ax.set_aspect("equal")
    _bare(ax, shadow)


def _solid(ax: Any, shadow: Shadow) -> None:
    art = library("mpl_toolkits.mplot3d.art3d")
    ax.add_collection3d(art.Poly3DCollection(shadow.triangles, facecolor=_GREY, alpha=0.08, linewidth=0))
    ax.add_collection3d(art.Line3DCollection(shadow.edges, colors=_GREY, linewidths=1))
    ax.plot(*shadow.corners.T, "o", color=_GREY, ms=3)
    ax.set_box_aspect(shadow.corners.max(0) - shadow.corners.min(0), zoom=1.2)
    _bare(ax, shadow)


def _bare(ax: Any, shadow: Shadow) -> None:
    """No ticks where coordinates are not entries of x."""
    if (shadow.frame.origin != 0).any() or (shadow.frame.basis.sum(0) != 1).any():
        ax.set_axis_off()
