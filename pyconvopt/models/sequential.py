"""Sequential: layers one after another, with Keras' way of assembling, training and asking.

It is an nn.Module whose children are the layers, under their names: optimisers, hooks,
`state_dict` and everything else of torch work on it. Arrays are N, H, W, C at its doors; inside,
the same bytes are viewed as N, C, H, W (see `layers.base`).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from pyconvopt.data.checks import whole
from pyconvopt.layers.base import (
    Layer,
    Shape,
    build_or_check,
    differ,
    sample_shape,
    show,
    to_array_axes,
    to_torch_axes,
)
from pyconvopt.layers.core import InputLayer
from pyconvopt.layers.preprocessing import Adapting
from pyconvopt.layers.views import MeanOfViews, Views
from pyconvopt.models import fusion, saving, summary

if TYPE_CHECKING:
    from pyconvopt.training import Callback, History, Trainer


class Sequential(nn.Module):
    """A model of layers in a row.

    Args: layers (none), name ('sequential').

    A layer is built as it is added if the shape of its input is known: from `input_shape=` on the
    first layer or an `Input` before it. Otherwise everything is built at the first call.

    >>> from pyconvopt import layers
    >>> model = Sequential()
    >>> model.add(layers.Conv2D(32, (3, 3), activation='relu', input_shape=(28, 28, 1)))
    >>> model.add(layers.MaxPooling2D((2, 2)))
    >>> model.output_shape, model.count_params()
    ((None, 13, 13, 32), 320)
    >>> model(torch.zeros(5, 28, 28, 1)).shape
    torch.Size([5, 13, 13, 32])
    """

    def __init__(self, layers: Sequence[Layer] | None = None, name: str = "sequential") -> None:
        super().__init__()
        self.name = name
        self.input_shape: Shape | None = None
        self.stop_training = False
        self._trainer: Trainer | None = None
        for layer in layers or ():
            self.add(layer)

    # --- assembly

    @property
    def layers(self) -> list[Layer]:
        """The layers in order, without the input."""
        return [each for each in self._modules.values() if isinstance(each, Layer)]

    @property
    def built(self) -> bool:
        """Whether every layer has its weights."""
        return bool(self._modules) and all(layer.built for layer in self.layers)

    @property
    def output_shape(self) -> Shape | None:
        """The shape of the output, None before the model is built."""
        return self.layers[-1].output_shape if self._modules else self.input_shape

    @property
    def output_activation(self) -> str | None:
        """'softmax' or 'sigmoid' if the model ends in it; `forward(logits=True)` stops before."""
        return self.layers[-1].output_activation if self._modules else None

    @property
    def classes_last(self) -> bool:
        """Whether outputs are (N, ..., classes): those of the pixels of a map or the steps of a row."""
        return len(self.output_shape or ()) != 2

    def add(self, layer: Layer) -> None:
        """Append a layer; it is built if its input shape is known.

        Errors: TypeError for anything but a layer, ValueError for a name used twice, or a shape the
        layer cannot take or was not built for; the model is then as it was.
        """
        if isinstance(layer, InputLayer):
            self.start_from(layer.shape)
            return
        if not isinstance(layer, Layer):
            raise TypeError(
                f"add() takes a layer of pyconvopt.layers, got {type(layer).__name__}"
                + (": write Conv2D(...), not Conv2D" if isinstance(layer, type) else "")
            )
        if any(layer is each for each in self.layers):
            raise ValueError(f"{layer.name} is in this model already; a layer is added once")
        # A first layer brings the shape it was given, or was built for, as by `adapt`.
        shape = layer.given_shape or (layer.input_shape or ())[1:]
        known, name = self.input_shape, self.free_name(layer)
        try:
            if not self._modules and shape:
                self.start_from(shape)
            if self.output_shape is not None:
                build_or_check(layer, self.output_shape)
        except ValueError:
            self.input_shape = known
            raise
        layer.name = name
        self.add_module(name, layer)
        layer.held_by = weakref.ref(self)
        self._trainer_is_stale()

    def start_from(self, shape: Sequence[int | None]) -> None:
        """Take the shape of one input, without the batch."""
        if self._modules:
            raise ValueError("the input shape must come before the first layer")
        self.take_input_shape((None, *sample_shape(shape)))

    def take_input_shape(self, shape: Shape) -> None:
        """Take the shape of the input, batch first; ValueError for another than is known already."""
        if self.input_shape is None:
            self.input_shape = shape
        elif differ(self.input_shape, shape):
            raise ValueError(
                f"the model takes inputs of shape {show(self.input_shape)}, got {show(shape)} for it"
            )

    def free_name(self, layer: Layer) -> str:
        """The layer's name, or for a name it was not given by the user the next free one."""
        if "." in layer.name or not layer.name:
            raise ValueError(f"a layer's name must not be empty or hold a dot, got {layer.name!r}")
        taken, name, number = layer.name in self._modules, layer.name, 0
        if taken and layer.named_by_user:
            raise ValueError(f"the name {layer.name!r} is used twice; names must differ")
        while name in self._modules:
            number += 1
            name = f"{layer.name}_{number}"
        if hasattr(self, name) and name not in self._modules:
            raise ValueError(
                f"a layer cannot be called {name!r}: a model has a member of that name"
            )
        return name

    def pop(self) -> Layer:
        """Take the last layer off and return it."""
        if not self._modules:
            raise ValueError("the model has no layer to pop")
        layer = self.layers[-1]
        del self._modules[layer.name]
        if not self._modules and layer.given_shape is not None:
            self.input_shape = None  # it was that layer's
        self._trainer_is_stale()
        return layer

    def build(self, input_shape: Sequence[int | None] | None = None) -> None:
        """Build every layer for inputs of that shape, batch first: (None, 28, 28, 1).

        Errors: ValueError for a shape that is not known, or another than the one known already.
        """
        if not self._modules:
            raise ValueError("the model has no layers: add() some first")
        known = self.input_shape
        if input_shape is not None:
            self.take_input_shape((None, *sample_shape(input_shape[1:])))
        if self.input_shape is None:
            raise ValueError(
                "the input shape is not known: give the first layer input_shape=, or build("
                "(None, height, width, channels))"
            )
        shape: Shape = self.input_shape
        try:
            for layer in self.layers:
                build_or_check(layer, shape)
                shape = layer.output_shape or shape
        except ValueError:
            if not any(layer.built for layer in self.layers):
                self.input_shape = known  # so that another may be tried
            raise

    # --- running

    def forward(self, x: Tensor, *, logits: bool = False) -> Tensor:
        """N, H, W, C (or N, features) in, the same convention out.

        `logits`: stop before a final softmax or sigmoid, for a loss that takes it in.
        """
        if not isinstance(x, Tensor):
            raise TypeError(
                f"a model is called with a torch tensor, got {type(x).__name__}: predict() takes arrays"
            )
        if not self.built:
            self.build(tuple(x.shape))
        self.check_input(x)
        x = to_torch_axes(x)
        for step in self.steps(logits):
            x = step(x)
        return to_array_axes(x)

    def steps(self, logits: bool) -> list[Callable[[Tensor], Tensor]]:
        """What `forward` calls, in order: layers, and neighbours joined into one pass."""
        layers = self.layers
        if logits and layers[-1].output_activation is not None:
            return [*fusion.steps(layers[:-1]), partial(layers[-1], logits=True)]
        return fusion.steps(layers)

    def check_input(self, x: Tensor) -> None:
        """Refuse an input of another shape than the model was built for."""
        expected = self.input_shape or ()
        fits = len(x.shape) == len(expected) and all(
            wanted is None or size == wanted for size, wanted in zip(x.shape, expected, strict=True)
        )
        if not fits:
            raise ValueError(
                f"the model takes inputs of shape {show(expected)}, got {tuple(x.shape)}"
                + shape_hint(tuple(x.shape), expected)
            )

    # --- training and asking

    def compile(  # type: ignore[override]
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        metrics: Any = None,
        **options: Any,
    ) -> None:
        """Choose how the model is trained (Keras' compile; torch's is `torch.compile(model)`).

        Args: optimizer (name, callable of the parameters, or torch optimiser), loss (name, or
        function (outputs, targets)), metrics (names or Metric objects, or one), and those of
        `training.Trainer` by name: learning_rate, schedule, accumulate, clip_norm, clip_value,
        adaptive_clip ...

        Errors: ValueError for a name that no table holds.
        """
        from pyconvopt.training import Trainer

        if loss is None:
            raise ValueError("compile() needs a loss, such as 'sparse_categorical_crossentropy'")
        self._trainer = Trainer(self, optimizer, loss, metrics, **options)
        for metric in self._trainer.metrics:
            metric.activation = self._trainer.loss.absorbs

    def _trainer_is_stale(self) -> None:
        # Layers have come or gone: the optimiser holds the wrong parameters and is made anew.
        if self._trainer is not None:
            self._trainer.optimizer = None

    @property
    def optimizer(self) -> torch.optim.Optimizer | None:
        """The optimiser, once `fit` has made it."""
        return None if self._trainer is None else self._trainer.optimizer

    def trainer(self) -> Trainer:
        """What `compile` made; RuntimeError before it."""
        if self._trainer is None:
            raise RuntimeError(
                "the model is not compiled: call compile(optimizer=..., loss=...) before fit or "
                "evaluate"
            )
        return self._trainer

    def adapt(self, x: Any) -> None:
        """Let the layers that learn from images do so, each from what reaches it: before `fit`.

        `x`: training images. They are `Normalization` and `PatchWhitening`; others stay as they
        are, and none is trained.

        >>> from pyconvopt import layers
        >>> model = Sequential([layers.Normalization(input_shape=(1,))])
        >>> model.adapt(np.array([[1.0], [3.0]]))
        >>> model.predict(np.array([[3.0]]))
        array([[1.]], dtype=float32)
        """
        if not self.built:
            self.build(tuple(np.shape(x)))
        for place, layer in enumerate(self.layers):
            if not isinstance(layer, Adapting) or not layer.learns():
                continue
            # Some thousand images, from all parts of the data, are enough for patches.
            most = layer.samples_to_adapt or len(x)
            part = x if most >= len(x) else x[:: max(1, len(x) // most)][:most]
            layer.adapt(self.output_of(place, part))

    def output_of(self, place: int, x: Any) -> np.ndarray:
        """What the first `place` layers make of images: in evaluation mode, but without views."""
        front = Sequential(name="front")
        front.input_shape = self.input_shape
        for layer in self.layers[:place]:
            if not isinstance(layer, (Views, MeanOfViews)):
                front.add_module(layer.name, layer)
        return front.predict(x) if front.layers else x

    def fit(
        self,
        x: Any,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: int | str = "auto",
        callbacks: Sequence[Callback] | Callback | None = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: Mapping[int, float] | str | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int | Sequence[int] = 1,
        seed: int | None = None,
        checkpoint: Any = None,
        every: Any = "epoch",
    ) -> History:
        """Train, and return the History; see `training.Trainer.fit`.

        Args: x and y (arrays or tensors), or x alone (a pair, a Dataset, DataLoader or generator
        of batches); batch_size (32); validation_split: that share of the end of the arrays or the
        Dataset is held out; validation_data: (x, y) or (x, y, weights), which wins over the share;
        the others are Keras' but for `seed` (of order and dropout), `checkpoint` and `every`.

        Errors: RuntimeError before `compile`; ValueError and TypeError for data that do not fit.
        """
        if validation_data is None and validation_split:
            validation_data = validation_split
        return self.trainer().fit(
            x if y is None else (x, y),
            epochs=epochs,
            batch_size=32 if batch_size is None else batch_size,
            validation=validation_data,
            shuffle=shuffle,
            seed=seed,
            verbose=verbose,
            callbacks=callbacks or (),
            initial_epoch=initial_epoch,
            class_weight=class_weight,
            sample_weight=sample_weight,
            steps_per_epoch=steps_per_epoch,
            validation_steps=validation_steps,
            validation_batch_size=validation_batch_size,
            validation_freq=validation_freq,
            checkpoint=checkpoint,
            every=every,
        )

    def evaluate(
        self,
        x: Any,
        y: Any = None,
        batch_size: int | None = None,
        verbose: int | str = "auto",
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Sequence[Callback] | Callback | None = None,
        return_dict: bool = False,
    ) -> Any:
        """[loss, metric, ...] as Keras gives them (the loss alone without metrics), or a dict.

        `steps` (None: all): the most batches; `sample_weight`: as `fit` has it, for the loss;
        `callbacks`: of these the test hooks are called.
        """
        data = x if y is None else (x, y)
        size = 256 if batch_size is None else batch_size
        logs = self.trainer().evaluate(data, size, steps, sample_weight, callbacks or ())
        if verbose:
            print("evaluate  " + "  ".join(f"{name} {value:.4f}" for name, value in logs.items()))
        if return_dict:
            return logs
        values = list(logs.values())
        return values if len(values) > 1 else values[0]

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: int | str = "auto",
        steps: int | None = None,
        callbacks: Sequence[Callback] | Callback | None = None,
        *,
        samples: int | None = None,
    ) -> Any:
        """The outputs for arrays or tensors, in evaluation mode: an array, batch first.

        `x` may also be a Dataset, a DataLoader, or a generator of batches; `steps` (None: all):
        the most batches. `callbacks`: of these the predict hooks are called. Nothing is shown,
        whatever `verbose` says.

        `samples`: Monte-Carlo dropout instead: (mean, spread) of so many passes with the dropout
        on, see `nn.monte_carlo_predict`; it goes with neither `steps` nor `callbacks`.

        >>> from pyconvopt import layers
        >>> model = Sequential([layers.Dense(8, input_shape=(2,)), layers.Dropout(0.5)])
        >>> mean, spread = model.predict(np.ones((3, 2)), samples=10)
        >>> mean.shape, spread.shape
        ((3, 8), (3, 8))
        """
        from pyconvopt.nn import monte_carlo_predict
        from pyconvopt.training.inference import predict

        size = 256 if batch_size is None else whole("batch_size", batch_size)
        if samples is None:
            return predict(self, x, size, steps, callbacks or ())
        if steps is not None or callbacks:
            raise ValueError("predict(samples=) takes all of x, without steps or callbacks")
        return monte_carlo_predict(self, x, samples, size)

    def summary(self, print_fn: Callable[[str], Any] = print) -> None:
        """Print a table of the layers: output shape, parameters, FLOPs a sample."""
        print_fn(summary.table(self))

    # --- weights and files

    @property
    def trainable(self) -> bool:
        """Whether training changes any layer; setting it freezes or frees them all, as in Keras."""
        return not self.layers or any(layer.trainable for layer in self.layers)

    @trainable.setter
    def trainable(self, value: bool) -> None:
        for layer in self.layers:
            layer.trainable = value

    def count_params(self) -> int:
        """The number of weights, moving statistics included, as Keras counts them."""
        if not self.built:
            raise ValueError("the model is not built yet, so its weights cannot be counted")
        return sum(layer.count_params() for layer in self.layers)

    def get_weights(self) -> list[np.ndarray]:
        """Copies of all weights, layer by layer, in Keras' order and layouts."""
        return [array for layer in self.layers for array in layer.get_weights()]

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        """Overwrite all weights with arrays as `get_weights` gives them.

        Errors: ValueError for a wrong number of arrays or a wrong shape; the weights are then as they
        were.
        """
        counts = [len(layer.all_weights()) for layer in self.layers]
        if sum(counts) != len(weights):
            raise ValueError(f"the model has {sum(counts)} weights, got {len(weights)}")
        rest = iter(weights)
        parts = [list(islice(rest, count)) for count in counts]
        for layer, part in zip(self.layers, parts, strict=True):
            layer.check_weights(part)
        for layer, part in zip(self.layers, parts, strict=True):
            layer.set_weights(part)

    def save(self, path: str | Path) -> None:
        """Write weights, architecture and compile settings to one safetensors file.

        Of `compile` all options are kept but `callbacks`, averages among them: they belong to a run,
        as in Keras; give them to `fit` or `compile` again. What cannot be said by a name is left out,
        with a warning: an optimiser, loss or metric of your own, and then all of `compile`; a
        schedule or penalties of your own, and then those alone. Not in the file are the optimiser's
        state and what `fit` was given; `fit(checkpoint=)` keeps a whole run.

        Errors: ValueError for a part that no file can hold, such as an activation of your own.
        """
        saving.save(self, path)


def shape_hint(got: tuple[int, ...], expected: Shape) -> str:
    """The likely slip behind a wrong input shape."""
    wanted = expected[1:]
    if got == tuple(wanted):
        return ": one sample needs a batch axis, x[None]"
    if len(wanted) == 3 and len(got) == 3 and wanted[-1] == 1:
        return ": the channel axis is missing, x[..., None] adds it"
    if len(wanted) == 3 and len(got) == 4 and got[1] == wanted[2] and got[2:] == wanted[:2]:
        return ": the channels must come last, np.moveaxis(x, 1, -1)"
    return ""
