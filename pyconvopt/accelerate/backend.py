"""``torch.compile(model, backend="pyconvopt")``: the same joined steps on Dynamo's graphs.

Dynamo traces Python soundly, with guards and graph breaks, and hands over each piece as a graph of
torch's functions whose parameters are inputs. Here the pieces are joined as those of `accelerate`
are, and run in eager mode: autograd sees the joined steps, no second tracing takes place.

The name is known to torch by an entry point of the installed package. Where that is missing (a
source folder on the path), importing pyconvopt registers it if Dynamo is loaded already: Dynamo
takes a second to load, so it is not loaded for this. The function itself can always be given:
``backend=pyconvopt_backend``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import entry_points
from typing import Any

import torch
from torch.fx import GraphModule

from .. import explanation
from .fusion import fuse
from .operations import transforms
from .plan import compiled

NAME = "pyconvopt"


def pyconvopt_backend(
    module: GraphModule,
    example_inputs: Sequence[Any],
    options: Mapping[str, Any] | None = None,
    mode: str | None = None,
) -> Callable[..., Any]:
    """A compiler for ``torch.compile``: convolution, batch norm and what follows them in one pass.

    `mode`, which is Inductor's, changes nothing. Graphs with transforms of ``torch.func`` run as they are.

    Errors: TypeError for options, of which it has none.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2))
    >>> fast = torch.compile(model, backend=pyconvopt_backend)
    >>> x = torch.randn(1, 3, 8, 8)
    >>> torch.allclose(fast(x), model(x), atol=1e-5)
    True
    """
    if options:
        raise TypeError(f"the backend {NAME!r} has no options, got {', '.join(sorted(options))}")
    if any(map(transforms, module.graph.nodes)):
        return module.forward
    graph = torch.fx.Graph()
    output = graph.graph_copy(module.graph, {})
    graph.output(output)
    fuse(graph, dict(module.named_modules()), frozen=False, listening=explanation.listening())
    return partial(compiled(graph), module)


def register() -> None:
    """Make the name known to Dynamo, unless the installed package's entry point does so already."""
    from torch._dynamo.backends import registry

    if NAME not in entry_points(group="torch_dynamo_backends").names:
        registry.register_backend(compiler_fn=pyconvopt_backend, name=NAME)
