"""Ways to X_t(u), one folder each, all of one shape: a ``Path`` is constructed for a pair or refused, and maps a
``Batch`` to points of the hull. ``PATHS`` is the order in which "auto" tries them."""

from sst_cvx.paths.active_set.path import ActiveSetPath
from sst_cvx.paths.base import Path
from sst_cvx.paths.fast.path import FastPath
from sst_cvx.paths.interior_point.path import InteriorPointPath
from sst_cvx.paths.layer.path import LayerPath
from sst_cvx.paths.product.path import ProductPath
from sst_cvx.paths.splitting.path import SplittingPath

PATHS: tuple[type[Path], ...] = (
    ProductPath,
    FastPath,
    SplittingPath,
    ActiveSetPath,
    InteriorPointPath,
    LayerPath,
)

__all__ = ["PATHS", "Path"]
