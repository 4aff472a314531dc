"""on_failure: what becomes of one element that cannot be answered, and that the others never notice."""

import cvxpy as cp
import numpy as np
import pytest
import torch

import polytopes
import sst_cvx as sst
from polytopes.kernels.threshold import threshold_map
from sst_cvx.paths.fast.registry import _REGISTRY

FEASIBLE, CONTRADICTING = [0.9, 0.8, 0.7, 0.6], [0.3, 0.3, 0.3, 0.3]


@pytest.fixture(autouse=True)
def _no_error_follows():
    yield
    sst.synchronize()


def capped() -> sst.Structure:
    x, caps = cp.Variable(4), cp.Parameter(4, nonneg=True, name="caps")
    return sst.Structure(x, [x >= 0, x <= caps, cp.sum(x) == 2])


SOFT = [
    sst.SoftArgmax(capped(), sst.Euclidean()),
    sst.SoftArgmax(capped(), sst.BinaryEntropy()),
    sst.SoftArgmax(capped(), sst.Euclidean(), path="layer"),
]
IDS = ["interior_point", "binary", "layer"]


def asked(shape=(3,), wrong=(1,), dtype=torch.float64):
    """Utilities and caps of which some elements contradict."""
    u, caps = torch.randn(*shape, 4, dtype=dtype), torch.tensor(FEASIBLE).expand(*shape, 4).clone()
    caps.reshape(-1, 4)[list(wrong)] = torch.tensor(CONTRADICTING)
    return u.requires_grad_(), caps.to(dtype).requires_grad_()


@pytest.mark.parametrize("soft", [SOFT[0], pytest.param(SOFT[1], marks=pytest.mark.slow), SOFT[2]], ids=IDS)
def test_nan_leaves_others_untouched(soft):
    u, caps = asked()
    with pytest.raises(sst.SolveError, match="batch element 1"):
        soft(u, 0.5, caps=caps)
    x = soft(u, 0.5, caps=caps, on_failure="nan")
    weights = torch.randn_like(x)
    (x * weights).sum().backward()
    alone = [part.detach()[[0, 2]].requires_grad_() for part in (u, caps)]
    y = soft(alone[0], 0.5, caps=alone[1])
    (y * weights[[0, 2]]).sum().backward()
    assert torch.equal(x[[0, 2]], y)
    assert x[1].isnan().all()
    for part, own in zip((u, caps), alone, strict=True):
        assert torch.equal(part.grad[[0, 2]], own.grad)
        assert part.grad[1].isnan().all()


def test_a_loss_that_leaves_failures_out_has_a_gradient():
    u, caps = asked()
    t = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    x, info = SOFT[0](u, t, caps=caps, on_failure="nan", return_info=True)
    x[info.converged].square().sum().backward()
    alone, s = u.detach()[[0, 2]].requires_grad_(), t.detach().clone().requires_grad_()
    SOFT[0](alone, s, caps=caps[[0, 2]]).square().sum().backward()
    assert torch.equal(u.grad[[0, 2]], alone.grad)
    assert torch.equal(u.grad[1], torch.zeros(4, dtype=torch.float64))
    assert torch.equal(t.grad, s.grad)


@pytest.mark.parametrize(("shape", "wrong"), [((), (0,)), ((2, 3), (1, 4)), ((0,), ()), ((3,), (0, 1, 2)), ((3,), ())])
def test_batch_shapes(shape, wrong):
    u, caps = asked(shape, wrong, torch.float32)
    x, info = SOFT[0](u, caps=caps, on_failure="nan", return_info=True)
    assert x.shape == u.shape
    assert x.dtype == torch.float32
    failed = torch.zeros(u.shape[:-1], dtype=torch.bool).reshape(-1)
    failed[list(wrong)] = True
    assert torch.equal(x.isnan().all(-1).reshape(-1), failed)
    assert torch.equal(~info.converged.reshape(-1), failed)
    assert info.status.shape == tuple(shape) == tuple(info.gap.shape) == tuple(info.violation.shape)
    assert all((name == "infeasible") == bad for name, bad in zip(info.status.ravel(), failed, strict=True))
    assert torch.equal(info.gap.isnan().reshape(-1), failed)
    assert (info.gap.nan_to_num() <= 1e-5).all()


class TwoOfFive(sst.Structure):
    def __init__(self):
        x = cp.Variable(5)
        super().__init__(x, [x >= 0, x <= 1, cp.sum(x) == 2])


