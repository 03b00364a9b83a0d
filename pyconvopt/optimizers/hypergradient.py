"""Hypergradient descent: the learning rate itself is trained by gradient descent.

A step is w_t = w_{t-1} − α · d_{t-1}, so ∂f(w_t)/∂α = −g_t · d_{t-1}: the gradient now, times the
direction of the step before. While the two agree the rate rises, when they disagree it falls:
α ← α + β · Σ g_t · d_{t-1}, then the inner optimiser steps with the new α.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from pyconvopt.optimizers.closures import loss_of
from pyconvopt.optimizers.wrappers import Wrapper


class HypergradientDescent(Wrapper):
    """Around SGD, Adam or AdamW; each group has a rate of its own, never below 0.

    The rates are in `param_groups`, as everywhere; a `schedule` would overwrite them.

    Args: params, base ('sgd'), hypergrad_lr (1e-3: β; for Adam the paper takes 1e-7), settings of
    the inner optimiser, whose lr is the first α.

    Errors: TypeError for another inner optimiser, ValueError for a negative hypergrad_lr.

    >>> w = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = HypergradientDescent([w], "sgd", hypergrad_lr=0.01, lr=0.1)
    >>> for _ in range(2):
    ...     w.grad = torch.tensor([2.0])
    ...     optimizer.step()
    >>> round(optimizer.param_groups[0]["lr"], 6)  # 0.1 + 0.01 · 2 · 2
    0.14

    Source: Baydin, Cornish, Rubio, Schmidt and Wood 2018, arXiv:1703.04782.
    """

    def __init__(
        self, params: Any, base: Any = "sgd", hypergrad_lr: float = 1e-3, **settings: Any
    ) -> None:
        if not hypergrad_lr >= 0:
            raise ValueError(f"hypergrad_lr must be 0 or more, got {hypergrad_lr}")
        super().__init__(params, base, **settings)
        if not isinstance(self.base, (torch.optim.SGD, torch.optim.Adam)):
            raise TypeError(
                "hypergradient descent knows the steps of SGD, Adam and AdamW, got "
                f"{type(self.base).__name__}"
            )
        self.hypergrad_lr = hypergrad_lr

    @override
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """The rates' step, then the weights'; with a closure, the loss that it returns."""
        loss = loss_of(closure)
        gradients = {}
        known = "previous_gradient" if isinstance(self.base, torch.optim.SGD) else "exp_avg"
        for group in self.param_groups:
            agreement = 0.0
            for p in group["params"]:
                if p.grad is None:
                    continue
                gradients[p] = gradient = whole_gradient(p, group)
                if known in self.state.get(p, {}):  # a state may be that of the inner kind alone
                    agreement += float((gradient * self.direction(p, group)).sum())
            group["lr"] = max(float(group["lr"]) + self.hypergrad_lr * agreement, 0.0)
        self.base.step()
        if isinstance(self.base, torch.optim.SGD):
            for p, gradient in gradients.items():
                self.state[p]["previous_gradient"] = gradient
        return loss

    def direction(self, p: Tensor, group: dict[str, Any]) -> Tensor:
        """d of the step before: that step was w ← w − lr · d."""
        state = self.state[p]
        if isinstance(self.base, torch.optim.SGD):
            gradient, momentum = state["previous_gradient"], group["momentum"]
            velocity = state.get("momentum_buffer")
            if momentum == 0 or velocity is None:
                return gradient
            return gradient.add(velocity, alpha=momentum) if group["nesterov"] else velocity
        (beta1, beta2), count = group["betas"], float(state["step"])
        square = state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"]
        spread = (square / (1 - beta2**count)).sqrt_().add_(group["eps"])
        step = (state["exp_avg"] / (1 - beta1**count)).div_(spread)
        if group["decoupled_weight_decay"]:
            # The decay was taken off the weight before that step, which is worked out from p.
            rate, decay = float(group["lr"]), group["weight_decay"]
            step += decay * (p + rate * step) / (1 - rate * decay)
        return step


def whole_gradient(p: Tensor, group: dict[str, Any]) -> Tensor:
    """The gradient of what is minimised, a coupled weight decay included; a tensor of its own."""
    assert p.grad is not None
    gradient = -p.grad if group["maximize"] else p.grad.clone()
    if not group.get("decoupled_weight_decay"):
        gradient.add_(p, alpha=group["weight_decay"])
    return gradient
