"""Neighbouring operations of a graph that run as one pass over memory.

A chain starts at a convolution or a batch norm and takes what follows while each result is used
once, in the order in which the kernels apply it:

    convolution [+ ReLU] [+ 2×2 max-pool]
    convolution + batch norm and what follows it: folded in evaluation, in training with its statistics
    batch norm [+ residual] [+ ReLU] [+ 2×2 max-pool] [+ dropout]
    either batch norm + ReLU6 or hard swish

and in a frozen model, to go on in the sequence of its convolutions, at the mean over a map or a dense layer:

    [flatten +] dense [+ activation]

A batch norm, with or without activation, that ends a chain and that a convolution or a max-pool alone
reads is left to this in training: it normalises what it reads, and the map between is never stored.

A chain is left shorter where joining could be seen: a result written over later, an operation
between its members that writes over what they read.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.fx import Graph, Node

from .. import explanation, functional
from ..autograd.recompute import UnstoredMap
from ..functional.gate import activate
from ..functional.unstored import unstored_batch_norm
from ..hooks import has_hooks
from . import folding, layout
from .frozen import NONE, FrozenConvolution, FrozenSequence, Step
from .frozen_head import FrozenAverage, FrozenDense
from .operations import (
    ACTIVATIONS,
    ADD,
    AVERAGE,
    CONVOLUTION,
    DENSE,
    DROPOUT,
    FLATTEN,
    HARDSWISH,
    IN_PLACE,
    MAX_POOLS,
    NORMALIZATION,
    POOL,
    RELU,
    RELU6,
    WINDOWS,
    Operation,
    leaves_modes,
    memory_of,
    mutated,
    operation,
)

Modules = Mapping[str, nn.Module]


@dataclass
class Chain:
    """Operations to be joined, in order: `first`, and those of `rest` by kind."""

    first: Operation
    rest: dict[str, Operation] = field(default_factory=dict)
    residual: Node | None = None
    unstored: bool = False
    """Whether the convolution or max-pool behind it may make its result while it reads it."""

    @property
    def members(self) -> list[Operation]:
        """All operations in order."""
        return [self.first, *self.rest.values()]

    @property
    def last(self) -> Node:
        """Where the chain's result comes from."""
        return self.members[-1].node

    @property
    def name(self) -> str:
        """The joined names, as `explain` shows them."""
        return "+".join(member.name for member in self.members)

    @property
    def activation(self) -> str | None:
        """As the functions take it."""
        return next((kind for kind in ACTIVATIONS if kind in self.rest), None)

    @property
    def writes_residual(self) -> bool:
        """Whether the sum is written over the residual, a new map that nobody else reads."""
        return (
            ADD in self.rest and self.rest[ADD].in_place and self.rest[ADD].input is self.residual
        )

    @property
    def rate(self) -> Callable[[], float]:
        """Of the dropout, asked for at each call."""
        return self.rest[DROPOUT].bind if DROPOUT in self.rest else lambda: 0.0

    def normalizer(self) -> Callable[..., Tensor | UnstoredMap]:
        """Batch norm and what follows it, of a map, its residual and `batch_norm`'s next arguments."""
        activation, pool, rate = self.activation, POOL in self.rest, self.rate

        def normalize(
            x: Tensor, residual: Tensor | None, *arguments: Any, moments: Tensor | None = None
        ) -> Tensor:
            if self.writes_residual and residual is not None and not alike(residual, x):
                y = functional.batch_norm(x, *arguments, moments=moments)
                return activate(residual.add_(y), activation)
            return functional.batch_norm(
                x, *arguments, activation=activation, residual=residual, pool=pool, dropout=rate(),
                moments=moments,
            )  # fmt: skip

        def normalize_unstored(
            x: Tensor, _: None, *arguments: Any, moments: Tensor | None = None
        ) -> Tensor | UnstoredMap:
            return unstored_batch_norm(x, *arguments, activation=activation, moments=moments)

        return normalize_unstored if self.unstored else normalize


def alike(a: Tensor, b: Tensor) -> bool:
    """Whether a sum of the two is as either: of one type, shape and order in memory."""
    return a.dtype is b.dtype and a.shape == b.shape and a.stride() == b.stride()


