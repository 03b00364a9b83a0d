"""Maps in channels_last between the door of a graph and its exit.

The kernels for CPUs work in channels_last. For a model in torch's own order (N, C, H, W) each input is
converted once, everything that does not look at the order in memory stays in channels_last, and
what does look (``view``, a module of the user's, the result) gets the order that torch would have
had there. A model or input that is in channels_last by itself is left alone.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Graph, Node

from .. import nn as own
from ..functional.gate import suits
from ..functional.order import in_order
from ..hooks import has_hooks
from ..memory import is_channels_last
from .operations import MAX_POOLS, memory_of, mutated, only_reads_sizes

Modules = Mapping[str, nn.Module]

# Results keep the order of their inputs, values do not depend on it.
_MODULES = (
    nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, own.SyncBatchNorm, nn.GroupNorm, nn.MaxPool2d,
    nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Dropout, nn.Dropout2d, nn.Identity, nn.ReLU, nn.ReLU6,
    nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh,
    nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Softplus, nn.PReLU, nn.Upsample, nn.ZeroPad2d,
)  # fmt: skip
_FUNCTIONS = {
    operator.add, operator.iadd, operator.sub, operator.isub, operator.mul, operator.imul,
    operator.truediv, operator.itruediv, operator.neg, torch.add, torch.sub, torch.mul, torch.cat,
    torch.sigmoid, torch.tanh, torch.relu, torch.relu_, F.relu, F.relu_, F.relu6, F.leaky_relu,
    F.elu, F.gelu, F.silu, F.mish, F.hardswish,
    F.hardsigmoid, F.sigmoid, F.softplus, F.conv2d, F.conv_transpose2d, F.batch_norm, F.group_norm,
    *MAX_POOLS, F.avg_pool2d, F.adaptive_avg_pool2d, F.interpolate, F.dropout, F.dropout2d,
}  # fmt: skip
_METHODS = {"add", "add_", "sub", "mul", "mul_", "relu", "relu_", "sigmoid", "tanh", "neg"}


def keep_channels_last(graph: Graph, modules: Modules) -> None:
    """Insert the door, the exits, and a conversion before a map layer that is fed from outside."""
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    weights = [w for node in graph.nodes for w in conv_weights(node, modules)]
    if not inputs or not weights:
        return
    writes = writes_in(graph, modules)
    written = {memory for _, memories in writes for memory in memories}
    taken = [node for node in inputs if node not in written and node not in weights]
    converting = insert_question(graph, inputs, taken, weights)
    with graph.inserting_after(converting):
        door = {node: graph.call_function(enter, (node, converting)) for node in taken}
    # What may be in channels_last where torch's value would not be, and the question whether it is.
    inside = dict.fromkeys(door.values(), converting)
    consistent = True
    for node in list(graph.nodes):
        if node.op == "placeholder" or node is converting or node in inside:
            continue
        if keeps_order(node, modules):
            for each in node.all_input_nodes:
                if each in door:
                    node.replace_input_with(each, door[each])
            first = node.args[0]
            if is_map_layer(node, modules) and first not in inside:
                with graph.inserting_before(node):
                    question = graph.call_function(in_torchs_order, (first, converting))
                    entered = graph.call_function(enter, (first, question))
                inside[entered] = question
                node.replace_input_with(first, entered)
            gives = mutated(node, modules) or node.all_input_nodes
            questions = [inside[each] for each in gives if each in inside]
            if questions:
                inside[node] = questions[0]
        elif not only_reads_sizes(node):
            for each in [n for n in node.all_input_nodes if n in inside]:
                leave_for_good(graph, each, node, inside[each])
                consistent &= not written_under_other_name(each, node, writes, modules)
    for each in door.values():
        if not each.users:
            graph.erase_node(each)
    if not consistent:
        for user in list(converting.users):
            user.args = (user.args[0], False)


def writes_in(graph: Graph, modules: Modules) -> list[tuple[Node, set[Node]]]:
    """The nodes that write over tensors, with all names of the memory they write to."""
    found = ((node, mutated(node, modules)) for node in graph.nodes)
    return [
        (node, set().union(*(memory_of(target, modules) for target in targets)))
        for node, targets in found
        if targets
    ]


def insert_question(
    graph: Graph, inputs: list[Node], taken: list[Node], weights: list[Any]
) -> Node:
    """The node, behind the inputs, that answers whether this call converts."""
    nodes = [w for w in weights if isinstance(w, Node) and w.op in ("placeholder", "get_attr")]
    layers = [w for w in weights if isinstance(w, nn.Module)]
    start = inputs[-1]
    for weight in dict.fromkeys(nodes):
        if weight.op == "get_attr":
            start.append(weight)
            start = weight
    with graph.inserting_before(start.next):
        return graph.call_function(convertor(layers), (tuple(taken), tuple(nodes)))


def leave_for_good(graph: Graph, value: Node, at: Node, converting: Node) -> None:
    """From `at` on the value is in torch's order: one tensor still, should it be written over."""
    with graph.inserting_before(at):
        outside = graph.call_function(leave, (value, converting))
    for user in list(value.users):
        if user is at or user > at:
            user.replace_input_with(value, outside)


