"""The compiled interior point against its tensor twin: points, gradients, steps; and what it gives up."""

from unittest import mock

import cvxpy as cp
import pytest
import torch

import sst_cvx as sst
from sst_cvx import native
from sst_cvx.paths.interior_point import polytope
from tests.hulls import k_subset, pairs
from tests.paths.interior_point.table import HULLS as ALL
from tests.paths.interior_point.table import REGULARIZERS, absolute_ball, draw

pytest.importorskip("numba")


@pytest.fixture(autouse=True)
def _compiles():
    with native.patiently():
        yield


HULLS = {name: make for name, make in ALL.items() if name not in ("Martin, sparse", "random")}


def both(soft, u, v, t, **parameters):
    """Points, gradients by u and the parameters, and steps: by loops and by tensors."""
    found = []
    for on in (True, False):
        inputs = [u.clone().requires_grad_(), *(p.clone().requires_grad_() for p in parameters.values())]
        with native.switched(on):
            x, info = soft(inputs[0], t, return_info=True, **dict(zip(parameters, inputs[1:], strict=True)))
            found.append((x.detach(), *torch.autograd.grad((x * v).sum(), inputs), info.iterations))
    return found


@pytest.fixture
def never_tensors():
    """The loops answer alone."""
    with mock.patch.object(polytope, "_by_tensors", side_effect=AssertionError("went to the tensor code")):
        yield


class TestTwins:
    @pytest.mark.parametrize("t", [1.0, 0.1, 0.01])
    @pytest.mark.parametrize("f", REGULARIZERS, ids=repr)
    @pytest.mark.parametrize("hull", HULLS)
    def test_points_gradients_steps(self, hull, f, t):
        structure = HULLS[hull]()
        u, v = draw(structure, 2, 5, seed=3)
        (x, g, steps), (y, h, others) = both(sst.SoftArgmax(structure, f, path="interior_point"), u, v, t)
        assert float((x - y).abs().max()) < 1e-9
        assert t * float((g - h).abs().max()) < 1e-8
        assert bool((steps >= others).all())  # more where the tensor code came after

    @pytest.mark.parametrize("scale", [1e-6, 1e6])
    def test_scales(self, scale):
        u, v = draw(pairs(12, 4), 2, 5)
        (x, g, _), (y, h, _) = both(sst.SoftArgmax(pairs(12, 4), sst.Euclidean()), scale * u, v, scale)
        assert float((x - y).abs().max()) < 1e-9
        assert scale * float((g - h).abs().max()) < 1e-9

    def test_ties(self):
        u = torch.zeros(2, 12, dtype=torch.float64)
        (x, *_), (y, *_) = both(sst.SoftArgmax(pairs(12, 4), sst.Euclidean()), u, torch.ones_like(u), 0.1)
        assert float((x - y).abs().max()) < 1e-12
        assert float((x - 1 / 3).abs().max()) < 1e-12

    def test_no_fixed_sum_and_auxiliary_columns(self):
        u, v = draw(absolute_ball(), 2, 8)
        (x, g, _), (y, h, _) = both(sst.SoftArgmax(absolute_ball(), sst.Euclidean()), u, v, 0.3)
        assert float((x - y).abs().max()) < 1e-9
        assert float((g - h).abs().max()) < 1e-8

    def test_weights(self):
        f = sst.TsallisEntropy(1.5, weights=torch.rand(12).double() + 0.5)
        u, v = draw(pairs(12, 4), 2, 5)
        (x, g, _), (y, h, _) = both(sst.SoftArgmax(pairs(12, 4), f), u, v, 0.3)
        assert float((x - y).abs().max()) < 1e-9
        assert float((g - h).abs().max()) < 1e-8

    @pytest.mark.parametrize("f", REGULARIZERS, ids=repr)
    def test_parameters_of_right_sides_and_of_rows(self, f):
        x, b, a = cp.Variable(6), cp.Parameter(name="b"), cp.Parameter(6, name="a")
        u, v = draw(k_subset(6, 2), 2, 4)
        values = {"b": torch.tensor([1.5, 2.0, 2.0, 2.5], dtype=torch.float64)}
        moved = sst.Structure(x, [x >= 0, x <= 1, cp.sum(x) == 2, x[0] + x[1] <= b / 2], parameters=[b])
        varied = sst.Structure(x, [x >= 0, x <= 1, cp.sum(x) == 2, a @ x <= b], parameters=[a, b])
        for structure in (moved, varied):
            more = {"a": torch.rand(4, 6, dtype=torch.float64)} if structure is varied else {}
            loops, tensors = both(sst.SoftArgmax(structure, f, path="interior_point"), u, v, 0.4, **more, **values)
            for part, other in zip(loops[:-1], tensors[:-1], strict=True):
                assert float((part - other).abs().max()) < 1e-7


@pytest.mark.usefixtures("never_tensors")
class TestAlone:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_dtypes_shapes_and_empty_batches(self, dtype):
        soft = sst.SoftArgmax(pairs(6, 2), sst.Euclidean())
        for shape in ((), (0,), (2, 3)):
            u = torch.randn(*shape, 6, dtype=dtype, requires_grad=True)
            x = soft(u, 0.5)
            assert x.shape == u.shape
            assert x.dtype == dtype
            (g,) = torch.autograd.grad(x.sum(), u)
            assert g.dtype == dtype
            assert float(g.abs().sum()) < 1e-5  # the sum is fixed

    def test_twice_and_forward(self):
        soft = sst.SoftArgmax(pairs(6, 2), sst.TsallisEntropy(1.5))
        u = draw(pairs(6, 2), 1, 2)[0].requires_grad_()
        assert torch.autograd.gradcheck(lambda u: soft(u, 0.8), u, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(lambda u: soft(u, 0.8), u)


class TestGivenUp:
    def test_empty_hulls_are_told(self):
        x, b = cp.Variable(4), cp.Parameter(name="b")
        soft = sst.SoftArgmax(sst.Structure(x, [x >= 0, x <= 1, cp.sum(x) == b], parameters=[b]), sst.Euclidean())
        u = torch.randn(3, 4, dtype=torch.float64)
        b = torch.tensor([2.0, 7.0, 1.0], dtype=torch.float64)
        with pytest.raises(sst.SolveError) as caught:
            soft(u, 0.5, b=b)
        assert caught.value.elements == ((1,),)
        x = soft(u, 0.5, b=b, on_failure="nan")
        assert bool(x[1].isnan().all())
        assert float((x[[0, 2]].sum(1) - b[[0, 2]]).abs().max()) < 1e-12

    def test_own_regularizers_go_to_the_tensor_code(self):
        class Quartic(sst.SeparableRegularizer):
            def terms(self, variable):
                return cp.square(variable) / 2 + cp.power(variable, 4) / 4

            def elementwise(self, x):
                return x**2 / 2 + x**4 / 4

        soft = sst.SoftArgmax(pairs(6, 2), Quartic())
        assert soft._path.polytope._model(torch.device("cpu")).tables(1) is None  # pyright: ignore
