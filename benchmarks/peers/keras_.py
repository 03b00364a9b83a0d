"""Keras on TensorFlow: the compiled model's own step, and a bare tf.function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from benchmarks import images, models
from benchmarks.course import Course, workload
from benchmarks.peers import Workload

CHECK_STEPS = 20
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def build(model: models.Model, output: str = "linear") -> keras.Sequential:
    if model.keras is None:
        raise NotImplementedError(f"{model.name} is not written for Keras yet")
    return keras.Sequential([keras.Input(model.input_shape), *model.keras(keras.layers, output)])


def use_threads(threads: int) -> None:
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)


def parameter_count(module: keras.Model) -> int:
    return sum(int(tf.size(w)) for w in module.trainable_variables)


def version() -> str:
    return f"keras {keras.__version__}, tensorflow {tf.__version__}"


def make_train_step(model: models.Model, batch: int, threads: int, *, manner: str) -> Workload:
    use_threads(threads)
    module = build(model)
    module.set_weights(models.keras_weights(module.get_weights()))
    optimizer = keras.optimizers.SGD(models.LEARNING_RATE, models.MOMENTUM)
    x, y = (tf.constant(array) for array in models.example_batch(model, batch))
    make = {"model": model_step, "function": bare_step}[manner]
    run, loss = make(module, optimizer, x, y)
    return Workload(
        run,
        lambda: sum(loss() for _ in range(CHECK_STEPS)) / CHECK_STEPS,
        parameter_count(module),
        version(),
    )


Steps = tuple[Callable[[], Any], Callable[[], float]]


def model_step(module: keras.Model, optimizer: Any, x: tf.Tensor, y: tf.Tensor) -> Steps:
    """What `fit` runs for a batch; it gives the mean loss since the last reset."""
    module.compile(optimizer=optimizer, loss=LOSS)

    def run() -> Any:
        return module.train_on_batch(x, y)

    def loss() -> float:
        module.reset_metrics()
        return float(run())

    return run, loss


def bare_step(module: keras.Model, optimizer: Any, x: tf.Tensor, y: tf.Tensor) -> Steps:
    """A hand-written step, without metrics and checks around it."""
    optimizer.build(module.trainable_variables)

    @tf.function
    def step(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = LOSS(y, module(x, training=True))
        gradients = tape.gradient(loss, module.trainable_variables)
        optimizer.apply(gradients, module.trainable_variables)
        return loss

    def run() -> Any:
        return step(x, y).numpy()

    return run, lambda: float(run())


def make_fit(model: models.Model, batch: int, threads: int, *, data: str, manner: str) -> Workload:
    """An epoch of the article's program: softmax output, Adam, accuracy."""
    if manner != "model":
        raise NotImplementedError("fit is one program: see keras.model")
    use_threads(threads)
    train, test = images.load(data)
    module = build(model, "softmax")
    module.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])

    def epoch() -> Any:
        return module.fit(*train, epochs=1, batch_size=batch, verbose=0)

    def accuracy() -> float:
        return float(module.evaluate(*test, verbose=0)[1])

    return Workload(epoch, accuracy, parameter_count(module), version())


def make_time_to_accuracy(
    model: models.Model,
    batch: int,
    threads: int,
    *,
    data: str,
    manner: str,
    seed: int,
    epochs: int,
    target: float,
) -> Workload:
    """The article's program: compile with Adam, one `fit`."""
    if manner != "model":
        raise NotImplementedError("fit is one program: see keras.model")
    use_threads(threads)

    def train(course: Course) -> None:
        keras.utils.set_random_seed(seed)
        (x, y), (test, labels) = images.load(data)
        module = build(model, "softmax")
        module.compile(
            optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"]
        )

        def look(epoch: int, logs: Any) -> None:
            def accuracy() -> float:
                outputs = module.predict(test, batch_size=256, verbose=0)
                return float((outputs.argmax(1) == labels).mean())

            module.stop_training = course.epoch_ends(accuracy)

        hook = keras.callbacks.LambdaCallback(on_epoch_end=look)
        module.fit(x, y, epochs=epochs, batch_size=batch, verbose=0, callbacks=[hook])

    return workload(train, target, version())
