"""Optimisers around another one: SAM and Lookahead.

The inner optimiser's groups and states are the wrapper's own, so learning-rate schedules, the
`state_dict` and its loading are those of a single torch optimiser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from pyconvopt.data.checks import whole
from pyconvopt.optimizers.closures import loss_of, needs_closure, repeated
from pyconvopt.optimizers.copying import Whole


class Wrapper(Whole):
    """What all of them share: `base`, a name, a callable or an optimiser as `get` takes it.

    Settings that the wrapper does not know are the inner optimiser's: `SAM(params, "sgd", lr=0.1)`.
    """

    entries: ClassVar[frozenset[str]] = frozenset()  # what it keeps in groups and states

    def __init__(self, params: Any, base: Any, **settings: Any) -> None:
        from pyconvopt.optimizers.table import get

        inner = get(base, params, **settings)
        super().__init__(inner.param_groups, inner.defaults)
        self.base = inner
        self.needs_closure = needs_closure(inner)
        self.share()

    def share(self) -> None:
        """Work on the inner optimiser's groups and states."""
        self.param_groups = self.base.param_groups
        self.state = self.base.state

    @override
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if "base" in self.__dict__:
            self.base.add_param_group(param_group)
        else:
            super().add_param_group(param_group)

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.base.load_state_dict(state_dict)
        self.share()

    def __getattr__(self, name: str) -> Any:
        # With a Schedule-Free optimiser within: from the weights that are trained to their average.
        if name in ("train", "eval") and "base" in self.__dict__:
            return getattr(self.base, name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def own(self, entry: str) -> str:
        """What an entry of the groups or states is called here: wrappers within may have it, too."""
        within, inner = 1, self.base
        while isinstance(inner, Wrapper):
            within += entry in inner.entries
            inner = inner.base
        return entry if within == 1 else f"{entry}_{within}"

    def gradients(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Every parameter of every group that has a gradient, and the gradient."""
        for group in self.param_groups:
            yield from ((p, p.grad) for p in group["params"] if p.grad is not None)

    def step_number(self) -> int:
        """Counts a step and returns its number, from 1; it is kept in the first group."""
        first, steps = self.param_groups[0], self.own("wrapper_steps")
        first[steps] = first.get(steps, 0) + 1
        return first[steps]


class SAM(Wrapper):
    """Sharpness-aware minimisation: the gradient at the worst point near w, applied at w.

    ε = rho · g / ‖g‖ over all weights together, or with `adaptive` rho · w²·g / ‖|w|·g‖; the inner
    optimiser then steps from w with the gradient at w + ε.

    `step` needs a closure that clears the gradients, computes the loss, calls backward and returns
    the loss; it is called twice, and the loss at w is returned.

    Args: params, base ('sgd'), rho (0.05), adaptive (False: ASAM), every (1: in other steps than
    each k-th the gradient at w is used, at half the cost), settings of the inner optimiser.

    Errors: RuntimeError for a step without closure; ValueError for a negative rho, every < 1, or an
    inner optimiser that needs a closure itself.

    >>> w = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = SAM([w], "sgd", rho=0.5, lr=0.1)
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     loss = w.square().sum()
    ...     loss.backward()
    ...     return loss
    >>> optimizer.step(closure).item(), round(w.item(), 6)  # 1 - 0.1 · 2 · (1 + 0.5)
    (1.0, 0.7)

    Source: Foret et al. 2021, arXiv:2010.01412; adaptive: Kwon et al. 2021, arXiv:2102.11600.
    """

    entries = frozenset({"wrapper_steps"})

    def __init__(
        self,
        params: Any,
        base: Any = "sgd",
        rho: float = 0.05,
        adaptive: bool = False,
        every: int = 1,
        **settings: Any,
    ) -> None:
        if not rho >= 0:
            raise ValueError(f"rho must be 0 or more, got {rho}")
        every = whole("every", every)
        super().__init__(params, base, **settings)
        if self.needs_closure:
            raise ValueError(
                f"SAM cannot go around {type(self.base).__name__}, which computes the loss in its own "
                "step: give SAM another base"
            )
        self.needs_closure = True
        self.rho, self.adaptive, self.every = rho, adaptive, every

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; returns the loss at the weights before it."""
        if closure is None:
            raise RuntimeError("SAM evaluates the loss twice a step: call step(closure)")
        loss = loss_of(closure)
        if self.step_number() % self.every == 0:
            before = [(p, p.clone()) for p, _ in self.gradients()]
            self.climb()
            try:
                with repeated():
                    loss_of(closure)
            finally:
                for p, value in before:
                    p.copy_(value)
        self.base.step()
        return loss

    def climb(self) -> None:
        """w ← w + ε; w − ε where a group maximises the loss, of which the smallest is the worst."""
        down = {p for group in self.param_groups if group.get("maximize") for p in group["params"]}
        uphill = ((p, -g if p in down else g) for p, g in self.gradients())
        scaled = [(p, p.abs() * g if self.adaptive else g) for p, g in uphill]
        if not scaled:
            return
        norms = torch.stack([direction.norm() for _, direction in scaled])
        length = self.rho / (norms.norm() + 1e-12)
        for p, direction in scaled:
            p.add_((p.abs() * direction if self.adaptive else direction) * length)


class Lookahead(Wrapper):
    """Slow weights that follow the inner optimiser's fast ones every k steps.

    slow ← slow + alpha · (fast − slow);  fast ← slow. Weights that are frozen stay; those trained
    again begin with a slow copy of what they are then.

    Args: params, base ('sgd'), k (5), alpha (0.5), settings of the inner optimiser.

    Errors: ValueError for k < 1, an alpha outside 0–1, or a Schedule-Free inner optimiser, whose
    average would not follow.

    >>> w = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = Lookahead([w], "sgd", k=2, alpha=0.5, lr=0.1)
    >>> for _ in range(2):
    ...     w.grad = torch.ones(1)
    ...     optimizer.step()
    >>> round(w.item(), 6)  # fast 0.8, slow 1.0
    0.9

    Source: Zhang, Lucas, Hinton and Ba 2019, arXiv:1907.08610.
    """

    entries = frozenset({"wrapper_steps", "slow"})

    def __init__(
        self, params: Any, base: Any = "sgd", k: int = 5, alpha: float = 0.5, **settings: Any
    ) -> None:
        k = whole("k", k)
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
        super().__init__(params, base, **settings)
        if hasattr(self, "train") and hasattr(self, "eval"):
            raise ValueError(
                f"Lookahead cannot go around {type(self.base).__name__}: a Schedule-Free optimizer "
                "works its average out from its own steps; give Lookahead another base"
            )
        self.k, self.alpha = k, alpha

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of the inner optimiser; every k-th ends at the slow weights."""
        name = self.own("slow")
        weights = [p for group in self.param_groups for p in group["params"]]
        for p in weights:
            if not p.requires_grad:
                self.state.get(p, {}).pop(name, None)
        # Copied now and put down after: an inner optimiser takes a state with entries for begun.
        new = [(p, p.clone()) for p in weights if name not in self.state.get(p, {})]
        loss = self.base.step(closure)
        for p, slow in new:
            if p.grad is not None and p.requires_grad:
                self.state[p][name] = slow
        if self.step_number() % self.k == 0:
            # Those without a gradient now, too: they have moved in the steps before.
            for p in weights:
                if name in self.state.get(p, {}):
                    p.copy_(self.state[p][name].lerp_(p, self.alpha))
        return loss
