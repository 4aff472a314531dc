"""sst.plot: hulls are found whole by the argmax alone, paths end at the argmax, events are drawn as what they are."""

from __future__ import annotations

import subprocess
import sys

import cvxpy as cp
import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

import polytopes
import sst_cvx as sst
from sst_cvx.plot.shadow import cast

mpl.use("Agg")
MARGINALS = sst.ExponentialFamilyEntropy()


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def rows(points: np.ndarray) -> set[tuple[float, ...]]:
    return set(map(tuple, np.round(points, 6).tolist()))


@pytest.mark.parametrize(
    "structure",
    [
        polytopes.OneHot(3),
        polytopes.OneHot(4),
        polytopes.KSubset(4, 2),
        polytopes.KSubset(4, 3),
        polytopes.Hypercube(2),
        polytopes.Hypercube(3),
        polytopes.AtMostKSubset(3, 2),
        polytopes.Permutahedron(torch.tensor([0.0, 1.0, 3.0])),
        polytopes.Permutahedron(torch.tensor([0.0, 1.0, 3.0, 3.5])),
        polytopes.SpanningTree(3),
    ],
    ids=repr,
)
def test_corners_are_the_vertices(structure):
    shadow = cast(structure, None, {})
    vertices = structure.vertices().flatten(1)
    centred = vertices - vertices.mean(0)
    assert len(shadow.frame.basis) == np.linalg.matrix_rank(centred.numpy())
    assert rows(shadow.corners) == rows(shadow.frame(vertices))
    # Distances are those of the space.
    assert np.allclose(
        np.linalg.norm(np.diff(shadow.frame(vertices), axis=0), axis=1), vertices.diff(dim=0).norm(dim=1)
    )


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize(
    "structure", [polytopes.SpanningTree(4), polytopes.Matching(3), polytopes.Segment(5)], ids=repr
)
def test_projections_are_those_of_the_vertices(structure, dimensions):
    from scipy.spatial import ConvexHull

    directions = torch.randn(dimensions, *structure.event_shape, generator=torch.Generator().manual_seed(3))
    shadow = cast(structure, directions, {})
    points = shadow.frame(structure.vertices().flatten(1))
    expected = ConvexHull(points)
    assert rows(shadow.corners[shadow.facets.vertices]) == rows(points[expected.vertices])
    assert np.isclose(shadow.facets.volume, expected.volume)


def test_a_thin_hull_is_not_taken_for_a_flat_one():
    """Few random directions see its third corner."""
    thin = sst.Structure.from_vertices(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 1e-3]]))
    assert rows(cast(thin, None, {}).corners) == {(0, 0), (1, 0), (0.5, 0.001)}


def test_edges_of_a_cube_are_twelve():
    shadow = cast(polytopes.Hypercube(3), None, {})
    assert len(shadow.edges) == 12
    assert np.allclose(np.abs(np.diff(shadow.edges, axis=1)).sum(-1), 1)


def declared(looser: bool = False) -> sst.Structure:
    x, most = cp.Variable(2), cp.Parameter(name="most")
    return sst.Structure(x, [x >= 0, x <= 1, cp.sum(x) <= (most if not looser else 1.5)], integral=not looser)


def test_declared_hulls_and_their_parameters():
    assert rows(cast(declared(), None, {"most": torch.tensor(1.5)}).corners) == {
        (0, 0),
        (1, 0),
        (0, 1),
        (1, 0.5),
        (0.5, 1),
    }
    assert rows(cast(declared(looser=True), None, {}).corners) == {
        (0, 0),
        (1, 0),
        (0, 1),
    }  # conv(X), not the declared one


def test_a_curved_hull_ends():
    x = cp.Variable(2)
    corners = cast(sst.Structure(x, [cp.norm(x) <= 1]), None, {}).corners
    assert 100 < len(corners) <= 1000
    assert np.allclose(np.linalg.norm(corners, axis=1), 1, atol=1e-4)


@pytest.mark.parametrize("f", [sst.Euclidean(), sst.BinaryEntropy(), MARGINALS], ids=repr)
def test_a_path_goes_from_the_middle_to_the_argmax(f):
    u, structure = torch.tensor([1.0, 0.3, -0.4]), polytopes.KSubset(3, 2)
    ax = sst.plot.path(sst.SoftArgmax(structure, f), u)
    frame = cast(structure, None, {}).frame
    way = np.stack(next(line for line in ax.lines if line.get_label() == repr(f).removesuffix("()")).get_data(), 1)
    assert np.allclose(way[0], frame(torch.full((3,), 2 / 3)), atol=0.03)
    assert np.allclose(way[-1], frame(structure.argmax(u)), atol=1e-6)
    again = sst.plot.path(sst.SoftArgmax(structure, sst.CategoricalEntropy()), u, ax, label="other")
    assert again is ax
    assert sum(len(patch.get_xy()) > 3 for patch in ax.patches) == 1  # the hull is drawn once
    assert [text.get_text() for text in ax.get_legend().get_texts()][-1] == "other"


