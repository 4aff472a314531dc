"""Corrals: mixtures of affinely independent vertices, with the linear algebra of their affine hulls, batched."""

from __future__ import annotations

from dataclasses import dataclass

import torch

INDEPENDENT = 1e-9  # squared distance of a vertex from the affine hull, in units of the set's size


@dataclass
class Corral:
    """Vertices v_i with weights for each of a batch, in slots that fill and empty; empty ones are 0 everywhere.

    ``inverse`` is that of H_ij = <v_i, v_j> + 1 over the used slots, which is regular just where they are affinely
    independent. Coordinates are to be of order 1.
    """

    vertices: torch.Tensor  # (batch, slots, n)
    inverse: torch.Tensor  # (batch, slots, slots)
    weights: torch.Tensor  # (batch, slots), of sum 1
    used: torch.Tensor  # (batch, slots)

    @staticmethod
    def at_origin(batch: int, like: torch.Tensor, slots: int = 4) -> Corral:
        """One vertex, the origin of the space that the rows of ``like`` are in."""
        one = like.new_zeros(batch, slots)
        one[:, 0] = 1.0
        inverse = torch.diag_embed(one)
        return Corral(like.new_zeros(batch, slots, like.shape[1]), inverse, one, one > 0)

    def point(self) -> torch.Tensor:
        """The mixtures, ``(batch, n)``."""
        return (self.weights[:, None] @ self.vertices)[:, 0]

    def towards(self, w: torch.Tensor) -> torch.Tensor:
        """Weights d, of sum 0, for which sum_i d_i v_i is nearest to w ``(batch, n)``."""
        return weights_towards(self.vertices, self.inverse, w)

    def add(self, elements: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """``take`` without what is known on the host."""
        return self.take(elements, v)[0]

    def take(
        self, elements: torch.Tensor, v: torch.Tensor, full: bool | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Give vertices ``(elements, n)`` a free slot at weight 0, unless they depend affinely on those there.

        Returns the slots, -1 where a vertex was not taken; and which were, on the host. The inverse grows by its Schur
        complement. ``full``: whether a corral has no slot left, where that is known.
        """
        if bool(self.used.all(1).any()) if full is None else full:
            self._reserve(2 * self.used.shape[1])
        slot = (~_at(self.used, elements)).to(torch.uint8).argmax(1)
        w, complement = self._beyond(elements, v)
        independent = complement > INDEPENDENT
        taken = independent.cpu()
        take = torch.nonzero(taken).flatten().to(elements.device)
        to, at, w = elements[take], slot[take], w[take]
        w[torch.arange(len(w), device=w.device), at] = -1.0
        self._rank_one(to, w, complement[take].reciprocal())
        self.vertices[to, at], self.used[to, at] = v[take], True
        return torch.where(independent, slot, -1), taken

    def _beyond(self, elements: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights of the mixture nearest to (v, 1), and its squared distance: the Schur complement of one more slot.

        Projected twice and measured, as in Gram-Schmidt: the inverse alone cannot tell dependence from rounding.
        """
        vertices, used, inverse = (_at(t, elements) for t in (self.vertices, self.used, self.inverse))
        weights = inverse.new_zeros(used.shape)
        rest, height = v, torch.ones_like(v[:, :1])
        for _ in range(2):
            along = (vertices @ rest[:, :, None])[:, :, 0] + used * height
            weights = weights + (inverse @ along[:, :, None])[:, :, 0]
            rest = v - (weights[:, None] @ vertices)[:, 0]
            height = 1 - weights.sum(1, keepdim=True)
        return weights, (rest * rest).sum(1) + height[:, 0] ** 2

    def beside(self, elements: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        """Vectors ``(elements, n)`` less what of them is along the affine hulls."""
        part = self.select(elements)
        return r - (part.towards(r)[:, None] @ part.vertices)[:, 0]

    def drop(self, elements: torch.Tensor, slot: torch.Tensor) -> None:
        """Empty one slot of each of these elements."""
        column = self.inverse[elements, slot]
        self._rank_one(elements, column, -self.inverse[elements, slot, slot].reciprocal())
        self.inverse[elements, slot] = 0.0
        self.inverse[elements, :, slot] = 0.0
        self.vertices[elements, slot], self.weights[elements, slot], self.used[elements, slot] = 0.0, 0.0, False

    def refresh(self, elements: torch.Tensor) -> None:
        """Compute the inverse anew, for updates lose digits."""
        v, used = self.vertices[elements], self.used[elements].double()
        both = used[:, :, None] * used[:, None]
        inverse = torch.linalg.inv_ex(v @ v.mT + both + torch.diag_embed(1 - used)).inverse
        self.inverse[elements] = 0.5 * (inverse + inverse.mT) * both

    def select(self, elements: torch.Tensor) -> Corral:
        """These elements of the batch."""
        return Corral(self.vertices[elements], self.inverse[elements], self.weights[elements], self.used[elements])

    def put(self, elements: torch.Tensor, other: Corral) -> None:
        """Take another corral's batch in the place of these elements."""
        slots = other.used.shape[1]
        self._reserve(slots)
        self.vertices[elements, :slots], self.weights[elements, :slots] = other.vertices, other.weights
        self.inverse[elements, :slots, :slots], self.used[elements, :slots] = other.inverse, other.used

    def _reserve(self, slots: int) -> None:
        more = slots - self.used.shape[1]
        if more > 0:
            pad = torch.nn.functional.pad
            self.vertices, self.inverse = pad(self.vertices, (0, 0, 0, more)), pad(self.inverse, (0, more, 0, more))
            self.weights, self.used = pad(self.weights, (0, more)), pad(self.used, (0, more))

    def _rank_one(self, elements: torch.Tensor, w: torch.Tensor, factor: torch.Tensor) -> None:
        """inverse += factor w w'."""
        if len(elements) == len(self.used):
            self.inverse.baddbmm_((w * factor[:, None])[:, :, None], w[:, None])
        else:
            self.inverse[elements] += (w * factor[:, None])[:, :, None] * w[:, None]


def _at(tensor: torch.Tensor, elements: torch.Tensor) -> torch.Tensor:
    """These elements, which are distinct and ascending: without a copy if they are all."""
    return tensor if len(elements) == len(tensor) else tensor[elements]


def weights_towards(vertices: torch.Tensor, inverse: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """``Corral.towards``, differentiable in w: d solves H d + nu 1 = V w, 1' d = 0."""
    ones = inverse.sum(2)
    mass = ones.sum(1, keepdim=True)
    along = (vertices @ w[:, :, None])[:, :, 0]
    used = torch.diagonal(inverse, dim1=1, dim2=2) > 0
    along = torch.where(used, along - (along * ones).sum(1, keepdim=True) / mass, 0.0)  # keeps digits in the solve
    d = (inverse @ along[:, :, None])[:, :, 0]
    return d - ones * (d.sum(1, keepdim=True) / mass)