def fuse(graph: Graph, modules: Modules, frozen: bool, listening: bool) -> list[nn.Module]:
    """Join what can be joined, in place, and bring the graph into the form that a plan runs.

    Returns the layers whose mode and hooks the result rests on.
    """
    called = {str(node.target) for node in graph.nodes if node.op == "call_module"}
    layers = list({modules[path]: None for path in called})
    drop_nothing_doers(graph, modules)
    for node in list(graph.nodes):
        first = operation(node, modules)
        if first is None or node.meta.get("joined"):
            continue
        if first.kind in (CONVOLUTION, NORMALIZATION):
            chain = chain_from(first, modules)
            behind = None if frozen else making_reader(chain, modules)
            if behind is not None:
                chain.unstored = behind.meta["reads_unstored"] = True
            join(graph, chain, modules[""], frozen, listening)
        elif first.kind == WINDOWS and "reads_unstored" in node.meta:
            join_pool(graph, first, listening)
        elif frozen and not listening and first.kind in (AVERAGE, FLATTEN, DENSE):
            join_head(graph, chain_from(first, modules), modules[""])
    layout.keep_channels_last(graph, modules)
    join_frozen(graph)
    for node in list(graph.nodes):
        if node.op == "call_module":
            replace(graph, node, calling(modules[str(node.target)]), node.args, node.kwargs)
        elif node.target in MAX_POOLS:
            replace(graph, node, functional.max_pool2d, node.args, node.kwargs)
        elif node.target in IN_PLACE:
            replace(graph, node, writing(node.target), node.args, node.kwargs)
    graph.lint()
    return layers


def drop_nothing_doers(graph: Graph, modules: Modules) -> None:
    """Take out identities, and dropout that drops nothing."""
    for node in list(graph.nodes):
        found = operation(node, modules)
        nothing = found is not None and found.kind == DROPOUT and not is_training(found)
        if node.op == "call_module" and len(node.args) == 1 and not node.kwargs:
            module = modules[str(node.target)]
            nothing = nothing or (type(module) is nn.Identity and not has_hooks(module))
        if nothing and isinstance(node.args[0], Node):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def is_training(dropout: Operation) -> bool:
    """Whether the dropout drops anything; a layer's rate is read at each call."""
    return dropout.module.training if dropout.module is not None else dropout.bind() > 0


def chain_from(first: Operation, modules: Modules) -> Chain:
    """The longest chain from an operation on."""
    chain = Chain(first)
    while True:
        after = follower(chain, modules)
        if after is None:
            return chain
        if after.kind == ADD:
            chain.residual = after.extra[0] if after.input is chain.last else after.input
        chain.rest[after.kind] = after


def reader(chain: Chain, modules: Modules) -> Operation | None:
    """The operation that alone reads the chain's result, and reads it once."""
    if len(chain.last.users) != 1:
        return None
    node = next(iter(chain.last.users))
    reads = [each for each in (*node.args, *node.kwargs.values()) if each is chain.last]
    return operation(node, modules) if len(reads) == 1 else None


def follower(chain: Chain, modules: Modules) -> Operation | None:
    """The operation that the chain can take next."""
    after = reader(chain, modules)
    if after is None or after.kind not in allowed(chain) or after.kind in chain.rest:
        return None
    if after.kind == ADD and not takes_residual(chain, after, modules):
        return None
    if after.kind == DROPOUT and is_written_over(after.node, modules):
        return None  # the joined result is needed in backward, that of dropout alone is not
    if after.input is not chain.last and after.kind != ADD:
        return None
    return after if undisturbed(chain, after, modules) else None


def allowed(chain: Chain) -> tuple[str, ...]:
    """The kinds that may come next."""
    kinds = [chain.first.kind, *chain.rest]
    normalizes = NORMALIZATION in kinds
    return {
        CONVOLUTION: (NORMALIZATION, RELU, POOL),
        NORMALIZATION: (ADD, *ACTIVATIONS, POOL),
        ADD: (RELU,),
        RELU: () if ADD in kinds or DENSE in kinds else (POOL, DROPOUT) if normalizes else (POOL,),
        RELU6: (),
        HARDSWISH: (),
        POOL: (DROPOUT,) if normalizes else (),
        DROPOUT: (),
        AVERAGE: (),
        FLATTEN: (DENSE,),
        DENSE: ACTIVATIONS,
    }[kinds[-1]]