@pytest.fixture(params=["outside", "unnamed"])
def planted(request):
    """A fast path that fails where the first utility is positive, whether or not it says for which elements."""

    @sst.fast_path(TwoOfFive, sst.Euclidean)
    def wrong(structure, regularizer, u):
        if request.param == "unnamed" and bool((u[..., 0] > 0).any()):
            raise sst.SolveError("planted.")
        right = threshold_map(u, 2, regularizer)
        return torch.where(u[..., :1] > 0, 2 * right, right)

    yield sst.SoftArgmax(TwoOfFive(), sst.Euclidean())
    del _REGISTRY[TwoOfFive, sst.Euclidean]


def test_a_planted_path(planted):
    u = torch.randn(4, 5)
    u[:, 0] = torch.tensor([-1.0, 1.0, -1.0, 1.0])
    u.requires_grad_()
    x, info = planted(u, on_failure="nan", return_info=True)
    x.nan_to_num().sum().backward()
    assert torch.equal(x[[0, 2]], planted(u[[0, 2]]))
    assert x[[1, 3]].isnan().all()
    assert u.grad.isfinite().all()
    assert info.status.tolist() == ["solved", "failed", "solved", "failed"]
    assert info.reason[1]
    assert not info.reason[0]
    with pytest.raises(sst.SolveError):
        planted(u, on_failure="closest")


@pytest.mark.parametrize("planted", ["outside"], indirect=True)
def test_a_planted_path_under_torch_func(planted):
    u = torch.randn(3, 5, dtype=torch.float64)
    u[:, 0] = torch.tensor([-1.0, 1.0, -1.0])

    def answer(v):
        return planted(v, on_failure="nan")

    jacobian = torch.func.jacrev(answer)(u)
    assert jacobian[1, :, 1].isnan().all()
    torch.testing.assert_close(jacobian[0, :, 0], torch.func.jacrev(planted)(u[0]))
    _, moved = torch.func.jvp(answer, (u,), (torch.ones_like(u),))
    assert moved[1].isnan().all()
    assert moved[[0, 2]].isfinite().all()


@pytest.mark.parametrize("structure", [polytopes.KSubset(5, 2), TwoOfFive()], ids=["fast", "interior_point"])
def test_masks_that_leave_nothing(structure):
    soft, u = sst.SoftArgmax(structure, sst.BinaryEntropy()), torch.randn(3, 5, dtype=torch.float64)
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[1, 1:] = False
    mask[2, 3:] = False
    x, info = soft(u, mask=mask, on_failure="nan", return_info=True)
    assert info.status.tolist() == ["solved", "empty", "solved"]
    assert x[1].isnan().all()
    assert torch.equal(x[[0, 2]], soft(u[[0, 2]], mask=mask[[0, 2]]))
    assert info.gap[[0, 2]].abs().max() < 1e-8
    assert info.violation[[0, 2]].max() < 1e-8
    with pytest.raises(sst.SolveError, match="allow more items"):
        soft(u, mask=mask, on_failure="closest")


@pytest.mark.parametrize("on_failure", ["raise", "nan", "closest"])
def test_argument_errors_are_raised_in_every_mode(on_failure):
    soft, (u, caps) = SOFT[0], asked()
    for utilities, t in ((u * torch.nan, 1.0), (u[..., :3], 1.0), (u, torch.nan), (u, -1.0)):
        with pytest.raises(ValueError):
            soft(utilities, t, caps=caps, on_failure=on_failure)
    with pytest.raises(ValueError, match="finite"):
        soft(u, caps=caps * torch.inf, on_failure=on_failure)
    with pytest.raises(TypeError, match="missing"):
        soft(u, on_failure=on_failure)


def test_a_wrong_mode_is_named():
    u, caps = asked()
    with pytest.raises(ValueError, match="on_failure must be one of"):
        SOFT[0](u, caps=caps, on_failure="ignore")
    with pytest.raises(TypeError, match="return_info"):
        SOFT[0](u, caps=caps, return_info=1)


def test_names_are_reserved():
    for name in ("on_failure", "return_info"):
        x, p = cp.Variable(3), cp.Parameter(nonneg=True, name=name)
        with pytest.raises(ValueError, match=name):
            sst.Structure(x, [x >= 0, x <= 1, cp.sum(x) <= p])


