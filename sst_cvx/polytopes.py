"""The library of structures under the engine's name: ``sst_cvx.polytopes`` is ``polytopes``."""

import importlib
import sys

sys.modules[__name__] = importlib.import_module("polytopes")