def making_reader(chain: Chain, modules: Modules) -> Node | None:
    """The convolution or max-pool that alone reads the result of the chain's batch norm."""
    kinds = {chain.first.kind, *chain.rest}
    if NORMALIZATION not in kinds or not kinds <= {CONVOLUTION, NORMALIZATION, *ACTIVATIONS}:
        return None
    after = reader(chain, modules)
    if after is None or after.kind not in (CONVOLUTION, WINDOWS) or after.input is not chain.last:
        return None
    return after.node if undisturbed(chain, after, modules) else None


def takes_residual(chain: Chain, add: Operation, modules: Modules) -> bool:
    """Whether the other summand is a tensor that is there in time and stays as it is."""
    other = add.extra[0] if add.input is chain.last else add.input
    if other is chain.last:
        return False
    found = operation(other, modules)
    if add.in_place and add.input is other:
        new = is_joined(other) or (found is not None and found.kind in (CONVOLUTION, NORMALIZATION))
        fits = new and len(other.users) == 1
    else:
        tensor = other.op in ("placeholder", "call_module") or found is not None or is_joined(other)
        fits = tensor and not is_written_over(other, modules)
    if not fits:
        return False
    later = other > chain.first.node
    rival = found is not None and found.kind == NORMALIZATION and len(other.users) == 1
    return not (rival and later)


def is_joined(node: Node) -> bool:
    """Whether the node was made by `join`."""
    return "joined" in node.meta


def is_written_over(node: Node, modules: Modules) -> bool:
    """Whether a user of the node's result writes over it."""
    return any(node in mutated(user, modules) for user in node.users)


def undisturbed(chain: Chain, after: Operation, modules: Modules) -> bool:
    """Whether nothing up to `after` writes over what the joined step reads, or switches modes."""
    inside = {member.node for member in chain.members}
    read: set[Node] = set()
    for member in (*chain.members, after):
        for node in member.node.all_input_nodes:
            if node not in inside:
                read |= memory_of(node, modules)
    read -= inside
    node = chain.first.node.next
    while node is not after.node:
        if node not in inside:
            if leaves_modes(node):
                return False
            for target in mutated(node, modules):
                if memory_of(target, modules) & read:
                    return False
        node = node.next
    return True


# --- joined steps ----------------------------------------------------------------------------------


def join(graph: Graph, chain: Chain, root: nn.Module, frozen: bool, listening: bool) -> None:
    """Put one step in the place of the chain's last operation; `root` is the graph's module."""
    joins_norm = chain.unstored or "reads_unstored" in chain.first.node.meta
    alone = len(chain.members) == 1 and not joins_norm
    frozen = frozen and has_constants(chain)
    kept = frozen and chain.first.kind == CONVOLUTION and DROPOUT not in chain.rest
    if alone and chain.first.module is not None and not kept:
        return  # the layer itself
    if NORMALIZATION in chain.rest:
        step = folding.step(chain, frozen)
    elif chain.first.kind == CONVOLUTION:
        step = convolution(chain)
    else:
        step = normalization(chain)
    normalization_extra = chain.rest[NORMALIZATION].extra if NORMALIZATION in chain.rest else ()
    arguments = (chain.first.input, chain.residual, *chain.first.extra, *normalization_extra)
    if listening:
        step = named(step, chain.name)
    made = replace(graph, chain.last, step, arguments, {})
    made.meta["joined"] = True
    if kept and not listening:
        extra = [constant(each, root) for each in arguments[2:]]
        made.meta["frozen"] = FrozenConvolution(chain, step, extra)
    if chain.first.kind == CONVOLUTION:
        made.meta["convolution"] = chain.first
    for member in reversed(chain.members[:-1]):
        graph.erase_node(member.node)


def join_pool(graph: Graph, pool: Operation, listening: bool) -> None:
    """Put a step in the place of a max-pool that makes the map it reads."""

    def pooling(x: Tensor | UnstoredMap) -> Tensor:
        return functional.max_pool2d(x, *pool.bind())

    step = named(pooling, pool.name) if listening else pooling
    replace(graph, pool.node, step, (pool.input,), {}).meta["joined"] = True


def join_head(graph: Graph, chain: Chain, root: nn.Module) -> None:
    """The same for the mean over a map, and for a dense layer with what may stand around it."""
    flattens_only = chain.first.kind == FLATTEN and DENSE not in chain.rest
    if flattens_only or not has_constants(chain):
        return
    extra = tuple(arg for member in chain.members for arg in member.extra)
    constants = [constant(each, root) for each in extra]
    average = chain.first.kind == AVERAGE
    step = FrozenAverage(chain.first) if average else FrozenDense(chain, constants)
    made = replace(graph, chain.last, step.otherwise, (chain.first.input, None, *extra), {})
    made.meta.update(joined=True, frozen=step)
    for member in reversed(chain.members[:-1]):
        graph.erase_node(member.node)


