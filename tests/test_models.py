"""Sequential: assembly, shapes at its doors, logits, summary, weights, files."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
import torch

import pyconvopt as pco
from pyconvopt import layers, models, regularizers, schedules
from pyconvopt.models.export import export, program
from pyconvopt.training import EarlyStopping


def small(**conv) -> models.Sequential:
    return models.Sequential(
        [
            layers.Conv2D(4, 3, activation="relu", input_shape=(8, 8, 1), **conv),
            layers.BatchNormalization(),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(3, activation="softmax"),
        ]
    )


class TestAssembly:
    def test_names_and_state_dict(self):
        model = small()
        model.add(layers.Dense(2))
        assert [layer.name for layer in model.layers] == [
            "conv2d",
            "batch_normalization",
            "max_pooling2d",
            "flatten",
            "dense",
            "dense_1",
        ]
        assert "conv2d.weight" in model.state_dict()
        assert isinstance(model, torch.nn.Module)

    def test_input_layer_gives_the_shape_and_is_not_listed(self):
        model = models.Sequential([layers.Input(shape=(8, 8, 3)), layers.Flatten()])
        assert model.output_shape == (None, 192) and len(model.layers) == 1

    def test_a_layer_keeps_the_name_it_has_in_a_model(self):
        model = small()
        for layer in model.layers:
            with pytest.raises(ValueError, match=f"the layer '{layer.name}' is in a model, by who"):
                layer.name = "other"
            layer.name = layer.name
        assert list(model._modules) == [layer.name for layer in model.layers]
        taken, copied = model.pop(), copy.deepcopy(model.layers[0])
        for layer in (taken, copied, pickle.loads(pickle.dumps(model)).layers[0]):
            layer.name = "other"
            assert layer.name == "other"

    def test_built_at_the_first_call(self):
        model = models.Sequential([layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(2)])
        assert not model.built and model.output_shape is None
        with pytest.raises(ValueError, match="not built"):
            model.count_params()
        assert model(torch.zeros(5, 8, 8, 3)).shape == (5, 2)
        assert model.built and model.input_shape == (None, 8, 8, 3)

    def test_build_with_a_shape(self):
        model = models.Sequential([layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(2)])
        with pytest.raises(ValueError, match="input shape is not known"):
            model.build()
        model.build((None, 8, 8, 1))
        assert model.output_shape == (None, 2)

    def test_another_shape_than_the_one_known(self):
        model = models.Sequential([layers.Input((3,))])
        with pytest.raises(ValueError, match=r"takes inputs of shape \(N, 3\), got \(N, 5\)"):
            model.add(layers.Dense(2, input_shape=(5,)))
        model.add(layers.Dense(2, input_shape=(3,)))
        model.build((None, 3))
        with pytest.raises(ValueError, match=r"takes inputs of shape \(N, 3\), got \(N, 7\)"):
            model.build((None, 7))
        again = models.Sequential([layers.Dense(2, input_shape=(3,))])
        again.pop()
        again.add(layers.Dense(2, input_shape=(5,)))
        assert again.output_shape == (None, 2) and again.input_shape == (None, 5)

    def test_an_input_shape_that_was_refused_is_forgotten(self):
        model = models.Sequential()
        with pytest.raises(ValueError, match="too small"):
            model.add(layers.Conv2D(2, 5, input_shape=(4, 4, 1)))
        model.add(layers.Conv2D(2, 5, input_shape=(6, 6, 1)))
        assert model.output_shape == (None, 2, 2, 2)
        late = models.Sequential([layers.Conv2D(2, 5), layers.Flatten()])
        with pytest.raises(ValueError, match="too small"):
            late(torch.zeros(1, 4, 4, 1))
        assert late(torch.zeros(1, 6, 6, 1)).shape == (1, 8)

    def test_a_model_without_layers(self):
        assert models.Sequential(None).layers == []
        with pytest.raises(ValueError, match="no layers"):
            models.Sequential()(torch.zeros(1, 2))

    def test_pop(self):
        model = small()
        assert model.pop().name == "dense"
        assert model.output_shape == (None, 36)
        model.add(layers.Dense(7))
        assert model.output_shape == (None, 7)
        with pytest.raises(ValueError, match="no layer to pop"):
            models.Sequential().pop()

    def test_refused_layers_leave_the_model_as_it_was(self):
        model = small()
        before = list(model.state_dict())
        with pytest.raises(TypeError, match=r"takes a layer of pyconvopt.layers, got ReLU"):
            model.add(torch.nn.ReLU())
        with pytest.raises(TypeError, match=r"write Conv2D\(...\)"):
            model.add(layers.Conv2D)
        with pytest.raises(ValueError, match="takes inputs of 4 axes"):
            model.add(layers.Conv2D(2, 3))
        with pytest.raises(ValueError, match="used twice"):
            model.add(layers.Dense(2, name="dense"))
        with pytest.raises(ValueError, match="member of that name"):
            model.add(layers.Dense(2, name="fit"))
        with pytest.raises(ValueError, match="dot"):
            model.add(layers.Dense(2, name="a.b"))
        with pytest.raises(ValueError, match="in this model already"):
            model.add(model.layers[0])
        assert list(model.state_dict()) == before and len(model.layers) == 5

    def test_a_layer_that_was_built_for_other_inputs(self):
        layer = layers.Dense(3)
        layer.build((None, 10))
        model = models.Sequential([layers.Dense(5, input_shape=(4,))])
        with pytest.raises(
            ValueError, match=r"built for inputs of shape \(N, 10\) and cannot follow"
        ):
            model.add(layer)
        assert model.output_shape == (None, 5)
        with pytest.raises(ValueError, match="cannot follow"):
            models.Sequential([layers.Dense(5), layer]).build((None, 4))
        wide = models.Sequential([layers.Dense(10, input_shape=(4,)), layer])
        assert wide.output_shape == (None, 3)

    def test_frozen_and_freed_as_a_whole(self):
        model = small()
        model.trainable = False
        assert not model.trainable and not any(each.requires_grad for each in model.parameters())
        model.layers[0].trainable = True
        assert model.trainable
        model.trainable = True
        assert all(each.requires_grad for each in model.parameters())

    def test_too_small_an_image_names_the_layer(self):
        model = models.Sequential([layers.MaxPooling2D(4, input_shape=(8, 8, 1))])
        with pytest.raises(ValueError, match="conv2d: an image of 2×2 is too small"):
            model.add(layers.Conv2D(2, 3))


class TestRunning:
    def test_array_axes_in_and_out(self):
        model = models.Sequential([layers.Conv2D(4, 3, input_shape=(8, 9, 2))])
        x = torch.randn(5, 8, 9, 2)
        y = model(x)
        assert y.shape == (5, 6, 7, 4)
        inner = model.layers[0](x.permute(0, 3, 1, 2))
        assert torch.equal(y, inner.permute(0, 2, 3, 1))

    def test_logits_are_the_output_before_softmax(self):
        for ending in (
            [layers.Dense(3, activation="softmax")],
            [layers.Dense(3), layers.Softmax()],
            [layers.Dense(3), layers.Activation("softmax")],
        ):
            model = models.Sequential([layers.Input((4,)), *ending])
            x = torch.randn(6, 4)
            assert model.output_activation == "softmax"
            torch.testing.assert_close(torch.softmax(model(x, logits=True), 1), model(x))
        assert models.Sequential([layers.Dense(3, "tanh")]).output_activation is None

    def test_hooks_of_the_last_layer_run_also_for_logits(self):
        model = small()
        seen = []
        model.layers[-1].register_forward_hook(lambda *arguments: seen.append(1))
        model(torch.zeros(2, 8, 8, 1), logits=True)
        assert seen == [1]

    @pytest.mark.parametrize(
        ("shape", "hint"),
        [
            ((8, 8, 1), r"x\[None\]"),
            ((5, 8, 8), r"x\[..., None\]"),
            ((5, 1, 8, 8), "channels must come last"),
            ((5, 9, 8, 1), r"takes inputs of shape \(N, 8, 8, 1\), got \(5, 9, 8, 1\)"),
        ],
    )
    def test_wrong_input_shapes(self, shape, hint):
        with pytest.raises(ValueError, match=hint):
            small()(torch.zeros(shape))

    def test_predict_in_batches_is_predict_at_once(self):
        model = small()
        x = np.random.default_rng(0).random((11, 8, 8, 1))
        np.testing.assert_allclose(
            model.predict(x, batch_size=4), model.predict(x), rtol=1e-5, atol=1e-6
        )
        assert model.training, "predict leaves the mode as it was"

    def test_arrays_are_for_predict(self):
        for x in (np.zeros((2, 8, 8, 1)), [[1.0]]):
            with pytest.raises(TypeError, match=r"called with a torch tensor.*predict\(\)"):
                small()(x)

    def test_batches_of_nothing(self):
        model = small()
        model.compile("sgd", "sparse_categorical_crossentropy")
        x = np.zeros((2, 8, 8, 1))
        for call in (
            lambda: model.predict(x, batch_size=0),
            lambda: model.evaluate(x, np.zeros(2), batch_size=0),
        ):
            with pytest.raises(ValueError, match="batch_size must be a whole number >= 1, got 0"):
                call()

    def test_summary_counts_what_is_trained_also_without_gradients(self):
        lines: list[str] = []
        with torch.no_grad():
            small().double().summary(lines.append)
        assert "Trainable params: 159\n" in lines[0] and "(1.30 KiB)" in lines[0]

    def test_summary(self):
        lines = []
        small().summary(print_fn=lines.append)
        text = "\n".join(lines)
        # 4·(9+1) + 4·4 + 36·3+3; a convolution of 6·6·4 outputs at 2·9+2 FLOPs each.
        assert "Total params: 167" in text and "Non-trainable params: 8" in text
        assert "2,880" in text and "(N, 6, 6, 4)" in text

    def test_copies_and_pickles(self):
        model = small()
        model.compile("sgd", "sparse_categorical_crossentropy")
        x, y = np.random.default_rng(0).random((8, 8, 8, 1)), np.arange(8) % 3
        model.fit(x, y, verbose=0)
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            np.testing.assert_array_equal(other.predict(x), model.predict(x))
            other.fit(x, y, verbose=0)
            assert not np.array_equal(other.predict(x), model.predict(x))


class TestFiles:
    def test_saved_and_loaded(self, tmp_path):
        model = small(kernel_regularizer=regularizers.L2(0.5), kernel_initializer="he_normal")
        model.layers[0].trainable = False
        model.compile("sgd", "sparse_categorical_crossentropy", ["acc"])
        x = np.random.default_rng(0).random((8, 8, 8, 1))
        model.fit(x, np.arange(8) % 3, verbose=0)
        model.save(tmp_path / "new" / "model.safetensors")
        loaded = models.load(tmp_path / "new" / "model.safetensors")
        np.testing.assert_array_equal(loaded.predict(x), model.predict(x))
        assert loaded.layers[0].kernel_regularizer == regularizers.L2(0.5)
        assert not loaded.layers[0].weight.requires_grad
        assert loaded.layers[0].weight.is_contiguous(memory_format=torch.channels_last)
        assert loaded.evaluate(x, np.arange(8) % 3, verbose=0) == pytest.approx(
            model.evaluate(x, np.arange(8) % 3, verbose=0)
        )
        assert [file.name for file in (tmp_path / "new").iterdir()] == ["model.safetensors"]

    def test_every_layer_comes_back(self, tmp_path):
        model = models.Sequential(
            [
                layers.Rescaling(0.5, offset=0.1, input_shape=(16, 16, 2)),
                layers.Normalization(mean=[0.1, 0.2], variance=0.5),
                layers.Views(shift=1),
                layers.PatchWhitening(8, 2, padding="same"),
                layers.Architecture("unet", {"width": 4, "depth": 1, "num_classes": 2}),
                layers.Conv2D(4, (3, 2), strides=2, padding="same"),
                layers.Conv2DTranspose(4, 3, padding="same"),
                layers.SpatialDropout2D(0.1),
                layers.ZeroPadding2D(((0, 1), (1, 0))),
                layers.GroupNormalization(2),
                layers.GhostBatchNormalization(4),
                layers.BatchRenormalization(r_max=schedules.Constant(2.0)),
                layers.FilterResponseNormalization(learned_epsilon=True),
                layers.DropBlock2D(0.1, 3),
                layers.ScheduledDropout(0.2, steps=10),
                layers.Residual(
                    [
                        layers.Conv2D(4, 3, padding="same", weight_standardization=True),
                        layers.BatchNormalization(),
                        layers.DropPath(0.1),
                    ]
                ),
                layers.DropPath(0.1),
                layers.PReLU("ones", shared_axes=(1, 2)),
                layers.GaussianNoise(0.1),
                layers.UpSampling2D(2, interpolation="bilinear"),
                layers.LayerNormalization(),
                layers.LeakyReLU(0.2),
                layers.GaussianDropout(0.1),
                layers.Cropping2D((1, 2)),
                layers.ELU(0.5),
                layers.AlphaDropout(0.1),
                layers.ActivityRegularization(l1=0.1),
                layers.ReLU(max_value=6.0),
                layers.AveragePooling2D(2, 1),
                layers.MaxPooling2D(3, 2, padding="same"),
                layers.BatchNormalization(momentum=0.5, scale=False),
                layers.Activation("tanh"),
                layers.GlobalMaxPooling2D(keepdims=True),
                layers.GlobalAveragePooling2D(),
                layers.Dropout(0.3),
                layers.Reshape((2, -1)),
                layers.Conv1D(4, 2),
                layers.Flatten(),
                layers.Dense(3, use_bias=False),
                layers.MeanOfViews(10),
                layers.Softmax(),
            ]
        )
        assert {type(layer).__name__ for layer in model.layers} == set(layers.TABLE)
        model.save(tmp_path / "m")
        loaded = models.load(tmp_path / "m")
        assert [each.get_config() for each in loaded.layers] == [
            each.get_config() for each in model.layers
        ]
        x = np.random.default_rng(0).random((3, 16, 16, 2))
        np.testing.assert_array_equal(loaded.predict(x), model.predict(x))

    def test_the_type_of_the_weights_is_kept(self, tmp_path):
        model = small().double()
        model.save(tmp_path / "model")
        again = models.load(tmp_path / "model")
        assert again.layers[0].weight.dtype == torch.float64
        assert again.layers[0].weight.is_contiguous(memory_format=torch.channels_last)
        x = np.random.default_rng(0).normal(size=(3, 8, 8, 1))
        np.testing.assert_array_equal(again.predict(x), model.predict(x))

    def test_numbers_of_numpy_in_the_settings(self, tmp_path):
        model = models.Sequential([layers.Dropout(np.float32(0.5), input_shape=(3,))])
        model.compile("sgd", "mse", learning_rate=np.float32(0.5))
        model.save(tmp_path / "model")
        assert models.load(tmp_path / "model").layers[0].rate == 0.5

    def test_a_weight_of_two_layers(self, tmp_path):
        model = models.Sequential([layers.Dense(3, input_shape=(3,)), layers.Dense(3)])
        model.layers[1].weight = model.layers[0].weight
        with pytest.raises(ValueError, match=r"dense.weight and dense_1.weight are one weight"):
            model.save(tmp_path / "model")
        export(model, tmp_path / "weights.safetensors")

    def test_reshaped_batches_of_any_size_are_exported(self):
        model = models.Sequential([layers.Reshape((2, 2), input_shape=(4,))])
        assert program(model).module()(torch.zeros(5, 4)).shape == (5, 2, 2)

    def test_what_no_file_can_hold(self, tmp_path):
        model = models.Sequential([layers.Dense(2, activation=torch.cos, input_shape=(3,))])
        with pytest.raises(ValueError, match="cannot be saved"):
            model.save(tmp_path / "m")
        assert list(tmp_path.iterdir()) == []
        model = models.Sequential([layers.Dense(2, input_shape=(3,))])
        model.compile("sgd", lambda outputs, targets: outputs.sum())
        with pytest.warns(UserWarning, match="compile the model after loading"):
            model.save(tmp_path / "m")
        with pytest.raises(RuntimeError, match="not compiled"):
            models.load(tmp_path / "m").fit(np.zeros((2, 3)), np.zeros(2))

    def test_activations_with_weights_and_settings(self, tmp_path):
        model = models.Sequential(
            [
                layers.Conv2D(4, 3, activation=torch.nn.PReLU(4, 0.3), input_shape=(6, 6, 1)),
                layers.Activation(pco.nn.Tanh()),
                layers.Flatten(),
                layers.Dense(3, torch.nn.LeakyReLU(0.3)),
            ]
        )
        assert model.count_params() == sum(each.numel() for each in model.parameters())
        assert model.layers[0].count_params() == 4 * 9 + 4 + 4
        lines: list[str] = []
        model.summary(lines.append)
        assert f"Trainable params: {model.count_params():,}" in lines[0]
        x = np.random.default_rng(0).normal(size=(6, 6, 6, 1))
        model.compile("sgd", "cross_entropy")
        model.fit(x, np.arange(6) % 3, verbose=0)
        model.save(tmp_path / "m")
        loaded = models.load(tmp_path / "m")
        np.testing.assert_array_equal(loaded.predict(x), model.predict(x))
        assert isinstance(loaded.layers[0].activation, torch.nn.PReLU)
        assert loaded.layers[3].activation.negative_slope == 0.3
        model.set_weights([each + 1 for each in loaded.get_weights()])
        wanted = loaded.layers[0].activation.weight + 1
        assert torch.equal(model.layers[0].activation.weight, wanted)

    def test_schedule_and_penalties_are_kept(self, tmp_path):
        model = small()
        schedule = schedules.Cosine(0.1, 1).warmup(0.1).over_run()
        penalties = {"conv2d.weight": regularizers.L2(0.5), "*.bias": "l1"}
        model.compile("sgd", "cross_entropy", schedule=schedule, regularizers=penalties)
        model.save(tmp_path / "m")
        trainer = models.load(tmp_path / "m").trainer()
        assert trainer.schedule == schedule
        kept = {name: regularizers.get(spec) for name, spec in trainer.regularizers.items()}
        assert kept == {"conv2d.weight": regularizers.L2(0.5), "*.bias": regularizers.L1()}
        trainer.fit((torch.randn(8, 8, 8, 1), torch.arange(8) % 3), verbose=0)
        model.compile(
            "sgd",
            "cross_entropy",
            schedule=lambda step: 0.1,
            regularizers={"*.weight": regularizers.L2(schedules.Constant(0.1))},
        )
        with pytest.warns(UserWarning) as warned:
            model.save(tmp_path / "m")
        said = [str(each.message) for each in warned]
        assert ["without its schedule" in said[0], "without its regularizers" in said[1]] == [
            True
        ] * 2
        assert warned[0].filename == __file__
        assert models.load(tmp_path / "m").trainer().schedule is None

    def test_options_of_compile_are_kept_but_callbacks(self, tmp_path):
        model = small()
        options = {"accumulate": 2, "clip_value": 0.5, "guard": False, "sync_batchnorm": False}
        stop = EarlyStopping("loss")
        model.compile("sgd", "cross_entropy", callbacks=[stop], learning_rate=0.3, **options)
        model.save(tmp_path / "m")
        trainer = models.load(tmp_path / "m").trainer()
        assert trainer.given_options == options | {"learning_rate": 0.3}
        assert not trainer.wants_guard and not trainer.sync_batchnorm and not trainer.callbacks
        model.compile("sgd", "cross_entropy")
        model.save(tmp_path / "m")
        trainer = models.load(tmp_path / "m").trainer()
        assert trainer.given_options == {} and trainer.wants_guard and trainer.sync_batchnorm

    def test_damaged_files(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="there is no model file"):
            models.load(tmp_path / "none")
        model = small()
        model.save(tmp_path / "m")
        content = (tmp_path / "m").read_bytes()
        (tmp_path / "cut").write_bytes(content[:-100])
        with pytest.raises(ValueError, match="damaged"):
            models.load(tmp_path / "cut")
        (tmp_path / "text").write_text("no model at all")
        with pytest.raises(ValueError, match="damaged"):
            models.load(tmp_path / "text")
        save_file = pytest.importorskip("safetensors.torch").save_file
        save_file({"a": torch.zeros(1)}, tmp_path / "plain")
        with pytest.raises(ValueError, match="holds weights but no model"):
            models.load(tmp_path / "plain")
        header = {"version": 1, "name": "m", "input_shape": [3], "layers": [], "compile": None}
        header["layers"] = [{"class": "os.system", "config": {}}]
        save_file({"a": torch.zeros(1)}, tmp_path / "odd", {"pyconvopt": json.dumps(header)})
        with pytest.raises(ValueError, match=r"unknown layer 'os.system'"):
            models.load(tmp_path / "odd")


class TestWeights:
    def test_get_and_set(self):
        first, second = small(), small()
        second.set_weights(first.get_weights())
        x = np.random.default_rng(0).random((3, 8, 8, 1))
        np.testing.assert_array_equal(first.predict(x), second.predict(x))
        with pytest.raises(ValueError, match="the model has 8 weights, got 7"):
            second.set_weights(first.get_weights()[:-1])

    def test_what_does_not_fit_changes_nothing(self):
        model = small()
        before = model.get_weights()
        zeros = [np.zeros_like(each) for each in before]
        with pytest.raises(ValueError, match=r"dense: bias has shape \(3,\), got \(4,\)"):
            model.set_weights([*zeros[:-1], np.zeros(4)])
        with pytest.raises(TypeError, match="numpy"):
            model.layers[-1].set_weights([zeros[-2], np.array(["a", "b", "c"])])
        for got, wanted in zip(model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(got, wanted)
