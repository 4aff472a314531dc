"""Autograd functions that skip ``apply``: the same answers and derivatives of every kind, by whatever way."""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch
from torch.autograd import forward_ad

from sst_cvx.autodiff import Function


class Cube(Function):
    """x^3, and x as a constant beside it."""

    @staticmethod
    def forward(x: torch.Tensor, sign: int) -> tuple[torch.Tensor, torch.Tensor]:
        return sign * x * x * x, x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.sign = inputs[1]
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, _: Any) -> tuple:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return 3 * ctx.sign * x * x * grad, None

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, _: Any) -> tuple:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return 3 * ctx.sign * x * x * tangent, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, x: torch.Tensor, sign: int) -> tuple:
        return Cube.apply(x.movedim(in_dims[0], 0), sign), (0, 0)


def cube(x: torch.Tensor) -> torch.Tensor:
    return Cube.apply(x, 2)[0]


def test_derivatives_of_the_first_and_second_order():
    x = torch.randn(4, dtype=torch.float64, requires_grad=True)
    value, constant = Cube.apply(x, 2)
    assert not constant.requires_grad
    torch.testing.assert_close(value, 2 * x**3)
    torch.autograd.gradcheck(cube, x)
    torch.autograd.gradgradcheck(cube, x)


def test_forward_mode_inside_and_outside_of_torch_func():
    x, d = torch.randn(2, 4, dtype=torch.float64)
    expected = 6 * x**2 * d
    torch.testing.assert_close(torch.func.jvp(cube, (x,), (d,))[1], expected)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(cube(forward_ad.make_dual(x, d))).tangent
    torch.testing.assert_close(tangent, expected)


def test_transforms():
    x = torch.randn(3, 4, dtype=torch.float64)
    torch.testing.assert_close(torch.func.vmap(cube)(x), cube(x))
    torch.testing.assert_close(torch.func.grad(lambda y: cube(y).sum())(x), 6 * x**2)


def test_no_derivative_no_function():
    x = torch.randn(4, requires_grad=True)
    with mock.patch.object(Cube._eager, "apply", side_effect=AssertionError), mock.patch("inspect.signature") as bound:
        with torch.no_grad():
            cube(x)
        cube(x.detach())
        with torch.inference_mode():
            cube(x)
    bound.assert_not_called()
    assert cube(x).requires_grad
