"""What ``benchmarks.device`` measures: pairs by every path, their peers, and the sort or solve inside them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch

import polytopes
import sst_cvx as sst
from tests.hulls import k_subset

Map = Callable[[torch.Tensor], torch.Tensor]
Made = tuple[Map, tuple[int, ...]]  # a map, and the shape of one element's utilities
TEMPERATURE = 0.5
BATCHES = (32, 4096, 100_000)


@dataclass(frozen=True)
class Case:
    """One block of rows.

    Args:
        make: the map of utilities ``(batch, *event_shape)`` and their shape, made in the process that measures it.
        own: the sort or solve that any such algorithm does, for comparison.
        batches: besides 32, 4,096 and 100,000.
    """

    name: str
    make: Callable[[], Made]
    own: Map | None = None
    batches: tuple[int, ...] = ()


def _sort(u: torch.Tensor) -> torch.Tensor:
    return u.sort(-1).values


def _factorize(vertices: int) -> Map:
    """LU of one float64 Laplacian minor an element, as random numbers would need it."""

    def factorize(u: torch.Tensor) -> torch.Tensor:
        matrix = u.new_zeros(len(u), vertices, vertices, dtype=torch.float64)
        matrix.diagonal(dim1=-2, dim2=-1).fill_(2.0)
        return torch.linalg.lu_factor_ex(matrix)[0]

    return factorize


def _grid(side: int) -> sst.Structure:
    """Steps right and down from corner to corner."""
    cells = torch.arange(side * side).reshape(side, side)
    right = torch.stack([cells[:, :-1].flatten(), cells[:, 1:].flatten()])
    down = torch.stack([cells[:-1].flatten(), cells[1:].flatten()])
    return polytopes.Path(torch.cat([right, down], 1), 0, side * side - 1)


def _ours(structure: Callable[[], sst.Structure], regularizer: sst.Regularizer) -> Callable[[], Made]:
    def make() -> Made:
        soft = sst.SoftArgmax(structure(), regularizer)
        return lambda u: soft(u, TEMPERATURE), soft.structure.event_shape

    return make


def _entmax(name: str) -> Callable[[], Made]:
    def make() -> Made:
        import entmax

        return lambda u: getattr(entmax, name)(u / TEMPERATURE, dim=-1), (100,)

    return make


def all_cases() -> list[Case]:
    """In the order of the table."""
    euclidean, categorical, exponential = sst.Euclidean(), sst.CategoricalEntropy(), sst.ExponentialFamilyEntropy()
    binary, tsallis = sst.BinaryEntropy(), sst.TsallisEntropy(1.5)

    def case(label: str, structure: Callable[[], sst.Structure], f: sst.Regularizer) -> Case:
        own = _sort if label.startswith(("OneHot", "KSubset", "Permutahedron")) and f is not exponential else None
        own = _factorize(9) if "(10)" in label and f is exponential else own
        more = {"Correlated": (128,), "SpanningTree": (1024,), "declared": (20_000,)}
        batches = next((b for start, b in more.items() if label.startswith(start)), ())
        return Case(f"{label} {type(f).__name__}", _ours(structure, f), own, batches)

    cases = [case("OneHot(100)", lambda: polytopes.OneHot(100), f) for f in (categorical, euclidean, tsallis)]
    if importlib.util.find_spec("entmax"):
        cases += [Case(f"entmax.{name}, 100", _entmax(name), _sort) for name in ("sparsemax", "entmax15")]
    subset = lambda: polytopes.KSubset(100, 10)  # noqa: E731
    cases += [case("KSubset(100, 10)", subset, f) for f in (euclidean, categorical, binary, exponential)]
    cases += [case("SpanningTree(10)", lambda: polytopes.SpanningTree(10), exponential)]
    cases += [case("Arborescence(10)", lambda: polytopes.Arborescence(10), exponential)]
    cases += [case("Matching(10)", lambda: polytopes.Matching(10), categorical)]
    weights = torch.linspace(0, 1, 100)
    cases += [case("Permutahedron(100)", lambda: polytopes.Permutahedron(weights), euclidean)]
    cases += [case("Path(grid of 4 x 4)", lambda: _grid(4), f) for f in (exponential, euclidean)]
    correlated = lambda: polytopes.CorrelatedKSubset(350, 10)  # noqa: E731
    cases += [case("CorrelatedKSubset(350, 10)", correlated, exponential)]
    declared = lambda: k_subset(100, 10)  # noqa: E731
    cases += [case("declared 10 of 100", declared, f) for f in (euclidean, categorical)]
    cases += [case("SpanningTree(10)", lambda: polytopes.SpanningTree(10), euclidean)]
    cases += [case("CorrelatedKSubset(350, 10)", correlated, euclidean)]
    return cases
