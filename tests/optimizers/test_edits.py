"""SGD, Adam and AdamW beside torch's when groups, parameters or states are edited between steps."""

from __future__ import annotations

import collections
import copy

import pytest
import torch

from pyconvopt import optimizers
from tests.optimizers.test_fused import advance, assert_same, make_parameters


def replace_parameter(optimizer, parameters):
    old = parameters[0]
    parameters[0] = optimizer.param_groups[0]["params"][0] = torch.nn.Parameter(old.detach() + 5)
    return old


def move_state(optimizer, parameters):
    old = replace_parameter(optimizer, parameters)
    optimizer.state[parameters[0]] = optimizer.state.pop(old, {})


def swap_states(optimizer, parameters):
    a, b = parameters[:2]
    optimizer.state[a], optimizer.state[b] = optimizer.state[b], optimizer.state[a]


def clear_state(optimizer, parameters):
    optimizer.state[parameters[1]] = {}


def forget_state(optimizer, parameters):
    optimizer.state.pop(parameters[1], None)
    parameters[1].grad = None
    optimizer.step()
    assert parameters[1] not in optimizer.state


def forget_all_states(optimizer, parameters):
    optimizer.state = collections.defaultdict(dict)


def replace_state_tensors(optimizer, parameters):
    for p in parameters[:2]:
        for name, value in optimizer.state[p].items():
            optimizer.state[p][name] = value + 1


def load_earlier_state(optimizer, parameters):
    saved = copy.deepcopy(optimizer.state_dict())
    advance(optimizer, parameters, 1)
    optimizer.load_state_dict(saved)


def replace_group(optimizer, parameters):
    optimizer.param_groups[1] = {**optimizer.param_groups[1], "lr": 0.5}


def remove_groups(optimizer, parameters):
    del optimizer.param_groups[0]


def reorder_groups(optimizer, parameters):
    optimizer.param_groups.reverse()


def reorder_parameters(optimizer, parameters):
    optimizer.param_groups[0]["params"].reverse()


def replace_list(optimizer, parameters):
    optimizer.param_groups[0]["params"] = parameters[1:2]


def exchange_parameters(optimizer, parameters):
    a, b = (group["params"] for group in optimizer.param_groups)
    a[0], b[0] = b[0], a[0]


def start_momentum(optimizer, parameters):
    for group in optimizer.param_groups:
        group["momentum" if "momentum" in group else "weight_decay"] = 0.5


def stop_momentum(optimizer, parameters):
    for group in optimizer.param_groups:
        group.update({"momentum": 0} if "momentum" in group else {"betas": (0.0, 0.9)})


def to_double(optimizer, parameters):
    p = parameters[0]
    p.grad, p.data = None, p.data.double()
    for name, value in optimizer.state[p].items():
        if name != "step":
            optimizer.state[p][name] = value.double()


def to_channels_last(optimizer, parameters):
    parameters[3].data = parameters[3].data.contiguous(memory_format=torch.channels_last)


EDITS = [
    replace_parameter,
    move_state,
    swap_states,
    clear_state,
    forget_state,
    forget_all_states,
    replace_state_tensors,
    load_earlier_state,
    replace_group,
    remove_groups,
    reorder_groups,
    reorder_parameters,
    replace_list,
    exchange_parameters,
    start_momentum,
    stop_momentum,
    to_double,
    to_channels_last,
]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
@pytest.mark.parametrize(
    ("name", "options"), [("SGD", {}), ("SGD", {"momentum": 0.9}), ("Adam", {}), ("AdamW", {})]
)
def test_edits_between_steps_are_seen(name, options, edit):
    made = []
    for module in (optimizers, torch.optim):
        parameters = make_parameters(shapes=[(3, 4), (3, 4), (5,), (2, 3, 3, 3)])
        groups = [{"params": parameters[:2]}, {"params": parameters[2:]}]
        optimizer = getattr(module, name)(groups, lr=0.01, **options)
        advance(optimizer, parameters, 2)
        edit(optimizer, parameters)
        advance(optimizer, parameters, 3, seed=7)
        made.append((optimizer, parameters))
    (a, ours), (b, theirs) = made
    assert_same(ours, theirs, rtol=1e-5)
    states = [[o.state.get(p, {}) for p in params] for o, params in made]
    torch.testing.assert_close(*states, rtol=1e-5, atol=1e-6, check_stride=True)
    assert len(a.state) == len(b.state)
    assert len(a._plans) == len(a.param_groups)
    assert any(plan.parameters for plan in a._plans.values()), "fused"


def test_a_step_that_does_not_fit_is_taken_once():
    made = []
    for module in (optimizers, torch.optim):
        parameters = make_parameters(shapes=[(3,), (2, 3, 3, 3)])
        optimizer = module.SGD(parameters, lr=0.1, momentum=0.9)
        advance(optimizer, parameters, 2)
        del optimizer.state[parameters[1]]
        for p in parameters:
            p.grad = torch.ones_like(p)
        parameters[1].grad = parameters[1].grad.contiguous(memory_format=torch.channels_last)
        optimizer.step()
        made.append(parameters)
    assert_same(*made)
