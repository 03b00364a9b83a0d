"""SGD, Adam and AdamW whose step is one pass over all parameters.

`SGD`, `Adam` and `AdamW` are torch's classes of those names: the same arguments, the same
`state_dict` (it loads both ways), the same `param_groups`, so schedulers go on working. Where every
tensor of a group is a dense float32 one on the CPU, or on one GPU, `step` is a single operator that
reads each parameter, gradient and state once; torch's own step does the rest (other dtypes and
devices, sparse gradients, `amsgrad`, `capturable`, `differentiable`, `fused=True`, a tensor as
learning rate).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import is_
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from pyconvopt.optimizers.closures import loss_of
from pyconvopt.optimizers.extras import Extras

from .. import _C, cuda  # noqa: F401  _C registers the operators


@dataclass
class _Plan:
    """What the last step found out about a group; `Fused.current` says whether it still holds."""

    group: dict[str, Any]
    members: list[Tensor]  # all parameters of the group
    parameters: list[Tensor]  # for the fused step
    idle: list[Tensor]  # without a gradient
    rest: list[Tensor]  # for torch's step


class Fused:
    """The step that SGD and Adam share: fused where the tensors allow it, torch's where not."""

    torch_class: type[Optimizer]
    state: Any
    param_groups: list[dict[str, Any]]
    extras: Extras | None = None  # what the next step does beside its rule, and that step alone
    _optimizer_step_pre_hooks: dict[int, Any]
    _optimizer_step_post_hooks: dict[int, Any]

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; with a closure, the loss that it returns."""
        watched = (
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or _global_optimizer_pre_hooks
            or _global_optimizer_post_hooks
            or torch.autograd._profiler_enabled()
        )
        return self.watched_step(closure) if watched else self.plain_step(closure)

    # Torch would wrap `step` in calls of hooks and of the profiler: 20 µs, whether there are any or not.
    step.hooked = True  # type: ignore[attr-defined]

    def plain_step(self, closure: Callable[[], Any] | None = None) -> Any:
        """The step itself."""
        loss = loss_of(closure)
        try:
            self.step_groups()
        finally:
            self.extras = None
        return loss

    def step_groups(self) -> None:
        """The step of each group: by the operator where it can be, the rest by torch's."""
        plans = self.__dict__.setdefault("_plans", {})
        rest: list[Tensor] = []
        with torch.no_grad():
            for index, group in enumerate(self.param_groups):
                plan = plans.get(index)
                if plan is None or not self.current(plan, group) or not self.tried(plan):
                    plan = plans[index] = self.plan(group)
                    if plan.parameters:
                        self.begin(group, plan.parameters)
                        increment_version(plan.parameters)
                rest += plan.rest
        for index in range(len(self.param_groups), len(plans)):  # of groups that are gone
            del plans[index]
        if rest:
            if self.extras is not None:
                self.extras.before(rest)
            self.torch_step(rest)
        if self.extras is not None:
            idle = [p for plan in plans.values() for p in plan.idle]
            self.extras.after(rest + idle)

    watched_step = Optimizer.profile_hook_step(plain_step)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients, or with `set_to_none=False` make them zeros."""
        if not set_to_none or torch.autograd._profiler_enabled():
            super().zero_grad(set_to_none)  # type: ignore[misc]
            return
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    def current(self, plan: _Plan, group: dict[str, Any]) -> bool:
        """Whether a plan holds for this step, as far as can be told without looking at tensors."""
        return (
            plan.group is group
            and len(plan.members) == len(group["params"])
            and all(map(is_, plan.members, group["params"]))
            and not plan.rest
            and self.fusable(group)
            and all(p.grad is None for p in plan.idle)
        )

    def tried(self, plan: _Plan) -> bool:
        """The fused step on last time's tensors; False, and nothing done, if one does not fit."""
        if not plan.parameters:
            return True
        try:
            self.fused(plan.group, plan.parameters)
        except (RuntimeError, TypeError, KeyError):
            return False
        increment_version(plan.parameters)
        return True

    def plan(self, group: dict[str, Any]) -> _Plan:
        """Sorts the parameters of a group, and makes the states that are missing."""
        fused: list[Tensor] = []
        idle: list[Tensor] = []
        rest: list[Tensor] = []
        fusable = self.fusable(group)
        for p in group["params"]:
            if p.grad is None:
                idle.append(p)
            elif (
                fusable
                and _fits(p, p.grad)
                and (not fused or p.device == fused[0].device)
                and self.prepare(p, group)
            ):
                fused.append(p)
            else:
                rest.append(p)
        return _Plan(group, list(group["params"]), fused, idle, rest)

    def beside(self, parameters: list[Tensor]) -> tuple[Any, ...]:
        """The operators' last arguments, what they do beside their rule; none where that is nothing."""
        return () if self.extras is None else (self.extras.scale, self.extras.table(parameters))

    def torch_step(self, parameters: list[Tensor]) -> None:
        """Torch's own step for these parameters: the others' gradients are put aside meanwhile."""
        chosen = {id(p) for p in parameters}
        hidden = [
            (p, p.grad)
            for group in self.param_groups
            for p in group["params"]
            if p.grad is not None and id(p) not in chosen
        ]
        for p, _ in hidden:
            p.grad = None
        step: Any = self.torch_class.step
        if getattr(step, "hooked", False):  # the hooks of this step have been called already
            step = step.__wrapped__
        try:
            step(self)
        finally:
            for p, gradient in hidden:
                p.grad = gradient

    def fusable(self, group: dict[str, Any]) -> bool:
        """Whether the options of a group are those of the fused operator."""
        raise NotImplementedError

    def prepare(self, p: Tensor, group: dict[str, Any]) -> bool:
        """Makes the state of a parameter if it has none; whether the operator takes that state."""
        raise NotImplementedError

    def begin(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        """The first step of a plan, after `prepare`."""
        self.fused(group, parameters)

    def fused(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        """One operator for these parameters. It checks every tensor before it writes to the first.

        States are looked up each time (0.1 µs), as they may be replaced; a missing one is an error.
        """
        raise NotImplementedError


def _same_layout(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and all(
        size == 1 or i == j for size, i, j in zip(a.shape, a.stride(), b.stride(), strict=True)
    )


def _fits(p: Tensor, like: Tensor) -> bool:
    """Whether `p` is a dense float32 tensor on the CPU or a GPU, and `like` one of the same layout."""
    return (
        p.layout == like.layout == torch.strided
        and p.dtype == like.dtype == torch.float32
        and p.device == like.device
        and (p.is_cpu or (p.is_cuda and cuda.ready(p)))
        and (
            p.is_contiguous()
            or (p.dim() == 4 and p.is_contiguous(memory_format=torch.channels_last))
        )
        and _same_layout(p, like)
    )


class SGD(Fused, torch.optim.SGD):
    """Stochastic gradient descent with momentum, fused.

    g = ∇f(w) + weight_decay · w;  v ← momentum · v + (1 − dampening) · g;
    w ← w − lr · v, or with `nesterov`  w ← w − lr · (g + momentum · v).

    Args (defaults): lr (1e-3), momentum (0), dampening (0), weight_decay (0), nesterov (False),
    maximize (False): torch's.

    >>> w = torch.nn.Parameter(torch.ones(2))
    >>> optimizer = SGD([w], lr=0.1, momentum=0.9)
    >>> w.sum().backward()
    >>> optimizer.step()
    >>> w
    Parameter containing:
    tensor([0.9000, 0.9000], requires_grad=True)

    Source: Polyak, "Some methods of speeding up the convergence of iteration methods", 1964;
    Sutskever, Martens, Dahl and Hinton, "On the importance of initialization and momentum in deep
    learning", ICML 2013; the order of the operations is torch.optim.SGD's.
    """

    torch_class = torch.optim.SGD

    def fusable(self, group: dict[str, Any]) -> bool:
        """Whether the options of a group are those of the fused operator."""
        return not (group["differentiable"] or group["fused"] or isinstance(group["lr"], Tensor))

    def prepare(self, p: Tensor, group: dict[str, Any]) -> bool:
        """Whether the operator takes the velocity, if there is one."""
        if group["momentum"] == 0:
            return True
        velocity = self.state[p].get("momentum_buffer")
        return velocity is None or _fits(p, velocity)

    def begin(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        """Another operator for parameters without velocity: theirs becomes the first gradient."""
        momentum, state = group["momentum"], self.state
        new = [p for p in parameters if momentum and state[p].get("momentum_buffer") is None]
        if new:
            velocities = [torch.empty_like(p) for p in new]
            self._call(group, new, velocities, True)
            for p, velocity in zip(new, velocities, strict=True):
                state[p]["momentum_buffer"] = velocity
            begun = {id(p) for p in new}
            parameters = [p for p in parameters if id(p) not in begun]
        if parameters:
            self.fused(group, parameters)

    def fused(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        """One operator for these parameters, which have velocities where there is momentum."""
        states = map(self.state.get, parameters if group["momentum"] else ())
        self._call(group, parameters, [state["momentum_buffer"] for state in states], False)

    def _call(self, group, parameters, velocities, first):
        torch.ops.pyconvopt.sgd_step_.default(
            parameters,
            [p.grad for p in parameters],
            velocities,
            group["lr"],
            group["momentum"],
            group["dampening"],
            group["weight_decay"],
            group["nesterov"],
            group["maximize"],
            first,
            *self.beside(parameters),
        )


class Adam(Fused, torch.optim.Adam):
    """Adam, fused: the gradient divided by the root of its own running variance.

    m ← β₁ m + (1 − β₁) g;  v ← β₂ v + (1 − β₂) g²;
    w ← w − lr · (m / (1 − β₁ᵗ)) / (√(v / (1 − β₂ᵗ)) + eps).
    `weight_decay` is added to g; AdamW takes it off w instead.

    Args (defaults): lr (1e-3), betas (0.9, 0.999), eps (1e-8), weight_decay (0), amsgrad (False),
    maximize (False): torch's. `get("adam", …)` takes Keras' eps, 1e-7.

    >>> w = torch.nn.Parameter(torch.ones(2))
    >>> optimizer = Adam([w], lr=0.1)
    >>> (3 * w).sum().backward()
    >>> optimizer.step()
    >>> w
    Parameter containing:
    tensor([0.9000, 0.9000], requires_grad=True)

    Source: Kingma and Ba, "Adam: a method for stochastic optimization", ICLR 2015,
    arXiv:1412.6980; the place of eps is torch.optim.Adam's.
    """

    torch_class: type[Optimizer] = torch.optim.Adam

    def fusable(self, group: dict[str, Any]) -> bool:
        """Whether the options of a group are those of the fused operator."""
        beta1, beta2 = group["betas"]
        return not (
            cuda.capturing()  # the graph would repeat one step's count: torch's step says so
            or group["amsgrad"]
            or group["capturable"]
            or group["differentiable"]
            or group["fused"]
            or isinstance(group["lr"], Tensor)
            or isinstance(beta1, Tensor)
            or isinstance(beta2, Tensor)
        )

    def prepare(self, p: Tensor, group: dict[str, Any]) -> bool:
        """Makes the step count and both moments of a parameter, in torch's form, if it has none."""
        state = self.state[p]
        if not state:
            state["step"] = torch.tensor(0.0, dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(p, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        step = state["step"]
        return (
            step.dtype == torch.float32
            and step.device.type == "cpu"
            and _fits(p, state["exp_avg"])
            and _fits(p, state["exp_avg_sq"])
        )

    def fused(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        """One operator for these parameters; it counts the steps, too."""
        states = list(map(self.state.get, parameters))
        torch.ops.pyconvopt.adam_step_.default(
            parameters,
            [p.grad for p in parameters],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [state["step"] for state in states],
            group["lr"],
            *group["betas"],
            group["eps"],
            group["weight_decay"],
            group["decoupled_weight_decay"],
            group["maximize"],
            *self.beside(parameters),
        )


class AdamW(Adam, torch.optim.AdamW):
    """Adam with decoupled weight decay, fused: w ← (1 − lr · weight_decay) · w before Adam's step.

    Args (defaults): lr (1e-3), betas (0.9, 0.999), eps (1e-8), weight_decay (1e-2), amsgrad
    (False), maximize (False): torch's.

    >>> w = torch.nn.Parameter(torch.ones(2))
    >>> optimizer = AdamW([w], lr=0.1, weight_decay=0.5)
    >>> (3 * w).sum().backward()
    >>> optimizer.step()
    >>> w
    Parameter containing:
    tensor([0.8500, 0.8500], requires_grad=True)

    Source: Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019,
    arXiv:1711.05101.
    """

    torch_class = torch.optim.AdamW
