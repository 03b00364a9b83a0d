"""Autograd functions: one node of the graph a fused block, its backward on this library's kernels.

Where a gradient of a gradient is wanted (``create_graph=True``) each takes the reference path: its
backward in torch's own differentiable operations.
"""
