"""The quick LoRA product and SwiGLU: the same numbers and gradients as the plain ones, the base unmoved."""

from __future__ import annotations

import torch
from torch import nn

from training.fast_lora import LoraProduct, SwiGlu


def test_product_and_gradients_equal_the_plain_ones() -> None:
    torch.manual_seed(0)
    weight = torch.randn(24, 16, dtype=torch.float64)
    plain = [torch.randn(*size, dtype=torch.float64, requires_grad=True) for size in ((10, 16), (4, 16), (24, 4))]
    quick = [tensor.detach().clone().requires_grad_() for tensor in plain]
    pull = torch.randn(10, 24, dtype=torch.float64)
    x, down, up = plain
    expected = x @ weight.t() + 0.5 * (x @ down.t()) @ up.t()
    got = LoraProduct.apply(quick[0], weight, quick[1], quick[2], 0.5)
    torch.testing.assert_close(got, expected)
    expected.backward(pull)
    got.backward(pull)
    for one, other in zip(quick, plain, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_wide_adapters_on_a_narrow_base_get_wide_gradients() -> None:
    x = torch.randn(10, 16, dtype=torch.bfloat16, requires_grad=True)
    down, up = torch.randn(4, 16, requires_grad=True), torch.randn(24, 4, requires_grad=True)
    result = LoraProduct.apply(x, torch.randn(24, 16, dtype=torch.bfloat16), down, up, 2.0)
    result.sum().backward()
    assert result.dtype is torch.bfloat16 and x.grad is not None and x.grad.dtype is torch.bfloat16
    assert down.grad is not None and up.grad is not None
    assert down.grad.dtype is up.grad.dtype is torch.float32


def test_swiglu_and_its_gradients_equal_the_plain_ones() -> None:
    torch.manual_seed(0)
    plain = [torch.randn(6, 8, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    quick = [tensor.detach().clone().requires_grad_() for tensor in plain]
    expected = nn.functional.silu(plain[0]) * plain[1]
    got = SwiGlu.apply(*quick)
    torch.testing.assert_close(got, expected)
    pull = torch.randn(6, 8, dtype=torch.float64)
    expected.backward(pull)
    got.backward(pull)
    for one, other in zip(quick, plain, strict=True):
        torch.testing.assert_close(one.grad, other.grad)
