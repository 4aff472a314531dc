"""Fixtures of the interior-point path."""

from __future__ import annotations

from unittest import mock

import pytest

from sst_cvx.paths.interior_point.path import InteriorPointPath
from tests.paths.interior_point.table import HULLS


@pytest.fixture(params=HULLS)
def hull(request):
    return HULLS[request.param]()


@pytest.fixture
def never_the_layer():
    with mock.patch.object(InteriorPointPath, "_hand_over", side_effect=AssertionError("went to the layer")):
        yield