def test_where_the_host_is_not_asked():
    soft, (u, caps) = SOFT[0], asked()
    at_once = soft(u, caps=caps, on_failure="nan")
    with sst.guard("nan"):
        x = soft(u, caps=caps, on_failure="nan")
        x.sum().backward()
        sst.synchronize()  # no error follows
        with pytest.raises(NotImplementedError, match="guard"):
            soft(u, caps=caps, on_failure="closest")
        with pytest.raises(NotImplementedError, match="return_info"):
            soft(u, caps=caps, return_info=True)
    torch.testing.assert_close(x, at_once, equal_nan=True, rtol=0, atol=1e-12)
    assert u.grad[1].isnan().all()
    assert u.grad[[0, 2]].isfinite().all()

    def loss(v):
        return soft(v, caps=caps.detach(), on_failure="nan").square().sum()

    mapped = torch.func.vmap(lambda v, c: soft(v, caps=c, on_failure="nan"))(u.detach(), caps.detach())
    torch.testing.assert_close(mapped, at_once, equal_nan=True, rtol=0, atol=1e-12)
    assert torch.func.grad(loss)(u.detach())[1].isnan().all()
    compiled = torch.compile(lambda v: soft(v, caps=caps.detach(), on_failure="nan"), backend="eager")(u.detach())
    torch.testing.assert_close(compiled, at_once, equal_nan=True, rtol=0, atol=1e-12)


def test_a_failing_backward_is_nan():
    """By a cotangent that is not finite: told by NaN, not by an error."""
    soft = sst.SoftArgmax(TwoOfFive(), sst.BinaryEntropy())
    u = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    v = torch.ones(3, 5, dtype=torch.float64)
    v[1, 0] = torch.inf
    with pytest.raises(sst.SolveError, match="batch element 1"):
        soft(u).backward(v)
    u.grad = None
    soft(u, on_failure="nan").backward(v)
    assert u.grad[1].isnan().all()
    assert u.grad[[0, 2]].isfinite().all()


# -- the closest feasible problem ----------------------------------------------------------------------------------


def lifted() -> tuple[sst.Structure, list]:
    """Caps, a norm and an auxiliary variable: what contradicts are the caps, the budget and the demand."""
    x, y, caps, budget = cp.Variable((2, 3)), cp.Variable(3), cp.Parameter((2, 3), name="caps"), cp.Parameter(name="b")
    constraints = [x >= 0, x <= caps, cp.sum(x, axis=0) == y, cp.sum(y) <= budget, cp.norm1(x[0]) <= 1, x[1, 0] >= 0.5]
    return sst.Structure(x, constraints), [x, y, caps, budget]


def least_violation(structure: sst.Structure, values: list, low: float) -> tuple[float, list[np.ndarray]]:
    shifts = [cp.Variable(c.shape) for c in structure.constraints]
    relaxed = [
        c.args[0] - c.args[1] == s if isinstance(c, cp.constraints.Equality) else c.args[0] - c.args[1] <= s
        for c, s in zip(structure.constraints, shifts, strict=True)
    ]
    for p, v in zip(structure.parameters, values, strict=True):
        p.value = v
    if np.isfinite(low):
        relaxed.append(structure.variable >= low)
    problem = cp.Problem(cp.Minimize(sum(cp.sum_squares(s) for s in shifts)), relaxed)
    problem.solve(solver="CLARABEL", tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
    return float(problem.value) ** 0.5, [s.value for s in shifts]


@pytest.mark.parametrize("regularizer", [sst.Euclidean(), sst.CategoricalEntropy()], ids=repr)
def test_closest_relaxes_by_the_least_squares(regularizer):
    structure, (_, _, _caps, _budget) = lifted()
    soft = sst.SoftArgmax(structure, regularizer)
    c = torch.tensor([[[1.0, 1, 1], [1, 1, 1]], [[0.4, -0.1, 0.7], [0.2, 0.6, 0.3]]], dtype=torch.float64)
    b = torch.tensor([2.0, 0.3], dtype=torch.float64)
    u = torch.randn(2, 2, 3, dtype=torch.float64)
    x, info = soft(u, 0.5, caps=c, b=b, on_failure="closest", return_info=True)
    assert info.status.tolist() == ["solved", "closest"]
    assert info.converged.all()
    assert torch.equal(x[:1], soft(u[:1], 0.5, caps=c[:1], b=b[:1]))
    low = regularizer.domain[0]
    ordered = {"caps": c[1].numpy(), "b": b[1].numpy()}
    least, shifts = least_violation(structure, [ordered[p.name()] for p in structure.parameters], low)
    assert abs(info.violation[1] - least) < 1e-6
    assert info.violation[0] < 1e-8
    assert least > 0.1
    f, event = regularizer.expression(structure.variable), structure.variable
    relaxed = [
        cp.abs(k.args[0] - k.args[1] - s) <= 1e-7
        if isinstance(k, cp.constraints.Equality)
        else k.args[0] - k.args[1] <= s + 1e-7
        for k, s in zip(structure.constraints, shifts, strict=True)
    ]
    cp.Problem(cp.Maximize(cp.sum(cp.multiply(u[1].numpy(), event)) - 0.5 * f), relaxed).solve(solver="CLARABEL")
    assert np.abs(x[1].numpy() - event.value).max() < 1e-4  # entropies near 0 feel the 1e-7
    assert info.gap[1].abs() < 1e-6


def halves() -> sst.SoftArgmax:
    """x_0 + x_1 cannot reach what is asked; x_2 .. x_4 are free on a simplex."""
    x, asked = cp.Variable(5), cp.Parameter(name="asked")
    return sst.SoftArgmax(
        sst.Structure(x, [x >= 0, x <= 1, x[0] + x[1] == asked, cp.sum(x[2:]) == 1]), sst.BinaryEntropy()
    )


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("regularizer", [sst.Euclidean(), sst.CategoricalEntropy(), sst.TsallisEntropy(1.5)], ids=repr)
def test_closest_may_be_a_single_point(regularizer):
    """Where all bounds of the variable hold at once there is no interior, and no center to start from."""
    x, need = cp.Variable(2, bounds=[0, 1]), cp.Parameter(nonneg=True, name="need")
    soft = sst.SoftArgmax(sst.Structure(x, [cp.sum(x) == need]), regularizer)
    u = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    x = soft(u, need=torch.tensor([1.0, 3.0], dtype=torch.float64), on_failure="closest")
    assert torch.allclose(x[0], soft(u[:1], need=torch.tensor(1.0, dtype=torch.float64)))
    assert torch.allclose(x[1], torch.ones(2, dtype=torch.float64), atol=1e-9)


def test_closest_is_differentiable_in_u_and_t():
    soft = halves()
    u = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.5, 0.7], dtype=torch.float64, requires_grad=True)
    asked = torch.tensor([1.0, -0.6], dtype=torch.float64)

    x = soft(u, t, asked=asked, on_failure="closest")
    torch.testing.assert_close(x[1, :2], torch.zeros(2, dtype=torch.float64), atol=1e-8, rtol=0)
    free = sst.SoftArgmax(polytopes.KSubset(3, 1), sst.BinaryEntropy())
    v, s = (part.detach()[1:].requires_grad_() for part in (u, t))
    y = free(v[:, 2:], s)
    torch.testing.assert_close(x[1:, 2:], y, atol=1e-8, rtol=0)
    w = torch.randn(3, dtype=torch.float64)
    found = torch.autograd.grad(x[1, 2:] @ w, (u, t))
    right = torch.autograd.grad(y[0] @ w, (v, s))
    for a, b in zip(found, right, strict=True):
        torch.testing.assert_close(a[1:], b, atol=1e-7, rtol=1e-7)
        assert not a[0].any()