def test_three_dimensions_and_given_temperatures():
    ax = sst.plot.path(
        sst.SoftArgmax(polytopes.KSubset(4, 2), sst.Euclidean()), torch.randn(4), temperatures=torch.tensor([0.1, 2.0])
    )
    assert ax.name == "3d"
    ax.figure.canvas.draw()
    with pytest.raises(ValueError, match="3 dimensions: give ax such axes"):
        sst.plot.hull(polytopes.KSubset(4, 2), plt.figure().add_subplot())
    with pytest.raises(ValueError, match="2 dimensions: give ax such axes"):
        sst.plot.hull(polytopes.OneHot(3), plt.figure().add_subplot(projection="3d"))


def test_parameters_reach_hull_and_path():
    ax = sst.plot.path(sst.SoftArgmax(declared(), sst.Euclidean()), torch.tensor([1.0, 0.8]), most=torch.tensor(1.5))
    assert ax.get_xlim()[1] > 1


def test_events_are_drawn_as_what_they_are():
    tree = polytopes.SpanningTree(5)
    ax = sst.plot.event(tree, sst.SoftArgmax(tree, MARGINALS)(torch.randn(10), 0.5), positions=torch.rand(5, 2))
    assert len(ax.collections[0].get_segments()) == 10
    arcs = polytopes.Arborescence(3)
    ax = sst.plot.event(arcs, torch.ones(arcs.event_shape) / 2, names=["root", "a", "b"])
    assert len(ax.patches) == len(arcs.edge_index[0])  # arrows
    assert {text.get_text() for text in ax.texts} == {"root", "a", "b"}
    ends = torch.tensor([[0, 0, 1], [0, 1, 2]])
    ax = sst.plot.event(polytopes.BMatching(ends, 1), torch.tensor([1.0, 0.0, 1.0]))
    assert len(ax.collections[0].get_segments()) == 2  # an edge of weight 0 is left out
    assert len(ax.texts) == 5
    matrix = torch.rand(4, 4)
    ax = sst.plot.event(polytopes.Matching(4), matrix)
    assert np.allclose(ax.images[0].get_array(), matrix)
    assert len(ax.figure.axes) == 2
    assert len(sst.plot.event(polytopes.Matching(4), matrix, colorbar=False).figure.axes) == 1
    chain = polytopes.Chain(5, 3)
    x = sst.SoftArgmax(chain, MARGINALS)(torch.randn(4, 3, 3), 1.0)
    ax = sst.plot.event(chain, x)
    assert np.allclose(ax.images[0].get_array(), chain.labels(x).T)
    ax = sst.plot.event(polytopes.KSubset(3, 1), torch.tensor([0.2, 0.5, 0.3]), names="abc")
    assert [bar.get_height() for bar in ax.patches] == pytest.approx([0.2, 0.5, 0.3])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: sst.plot.hull(torch.eye(2)), TypeError, "structure must be"),
        (lambda: sst.plot.hull(polytopes.KSubset(6, 2)), ValueError, "more than 3 dimensions: pass directions"),
        (lambda: sst.plot.hull(polytopes.OneHot(2)), ValueError, "1 dimensions: pass directions"),
        (lambda: sst.plot.hull(polytopes.OneHot(3), directions=torch.randn(2, 4)), ValueError, r"\(2 or 3, 3\)"),
        (lambda: sst.plot.hull(polytopes.OneHot(3), directions=torch.ones(2, 3)), ValueError, "independent"),
        (
            lambda: sst.plot.hull(polytopes.OneHot(3), directions=torch.tensor([[1.0, 0, 0], [0, 1, 1]])),
            ValueError,
            "fewer than 2 dimensions",
        ),
        (lambda: sst.plot.path(polytopes.OneHot(3), torch.randn(3)), TypeError, "soft must be"),
        (
            lambda: sst.plot.path(sst.SoftArgmax(polytopes.OneHot(3), sst.Euclidean()), torch.randn(2, 3)),
            ValueError,
            "u must be one event",
        ),
        (
            lambda: sst.plot.path(
                sst.SoftArgmax(polytopes.OneHot(3), sst.Euclidean()), torch.randn(3), temperatures=torch.tensor(1.0)
            ),
            ValueError,
            "temperatures",
        ),
        (lambda: sst.plot.event(polytopes.OneHot(3), torch.randn(2, 3)), ValueError, r"x\[0\]"),
        (lambda: sst.plot.event(polytopes.OneHot(3), torch.full((3,), torch.nan)), ValueError, "finite"),
        (lambda: sst.plot.event(polytopes.OneHot(3), torch.rand(3), names="ab"), ValueError, "names must be"),
        (lambda: sst.plot.event(polytopes.OneHot(3), torch.rand(3), positions=torch.rand(3, 2)), ValueError, "edges"),
        (
            lambda: sst.plot.event(polytopes.SpanningTree(3), torch.rand(3), positions=torch.rand(3, 3)),
            ValueError,
            "positions must be",
        ),
    ],
)
def test_errors_say_what_to_do(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_matplotlib_is_imported_by_the_first_picture_and_its_absence_is_told():
    code = """
import sys, torch, sst_cvx as sst, polytopes
assert "matplotlib" not in sys.modules
sys.modules["matplotlib.pyplot"] = None
try:
    sst.plot.hull(polytopes.OneHot(3))
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'sst-cvx[plot]'" in done.stdout, done.stderr
