"""What structures share whose sums go over the list of their elements, where that is short."""

from __future__ import annotations

import sst_cvx as sst
from sst_cvx.once import computed_once
from sst_cvx.structure.vertex_list import VertexList


class Enumerated(sst.Structure, abstract=True):
    """A base: ``vertices()`` lists the elements, unless ``log_partition_refusal`` says why not."""

    #: Whether sums go by the list.
    by_list: bool | property = True

    @computed_once
    def listed(self) -> VertexList:
        """The elements, flat.

        Raises:
            ValueError: there are too many.
        """
        if self.log_partition_refusal:
            raise ValueError(f"{self.log_partition_refusal}.")
        return VertexList(self.vertices().flatten(1))

    def prepare(self) -> None:
        super().prepare()
        if self.by_list and self.has_log_partition():
            self.listed.prepare()
