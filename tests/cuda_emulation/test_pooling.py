"""2×2 max-pooling on the emulated GPU: torch's, to the bit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.cuda_emulation.maps import LAYOUTS, TYPES, image, memory_format, shape_of, unset

SHAPES = [
    (2, 3, 7, 9),
    (1, 8, 6, 6),
    (3, 37, 5, 4),
    (2, 64, 2, 3),
    (1, 1, 2, 2),
    (1, 140, 3, 40),
    (11, 4, 17, 2),
]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_max_pool(cuda, layout, shape, dtype):
    x = image(shape, layout, dtype).mul_(4).round_()  # equals are frequent
    x[0, 0, 0, 1] = float("nan")
    reference = x.float().requires_grad_()
    wanted = F.max_pool2d(reference, 2)
    y = unset(wanted.shape, layout, dtype)
    argmax = torch.full(wanted.shape, 255, dtype=torch.uint8).contiguous(
        memory_format=memory_format(layout)
    )
    cuda.run("max_pool_forward", shape=shape_of(x, layout), input=x, output=y, argmax=argmax)
    assert torch.equal(y.float().nan_to_num(99), wanted.detach().nan_to_num(99))

    gradient = image(wanted.shape, layout, dtype)
    wanted.backward(gradient.float())
    dx = unset(shape, layout, dtype)
    fields = {"output_gradient": gradient, "argmax": argmax, "input_gradient": dx}
    cuda.run("max_pool_backward", shape=shape_of(x, layout), **fields)
    assert torch.equal(dx.float(), reference.grad)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_stopped_gradient_and_no_window(cuda, layout):
    """Byte 4 lets nothing through; a map of one row has no windows and the gradient 0."""
    gradient = image((1, 4, 1, 1), layout)
    dead = torch.full((1, 4, 1, 1), 4, dtype=torch.uint8)
    dx = unset((1, 4, 2, 2), layout)
    fields = {"output_gradient": gradient, "argmax": dead, "input_gradient": dx}
    cuda.run("max_pool_backward", shape=shape_of(dx, layout), **fields)
    assert not dx.any()
    dx = unset((1, 4, 1, 5), layout)
    cuda.run("max_pool_backward", shape=shape_of(dx, layout), input_gradient=dx)
    assert torch.equal(dx, torch.zeros_like(dx))


def test_a_line_too_long_is_refused(cuda):
    x = unset((1, 4, 2, 2), "nhwc")
    with pytest.raises(RuntimeError, match=r"below 2\^31"):
        cuda.run(
            "max_pool_forward", shape={**shape_of(x, "nhwc"), "width": 2**29, "height": 2}, input=x
        )