def has_constants(chain: Chain) -> bool:
    """Whether weights and statistics are the model's own, and not made from its inputs."""
    parts = [each for each in chain.members if each.kind in (CONVOLUTION, NORMALIZATION, DENSE)]
    made = [arg for part in parts for arg in part.extra if isinstance(arg, Node)]
    return all(node.op == "get_attr" for node in made)


def constant(argument: Any, root: nn.Module) -> Any:
    """The value of an argument; a node stands for an attribute of the graph's module."""
    return (
        operator.attrgetter(str(argument.target))(root) if isinstance(argument, Node) else argument
    )


def join_frozen(graph: Graph) -> None:
    """Make one call of frozen convolutions that follow one another, without those that nothing reads."""
    for node in reversed(graph.nodes):
        if "frozen" in node.meta and not node.users:
            graph.erase_node(node)
    run: list[Node] = []
    for node in [*graph.nodes]:
        if "frozen" in node.meta:
            run.append(node)
        elif node.op != "get_attr" and run:
            call_at_once(graph, run)
            run = []


def call_at_once(graph: Graph, nodes: list[Node]) -> None:
    """Put a `FrozenSequence` in the place of these nodes."""
    read = [node.args[place] for node in nodes for place in (0, 1) if node.args[place] is not None]
    inputs = [each for each in dict.fromkeys(read) if each not in nodes]
    numbers = {node: number for number, node in enumerate((*inputs, *nodes))}
    results = [node for node in nodes if any(user not in numbers for user in node.users)]
    steps = []
    for node in nodes:
        x, residual, *_ = node.args
        between = numbers[x], NONE if residual is None else numbers[residual]
        steps.append(Step(node.meta["frozen"], numbers[node], *between))
    sequence = FrozenSequence(len(inputs), steps, [numbers[node] for node in results])
    with graph.inserting_after(nodes[-1]):
        made = graph.call_function(sequence.run, tuple(inputs))
    for place, node in enumerate(results):
        value = made
        if len(results) > 1:
            with graph.inserting_after(made):
                value = graph.call_function(operator.getitem, (made, place))
        node.replace_all_uses_with(value, delete_user_cb=lambda user: user not in numbers)
    for node in reversed(nodes):
        graph.erase_node(node)


def replace(graph: Graph, node: Node, step: Any, args: Any, kwargs: Any) -> Node:
    """Let `step` give the node's result."""
    with graph.inserting_before(node):
        made = graph.call_function(step, tuple(args), dict(kwargs))
    made.meta.update(node.meta)
    node.replace_all_uses_with(made)
    graph.erase_node(node)
    return made


def convolution(chain: Chain) -> Callable[..., Tensor]:
    """Convolution, ReLU, 2×2 max-pool."""
    function = functional.conv2d_max_pool if POOL in chain.rest else functional.conv2d
    bind, activation = chain.first.bind, chain.activation

    def convolution(x: Tensor | UnstoredMap, _: None, *extra: Any) -> Tensor:
        return function(x, *bind(*extra), activation=activation)

    return convolution


def normalization(chain: Chain) -> Callable[..., Tensor | UnstoredMap]:
    """Batch norm, residual, activation, 2×2 max-pool, dropout."""
    bind, normalize = chain.first.bind, chain.normalizer()
    check = getattr(chain.first.module, "_check_input_dim", None)

    def normalization(x: Tensor, residual: Tensor | None, *extra: Any) -> Tensor | UnstoredMap:
        if check is not None:
            check(x)
        return normalize(x, residual, *bind(*extra))

    return normalization


def calling(module: nn.Module) -> Callable[..., Any]:
    """The module's call, hooks and all, as a function."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return module(*args, **kwargs)

    return call


def writing(function: Any) -> Callable[..., Any]:
    """``x += y`` or its like as a function: as a statement it would give a number's name the new value."""

    def write(x: Any, y: Any) -> Any:
        return function(x, y)

    return write


def named(step: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The step, its rows of `explain` under the joined names."""

    def step_of(*args: Any) -> Any:
        return explanation.run_as(name, step, *args)

    return step_of
