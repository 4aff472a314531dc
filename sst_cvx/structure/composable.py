"""Operators that make structures of structures. What each makes stands in a file of its own, which registers it here:
a base class imports none of its subclasses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    import torch

#: The type of what is made: ``Structure``.
Made = TypeVar("Made")
_MAKERS: dict[str, Callable[..., Any]] = {}


def makes(operator: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register what makes what an operator of ``Structure`` returns; engine only."""

    def register(maker: Callable[..., Any]) -> Callable[..., Any]:
        _MAKERS[operator] = maker
        return maker

    return register


def make(what: str, *of: Any, **more: Any) -> Any:
    """What was registered under this name."""
    return _MAKERS[what](*of, **more)


class Composable(Generic[Made]):
    """``structure ** n``, ``a & b``, ``a & [constraints]``, ``structure.where(...)``, ``Structure.from_vertices``,
    ``Structure.from_argmax``."""

    def __pow__(self, n: int) -> Made:
        """n independent elements of this structure, event shape ``(n, *event_shape)``; see ``sst.Product``.

        Raises:
            TypeError, ValueError: n is no integer from 1.
        """
        return make("power", self, n)

    def __and__(self, other: Any) -> Made:
        """The elements that are in another structure of the same event shape, too; or that keep CVXPY constraints on
        this structure's ``variable``, as ``where``."""
        return make("intersection" if isinstance(other, Composable) else "restriction", self, other)

    def where(self, constraints: Any, *, integral: bool = False) -> Made:
        """The elements that keep more constraints: a relaxation, unless ``integral=True`` says otherwise.

        Args:
            constraints: CVXPY constraints on ``self.variable``, or a function from that variable to them. Their
                parameters become inputs, as in ``Structure``.
            integral: True if you know that the hull with these constraints is that of the elements which keep them.
                False: it is looser, argmax is solved as a mixed-integer program, and soft argmaxes are over the looser
                hull; ``check`` measures by how much.

        Raises:
            TypeError, ValueError: no constraints, no hull to add them to, or elements that are not whole numbers.
        """
        return make("restriction", self, constraints, integral=integral)

    @staticmethod
    def from_vertices(vertices: torch.Tensor) -> Any:
        """The structure of a finite list of elements ``(count, *event_shape)``.

        Raises:
            TypeError, ValueError: no floating tensor of finite entries, an element twice, or within the hull of others.
        """
        return make("list", vertices)

    @staticmethod
    def from_argmax(event_shape: int | Sequence[int], argmax: Callable[[torch.Tensor], torch.Tensor]) -> Made:
        """A structure known by its hard argmax alone: its Euclidean soft argmax goes by the active-set path.

        Args:
            event_shape: shape of an element of X.
            argmax: utilities ``(*batch, *event_shape)`` to a maximiser of <u, x> over X, same shape, dtype and device,
                for any batch. It must be exact, and X finite.

        Raises:
            TypeError: not a function, or it returns no tensor of that dtype.
            ValueError: event_shape is no shape, or what argmax returns has a wrong shape, is not finite, is worse
                than what it returned for other utilities, or is not from a finite set.
        """
        return make("argmax", event_shape, argmax)
