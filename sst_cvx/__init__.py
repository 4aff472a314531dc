"""sst-cvx: differentiable soft argmax over combinatorial sets, declared by their convex hull.

    import cvxpy as cp, sst_cvx as sst, polytopes

    x = cp.Variable(6)
    picks = sst.Structure(x, [x >= 0, x <= 1, cp.sum(x) == 2])   # or polytopes.KSubset(6, 2)
    soft = sst.SoftArgmax(picks, sst.BinaryEntropy())
    y = soft(u, temperature=0.5)

After Paulus, Choi, Tarlow, Krause, Maddison, "Gradient Estimation with Stochastic Softmax Tricks" (NeurIPS 2020).
"""

from sst_cvx import plot
from sst_cvx.checks import Check, CheckFailed, Report, check, checks
from sst_cvx.errors import EmptySet, SolveError
from sst_cvx.faults import synchronize
from sst_cvx.host import guard
from sst_cvx.learning.estimators import ImplicitMLE, PerturbedOptimizer, Relaxed, ScoreFunction, StraightThrough
from sst_cvx.learning.exponential_family import ExponentialFamily
from sst_cvx.learning.fenchel_young import FenchelYoungLoss
from sst_cvx.learning.noise import Logistic, NegativeExponential
from sst_cvx.learning.schedules import CosineSchedule, ExponentialSchedule, LinearSchedule
from sst_cvx.learning.tricks import StochasticArgmax, StochasticSoftmax
from sst_cvx.paths.failure import SolveInfo
from sst_cvx.paths.fast import lists as _lists  # noqa: F401 - it registers itself
from sst_cvx.paths.fast.registry import fast_path
from sst_cvx.regularizers import (
    BinaryEntropy,
    CategoricalEntropy,
    Euclidean,
    ExponentialFamilyEntropy,
    Regularizer,
    SeparableRegularizer,
    TsallisEntropy,
)
from sst_cvx.soft_argmax import SoftArgmax
from sst_cvx.structure import by_argmax as _by_argmax  # noqa: F401
from sst_cvx.structure import derived as _derived  # noqa: F401
from sst_cvx.structure.base import Structure
from sst_cvx.structure.intersection import Intersection
from sst_cvx.structure.masks import length_mask
from sst_cvx.structure.product import Product

__version__ = "0.1.0"

__all__ = [
    "BinaryEntropy",
    "CategoricalEntropy",
    "Check",
    "CheckFailed",
    "CosineSchedule",
    "EmptySet",
    "Euclidean",
    "ExponentialFamily",
    "ExponentialFamilyEntropy",
    "ExponentialSchedule",
    "FenchelYoungLoss",
    "ImplicitMLE",
    "Intersection",
    "LinearSchedule",
    "Logistic",
    "NegativeExponential",
    "PerturbedOptimizer",
    "Product",
    "Regularizer",
    "Relaxed",
    "Report",
    "ScoreFunction",
    "SeparableRegularizer",
    "SoftArgmax",
    "SolveError",
    "SolveInfo",
    "StochasticArgmax",
    "StochasticSoftmax",
    "StraightThrough",
    "Structure",
    "TsallisEntropy",
    "check",
    "checks",
    "fast_path",
    "guard",
    "length_mask",
    "plot",
    "synchronize",
]
