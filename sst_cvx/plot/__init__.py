"""Pictures: the hull of a set, the path of its soft argmax as t falls, and points of it as bars, heat maps or graphs.

    sst.plot.path(sst.SoftArgmax(polytopes.OneHot(3), sst.Euclidean()), torch.tensor([1.0, 0.6, -1.0]))
    sst.plot.event(tree, x)                     # a graph whose edges are as broad as they are likely

Matplotlib (and networkx for graphs) are imported by the first picture: ``pip install 'sst-cvx[plot]'``.
"""

from sst_cvx.plot.events import event
from sst_cvx.plot.hulls import hull, path

__all__ = ["event", "hull", "path"]