def written_under_other_name(
    value: Node, at: Node, writes: list[tuple[Node, set[Node]]], modules: Modules
) -> bool:
    """Whether, from `at` on, the value's memory is written to as that of another node."""
    names = memory_of(value, modules) - {value}
    return any(names & memories for node, memories in writes if not node < at)


def conv_weights(node: Node, modules: Modules) -> list[Any]:
    """The convolution's weight: the layer that holds it, or an input of the graph."""
    if node.op == "call_module" and isinstance(modules[str(node.target)], nn.Conv2d):
        return [modules[str(node.target)]]
    conv = node.meta.get("convolution")
    if conv is None:
        return []
    return [conv.module] if conv.module is not None else [conv.extra[0]]


def is_map_layer(node: Node, modules: Modules) -> bool:
    """Whether the node is a step or layer that is faster in channels_last."""
    layers = nn.Conv2d | nn.BatchNorm2d
    module = modules[str(node.target)] if node.op == "call_module" else None
    return "joined" in node.meta or isinstance(module, layers)


def keeps_order(node: Node, modules: Modules) -> bool:
    """Whether the node takes maps in any order and gives its result in the same."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        of_library = type(module).__module__.startswith(("torch.nn.", "pyconvopt.nn."))
        known = isinstance(module, _MODULES) and of_library and not has_hooks(module)
        return known and not getattr(module, "return_indices", False)
    if node.op == "call_function":
        return "joined" in node.meta or (
            node.target in _FUNCTIONS
            and "out" not in node.kwargs
            and not node.kwargs.get("return_indices")
            and not (node.target in MAX_POOLS and any(node.args[6:]))  # the same by position
        )
    return node.op == "call_method" and node.target in _METHODS


def convertor(layers: list[nn.Module]) -> Any:
    """Whether the call is one of a model in torch's own order."""

    def converts(inputs: tuple[Any, ...], weights: tuple[Tensor, ...]) -> bool:
        maps = [x for x in inputs if isinstance(x, Tensor) and x.dim() == 4]
        if (
            not maps
            or not all(x.is_cpu and suits(x) for x in maps)
            or any(map(is_channels_last, maps))
        ):
            return False
        held = (*map(held_weight, layers), *weights)
        return not any(w is not None and w.dim() == 4 and is_channels_last(w) for w in held)

    return converts


def held_weight(layer: nn.Module) -> Tensor | None:
    """The layer's weight as far as it holds one: to read a parametrized one is to compute it anew."""
    return layer._parameters.get("weight", layer.__dict__.get("weight"))


def in_torchs_order(x: Any, converting: bool) -> bool:
    """Whether a map from outside is to be converted: it is not in channels_last by itself."""
    return converting and isinstance(x, Tensor) and x.dim() == 4 and not is_channels_last(x)


def enter(x: Any, converting: bool) -> Any:
    """The map in channels_last, its gradient in torch's order; a map of one channel without copying."""
    if not in_torchs_order(x, converting):
        return x
    batch, channels, height, width = x.shape
    if channels == 1 and x.is_contiguous():
        return x.view(batch, height, width, 1).permute(0, 3, 1, 2)
    return in_order(x, torch.channels_last, torch.contiguous_format)


def leave(x: Any, converting: bool) -> Any:
    """The map as torch would have it here."""
    return x.contiguous() if converting and isinstance(x, Tensor) and x.dim() == 4 else x
