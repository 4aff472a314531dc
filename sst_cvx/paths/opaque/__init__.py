"""Paths that ask the host, where it must not be asked: as operators, or element by element."""

from sst_cvx.paths.opaque import rules as rules
from sst_cvx.paths.opaque.functions import answer as answer
from sst_cvx.paths.opaque.functions import flat_mask as flat_mask
from sst_cvx.paths.opaque.functions import is_needed as is_needed
from sst_cvx.paths.opaque.operators import register as register
from sst_cvx.paths.opaque.patience import patiently as patiently
