"""LoRA on a dense linear layer as one autograd function: what makes training on a CPU affordable.

Same mathematics as PEFT's layer, y = x W' + s (x A') B', with fewer passes over memory: the low-rank part is added into
the product in place, the frozen weight gets no gradient, and only x and x A' (rank columns) are kept for the way back.
LoRA: Hu et al. 2021, arXiv:2106.09685.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class LoraProduct(torch.autograd.Function):  # type: ignore[misc]
    """x (N, in), frozen weight (out, in), A (rank, in), B (out, rank) -> (N, out)."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, down: torch.Tensor, up: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Return x W' + scale (x A') B' in the dtype of x; A and B may be of a wider dtype."""
        narrow_down, narrow_up = down.to(x.dtype), up.to(x.dtype)
        low = x @ narrow_down.t()
        result = x @ weight.t()
        result.addmm_(low, narrow_up.t(), alpha=scale)
        ctx.save_for_backward(x, low, weight, narrow_down, narrow_up)
        ctx.scale = scale
        ctx.wide = down.dtype
        return result

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of x, A and B; the frozen weight and the scale have none."""
        x, low, weight, down, up = ctx.saved_tensors
        grad = grads[0]
        grad_low = (grad @ up).mul_(ctx.scale)
        grad_up = (grad.t() @ low).mul_(ctx.scale).to(ctx.wide)
        grad_down = (grad_low.t() @ x).to(ctx.wide)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ weight
            grad_x.addmm_(grad_low, down)
        return grad_x, None, grad_down, grad_up, None


class SwiGlu(torch.autograd.Function):  # type: ignore[misc]
    """silu(gate) * up, keeping gate and up alone for the way back."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """Return silu(gate) * up."""
        ctx.save_for_backward(gate, up)
        return nn.functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the gradients of gate and up."""
        gate, up = ctx.saved_tensors
        grad = grads[0]
        grad_up = nn.functional.silu(gate).mul_(grad)
        grad_gate = torch.ops.aten.silu_backward(grad * up, gate)
        return grad_gate, grad_up
