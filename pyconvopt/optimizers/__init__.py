"""Optimisers by name, for any parameters: `get("muon", model.parameters(), lr=0.01)`.

`fused` holds SGD, Adam and AdamW with the step in one operator, `extras` what that does beside its
rule, `muon` Muon for convolution filters, `wrappers` and `hypergradient` what goes around another
optimiser; the rest is torch's own or the package pytorch-optimizer's (the extra `optimizers`), imported
when one is made. `table` is the list of names, `formulas` says what each of them does, `groups` sorts
out which weights decay, `copying` what a copy of an optimiser holds.
"""

from pyconvopt.optimizers.fused import SGD, Adam, AdamW
from pyconvopt.optimizers.groups import parameter_groups
from pyconvopt.optimizers.hypergradient import HypergradientDescent
from pyconvopt.optimizers.muon import Muon
from pyconvopt.optimizers.table import OPTIMIZERS, get
from pyconvopt.optimizers.wrappers import SAM, Lookahead

__all__ = [
    "OPTIMIZERS",
    "SAM",
    "SGD",
    "Adam",
    "AdamW",
    "HypergradientDescent",
    "Lookahead",
    "Muon",
    "get",
    "parameter_groups",
]
