"""Strongly convex regularizers f, one a file: each is a CVXPY expression and a torch function.

``admission`` says what any f must satisfy on a structure before a soft argmax is made of it.
"""

from sst_cvx.regularizers.base import Regularizer, SeparableRegularizer
from sst_cvx.regularizers.binary import BinaryEntropy
from sst_cvx.regularizers.categorical import CategoricalEntropy
from sst_cvx.regularizers.euclidean import Euclidean
from sst_cvx.regularizers.exponential_family import ExponentialFamilyEntropy
from sst_cvx.regularizers.tsallis import TsallisEntropy

__all__ = [
    "BinaryEntropy",
    "CategoricalEntropy",
    "Euclidean",
    "ExponentialFamilyEntropy",
    "Regularizer",
    "SeparableRegularizer",
    "TsallisEntropy",
]