def test_closest_refuses_gradients_by_parameters():
    soft, u = halves(), torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    asked = torch.tensor([1.0, -0.6], dtype=torch.float64, requires_grad=True)
    x = soft(u, asked=asked, on_failure="closest")
    with pytest.raises(NotImplementedError, match=r"element \(1,\)"):
        x.square().sum().backward(retain_graph=True)
    x[0].square().sum().backward()
    assert asked.grad.isfinite().all()
    assert asked.grad[0] != 0
    assert asked.grad[1] == 0


def test_closest_needs_linear_constraints():
    x, radius = cp.Variable(3), cp.Parameter(name="radius")
    soft = sst.SoftArgmax(sst.Structure(x, [cp.norm(x) <= radius, x[0] >= 1]), sst.Euclidean())
    u, radius = torch.randn(2, 3, dtype=torch.float64), torch.tensor([2.0, 0.5], dtype=torch.float64)
    with pytest.raises(NotImplementedError, match="linear constraints"):
        soft(u, radius=radius, on_failure="closest")
    x, info = soft(u, radius=radius, on_failure="nan", return_info=True)
    assert info.status.tolist() == ["solved", "infeasible"]
    assert x[1].isnan().all()


def test_parameters_that_multiply_variables():
    x, weight = cp.Variable(3), cp.Parameter(3, nonneg=True, name="weight")
    soft = sst.SoftArgmax(sst.Structure(x, [x >= 0, x <= 1, weight @ x == 2]), sst.Euclidean())
    u, w = torch.randn(2, 3), torch.tensor([[1.0, 1, 1], [0.5, 0.5, 0.5]])
    x, info = soft(u, weight=w, on_failure="closest", return_info=True)
    assert info.status.tolist() == ["solved", "closest"]
    assert x.dtype == torch.float32
    s = 0.5 / (1 + 3 * 0.25)  # min 3 a^2 + s^2 with 0.5 * 3 (1 + a) = 2 - s
    torch.testing.assert_close(x[1], torch.full((3,), 1 + 0.5 * s))
    assert abs(info.violation[1] - (3 * (0.5 * s) ** 2 + s**2) ** 0.5) < 1e-6
