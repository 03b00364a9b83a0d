"""Recipes: read, changed, written back, built; what is refused."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from pyconvopt import averaging, losses, models, regularizers, schedules
from pyconvopt.data import augment
from pyconvopt.training.recipes import Recipe, known_names, parse_value, toml
from pyconvopt.training.run import fit_recipe, load_images, run_recipe
from pyconvopt.training.run import images as run_images

from .tiny_data import write_tiny_set


class TestRecipes:
    def test_the_seed_recipe_is_the_articles_program(self):
        model = Recipe.load("seed").model((28, 28, 1))
        assert [type(layer).__name__ for layer in model.layers] == [
            "Conv2D",
            "MaxPooling2D",
            "Conv2D",
            "MaxPooling2D",
            "Conv2D",
            "Flatten",
            "Dense",
            "Dense",
        ]
        assert model.count_params() == 93322
        assert Recipe.load("seed").table["fit"]["batch_size"] == 64

    def test_written_and_read_back(self, tmp_path):
        recipe = Recipe.load("seed")
        recipe.set("fit.epochs", 2)
        recipe.set("layers.0.kernel_regularizer", {"name": "l2", "config": {"l": 1e-4}})
        (tmp_path / "own.toml").write_text(recipe.to_toml())
        again = Recipe.load(str(tmp_path / "own.toml"))
        assert again.table == recipe.table
        assert again.model((28, 28, 1)).layers[0].kernel_regularizer.l == 1e-4

    def test_how_updates_are_made_is_saved_with_the_model(self, tmp_path):
        pytest.importorskip("safetensors")
        recipe = Recipe.load("seed")
        recipe.set("compile.learning_rate", 0.003)
        recipe.set("compile.accumulate", 2)
        recipe.set("compile.clip_norm", 1.0)
        clip = {"clipping": 0.02, "eps": 1e-3, "leave_out": ["*.bias"]}
        recipe.set("compile.adaptive_clip", clip)
        (tmp_path / "own.toml").write_text(recipe.to_toml())
        again = Recipe.load(str(tmp_path / "own.toml"))
        assert again.name == "seed" and again.table == recipe.table
        again.model((28, 28, 1)).save(tmp_path / "model")
        trainer = models.load(tmp_path / "model").trainer()
        given = {"learning_rate": 0.003, "accumulate": 2, "clip_norm": 1.0, "adaptive_clip": clip}
        assert trainer.given_options == given
        trainer.fit((np.zeros((4, 28, 28, 1)), np.zeros(4, int)), batch_size=2, verbose=0)
        assert trainer.optimizer.param_groups[0]["lr"] == 0.003 and trainer.step_number == 1

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("fit.epoch", 3, "did you mean 'epochs'"),
            ("fits.epochs", 3, "did you mean 'fit'"),
            ("fit.epochs", "many", "fit.epochs must be int, got 'many'"),
            ("fit.epochs", 0, "must be 1 or more, got 0"),
            ("fit.validation", "tset", "did you mean 'test'"),
            ("fit.validation_freq", 0, "must be 1 or more, got 0"),
            ("fit.seed", -1, "must be 0 or more, got -1"),
            ("data.scale", 0, "data.scale must be a number above 0, got 0"),
            ("data.scale", -1.0, "data.scale must be a number above 0, got -1.0"),
            ("data.test_share", 1.0, "data.test_share must be between 0 and 1, got 1.0"),
            ("data.damaged", "skipp", "did you mean 'skip'"),
            ("compile.metrics", ["foo"], "unknown metric 'foo'"),
            ("compile.metrics", [3], r"\[compile\] of the recipe: a metric is"),
            ("compile.loss", {}, "loss: a mapping needs the method's 'name', got {}"),
            ("compile.optimizer", "adan", "unknown optimizer 'adan': did you mean 'adam'"),
            ("compile.learning_rate", -1, "learning_rate must be a number of 0 or more, got -1"),
            ("compile.learning_rate", math.inf, "learning_rate must be a number"),
            ("compile.clip_norm", -1, "clip_norm must be more than 0, got -1"),
            ("compile.accumulate", -2, "accumulate must be a whole number >= 1, got -2"),
            ("layers.0.type", "Conv9", "layers.0 of the recipe: unknown layer 'Conv9'"),
            ("layers.0.filters", "abc", "layers.0 of the recipe: Conv2D: filters must be"),
            ("layers.0.filter", 3, "layers.0 of the recipe: .*'filter'"),
            ("layers.0.use_bias", "False", "0 of .*use_bias must be true or false, got 'False'"),
            ("layers.0.trainable", "yes", "0 of .*trainable must be true or false, got 'yes'"),
            ("layers.9.filters", 3, "layers 0 ... 7"),
            ("epochs", 3, "section.key"),
        ],
    )
    def test_refused_changes_change_nothing(self, key, value, message):
        recipe = Recipe.load("seed")
        with pytest.raises(ValueError, match=message):
            recipe.set(key, value)
        assert recipe.table == Recipe.load("seed").table

    def test_refused_files(self, tmp_path):
        with pytest.raises(ValueError, match="unknown recipe 'sed': did you mean 'seed'"):
            Recipe.load("sed")
        with pytest.raises(ValueError, match="there is no recipe file"):
            Recipe.load(str(tmp_path / "none.toml"))
        (tmp_path / "bad.toml").write_text("a = ")
        with pytest.raises(ValueError, match="is not TOML"):
            Recipe.load(str(tmp_path / "bad.toml"))
        (tmp_path / "short.toml").write_text("[fit]\nepochs = 1\n")
        with pytest.raises(ValueError, match=r"the recipe lacks data.name"):
            Recipe.load(str(tmp_path / "short.toml"))
        text = Recipe.load("seed").to_toml()
        path = tmp_path / "numbers.toml"
        path.write_text(text[: text.index("[[layers]]")].replace("[data]", "layers = [1]\n[data]"))
        with pytest.raises(ValueError, match=r"layers.0 lacks its type, got 1"):
            Recipe.load(str(path))


FULL = """
[data]
name = "fashion-mnist"
scale = 1.0
standardize = true

[fit]
epochs = 2
batch_size = 32
seed = 3
validation = "none"

[compile]
optimizer = "sgd"
loss = {name = "sparse_categorical_crossentropy", config = {label_smoothing = 0.1}}
metrics = ["accuracy"]

[optimizer]
momentum = 0.9
weight_decay = 0.01
no_decay = ["bias", "norm"]

[schedule]
name = "cosine"
unit = "epochs"
lr = 0.2
n = 2
warmup = 0.5

[averaging]
name = "ema"
decay = 0.5

[regularizers]
"*conv1.weight" = {name = "l2", config = {l = 0.001}}

[[augment]]
type = "RandomCrop"
padding = 2

[[augment]]
type = "MixUp"
alpha = 0.3

[model]
architecture = "resnet_cifar"
depth = 8
"""


@pytest.fixture
def full(tmp_path):
    """A recipe that has every section, and some images for it."""
    (tmp_path / "full.toml").write_text(FULL)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (64, 12, 12, 1), dtype=np.uint8)
    return Recipe.load(str(tmp_path / "full.toml")), (images, np.arange(64) % 4)


class TestFullRecipes:
    def test_what_it_makes(self, full):
        recipe, (x, y) = full
        model = recipe.model_for(x, y)
        names = [type(layer).__name__ for layer in model.layers]
        assert names == ["Normalization", "Architecture", "Activation"]
        assert model.output_shape == (None, 4) and model.output_activation == "softmax"
        assert abs(model.layers[0].get_weights()[0][0] - x.mean()) < 1e-3
        trainer = model.trainer()
        assert trainer.schedule == schedules.Cosine(0.2, 2).warmup(0.5).per_epoch()
        assert trainer.loss == losses.SparseCategoricalCrossentropy(label_smoothing=0.1)
        assert [type(each) for each in trainer.callbacks] == [averaging.EMA]
        assert trainer.callbacks[0].decay == 0.5
        batches = recipe.batches(x, y)
        assert batches.augment.transforms == [augment.RandomCrop(2), augment.MixUp(0.3)]
        assert batches.batch_size == 32 and batches.seed == 3

    def test_trained(self, full):
        recipe, data = full
        model, history = fit_recipe(recipe, data, None, verbose=0)
        groups = model.optimizer.param_groups
        assert [group["weight_decay"] for group in groups] == [0.01, 0.0]
        assert all(group["momentum"] == 0.9 for group in groups)
        convolutions = [each for each in model.parameters() if each.dim() == 4]
        # The shortcuts' and blocks' filters and the last matrix decay, norms and biases do not.
        assert len(groups[0]["params"]) == len(convolutions) + 1
        penalised = regularizers.terms(model, patterns=model.trainer().regularizers)
        assert len(penalised) == sum("conv1.weight" in n for n, _ in model.named_parameters())
        assert len(history.history["loss"]) == 2 and model.trainer().step_number == 4

    def test_the_same_run_twice(self, full):
        recipe, data = full
        first, again = (fit_recipe(recipe, data, None, verbose=0)[0] for _ in range(2))
        for name, tensor in first.state_dict().items():
            assert torch.equal(tensor, again.state_dict()[name]), name

    def test_written_and_read_back(self, full, tmp_path):
        recipe, _ = full
        recipe.set("regularizers.*fc.weight", {"name": "l1", "config": {"l": 1e-3}})
        recipe.set("augment.1.alpha", 0.4)
        recipe.set("schedule.lr", 0.3)
        recipe.set("model.depth", 14)
        (tmp_path / "again.toml").write_text(recipe.to_toml())
        assert Recipe.load(str(tmp_path / "again.toml")).table == recipe.table
        assert recipe.table["regularizers"]["*fc.weight"]["name"] == "l1"

    def test_the_optimizers_settings_are_saved_with_the_model(self, full, tmp_path):
        pytest.importorskip("safetensors")
        recipe, (x, y) = full
        recipe.model_for(x, y).save(tmp_path / "model")
        again = models.load(tmp_path / "model")
        again.fit(x, y, verbose=0)
        assert again.optimizer.param_groups[0]["momentum"] == 0.9

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("schedule.name", "cosin", "did you mean 'cosine'"),
            ("schedule.unit", "epoch", "did you mean 'epochs'"),
            ("schedule.gamma", 0.1, "unknown argument of schedule cosine 'gamma': Known: "),
            ("compile.learning_rate", 0.1, "give schedule.lr"),
            ("averaging.name", "emma", "did you mean 'ema'"),
            ("averaging.decay", 2.0, "decay must lie between 0 and 1"),
            ("averaging.decay", "x", "average ema: decay must be a number, got 'x'"),
            ("averaging.at_end", "no", "average ema: at_end must be true or false, got 'no'"),
            ("schedule.unit", 3, "schedule.unit must be a name, got 3"),
            ("schedule.warmup", "a", "schedule.warmup: n must be a number, got 'a'"),
            ("optimizer.no_decay", 3, "optimizer.no_decay must be names of weights, got 3"),
            ("optimizer.nesterov", "no", "optimizer sgd: nesterov must be true or false, got 'no'"),
            ("model.depth", "8", "resnet_cifar: depth must be a whole number, got '8'"),
            (
                "compile.loss",
                {"name": "huber", "config": {"delta": "a"}},
                "huber: delta must be a n",
            ),
            ("data.image_size", [28], "data.image_size must be two whole numbers of 1 or more"),
            ("data.image_size", ["a", 2], "data.image_size must be two whole numbers of 1 or more"),
            ("augment.0.type", "RandomCorp", "did you mean 'RandomCrop'"),
            (
                "augment.0.pading",
                3,
                "argument of augmentation RandomCrop 'pading': did you mean 'padding'",
            ),
            ("augment.5.padding", 3, r"has augment 0 ... 1"),
            ("layers.0.units", 3, r"has no \[\[layers\]\]"),
            ("regularizers.*.weight", "l3", "unknown regularizer 'l3'"),
            ("data.standardize", 1, "data.standardize must be bool, got 1"),
            ("fit.epochs", True, "fit.epochs must be int, got True"),
            ("model", "resnet18", "names nothing in a recipe"),
            ("models.depth", 8, "did you mean 'model'"),
        ],
    )
    def test_refused_changes_change_nothing(self, full, key, value, message):
        recipe, _ = full
        before = recipe.to_toml()
        with pytest.raises(ValueError, match=message):
            recipe.set(key, value)
        assert recipe.to_toml() == before

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("[model]", "[[layers]]", "layers.0 lacks its type"),
            ("[model]", "[[layers]]\ntype = 'Flatten'\n[model]", "leave one of them out"),
            ('architecture = "resnet_cifar"', "", r"\[model\] lacks its architecture"),
            ("[schedule]", "[[schedule]]", r"schedule must be written as \[schedule\]"),
            ("[[augment]]", "[augment]", "TOML|written as"),
        ],
    )
    def test_refused_files(self, tmp_path, old, new, message):
        (tmp_path / "bad.toml").write_text(FULL.replace(old, new))
        with pytest.raises(ValueError, match=message):
            Recipe.load(str(tmp_path / "bad.toml"))

    def test_callbacks(self, tmp_path, full):
        _, (x, y) = full
        entries = """
        [[callbacks]]
        type = "EarlyStopping"
        monitor = "loss"
        min_delta = 100.0
        [[callbacks]]
        type = "ReduceLROnPlateau"
        monitor = "loss"
        factor = 0.5
        """
        path = tmp_path / "called.toml"
        schedule = FULL[FULL.index("[schedule]") : FULL.index("[averaging]")]
        path.write_text(FULL.replace(schedule, "") + entries)
        recipe = Recipe.load(str(path))
        recipe.set("fit.epochs", 5)
        recipe.set("callbacks.1.patience", 3)
        (tmp_path / "again.toml").write_text(recipe.to_toml())
        assert Recipe.load(str(tmp_path / "again.toml")).table == recipe.table
        model = recipe.model_for(x, y)
        history = model.fit(recipe.batches(x, y), epochs=5, verbose=0)
        assert len(history.history["loss"]) == 2  # never better by 100
        assert "learning_rate" in history.history
        for old, new, message in (
            ('"EarlyStopping"', '"EarlyStoping"', "unknown callback 'EarlyStoping': did you mean"),
            (
                "factor = 0.5",
                "factr = 0.5",
                "argument of callback ReduceLROnPlateau 'factr': did you mean 'factor'",
            ),
            ("factor = 0.5", "factor = 2.0", "factor"),
            ("factor = 0.5", 'patience = "3"', "Plateau: patience must be a whole number, got '3'"),
            ('monitor = "loss"', "monitor = 3", "EarlyStopping: monitor must be text, got 3"),
            ('monitor = "loss"', "", "EarlyStopping watches val_loss, which fit.validation"),
            ('type = "EarlyStopping"', "", r"\[callbacks\] lacks its type"),
        ):
            path.write_text(FULL.replace(schedule, "") + entries.replace(old, new))
            with pytest.raises(ValueError, match=message):
                Recipe.load(str(path))

        path.write_text(FULL + entries)
        with pytest.raises(ValueError, match=r"\[schedule\], which sets the rate of every step"):
            Recipe.load(str(path))

    def test_an_unknown_argument_of_an_architecture(self, full):
        recipe, _ = full
        with pytest.raises(ValueError, match="unknown argument of resnet_cifar 'width_factor'"):
            recipe.set("model.width_factor", 3)
        with pytest.raises(ValueError, match="unknown architecture 'resnet_sifar'"):
            recipe.set("model.architecture", "resnet_sifar")

    def test_settings_of_the_optimizer(self, full):
        recipe, _ = full
        recipe.check_optimizer()
        recipe.set("compile.optimizer", "adam")
        with pytest.raises(ValueError, match=r"\[optimizer\] of the recipe: .*'momentum'"):
            recipe.check_optimizer()

    def test_an_average_that_would_never_begin(self):
        recipe = Recipe.load("seed")
        with pytest.raises(
            ValueError, match=r"averaging.start must be an epoch .*, got 50 with fit"
        ):
            recipe.change({"averaging.name": "swa", "averaging.start": 50})
        recipe.change({"averaging.name": "swa", "averaging.start": 50, "fit.epochs": 51})

    def test_several_changes_are_judged_together(self, full):
        recipe, _ = full
        with pytest.raises(ValueError, match="did you mean"):
            recipe.change({"fit.epochs": 9, "averaging.name": "swaa"})
        assert recipe.table["fit"]["epochs"] == 2
        recipe.change({"schedule.unit": "run", "schedule.n": 1.0, "schedule.warmup": 0.1})
        assert recipe.table["schedule"]["unit"] == "run"


def test_checking_draws_no_random_numbers(full):
    recipe, _ = full
    before = torch.get_rng_state()
    for name in ("best", "fast", "seed"):
        Recipe.load(name)
    recipe.check()
    recipe.check_optimizer()
    assert torch.equal(torch.get_rng_state(), before)


def test_numbers_without_end_are_written_as_toml_has_them():
    text = toml([math.inf, -math.inf, math.nan, 1.0])
    assert text == "[inf, -inf, nan, 1.0]" and parse_value(text)[:2] == [math.inf, -math.inf]


class TestShippedRecipes:
    @pytest.mark.parametrize("name", known_names())
    def test_it_builds_and_says_what_it_is(self, name):
        recipe = Recipe.load(name)
        with torch.device("meta"):
            model = recipe.model((28, 28, 1), num_classes=10)
        assert model.output_shape == (None, 10) and model.output_activation == "softmax"
        assert Recipe.load(name).to_toml() == recipe.to_toml()

    def test_every_architecture_that_classifies_has_one(self):
        named = {
            Recipe.load(name).table.get("model", {}).get("architecture") for name in known_names()
        }
        assert named - {None} == set(models.ARCHITECTURES) - {"unet"}

    def test_the_best_has_at_most_a_million_parameters(self):
        model = Recipe.load("best").model((28, 28, 1))
        assert sum(each.numel() for each in model.parameters()) <= 1_000_000

    def test_the_fast_one_learns_within_a_second(self):
        # Bars whose height tells the class: a few steps are enough.
        generator = np.random.default_rng(0)
        y = generator.integers(0, 10, 2000)
        x = generator.integers(0, 60, (2000, 28, 28, 1)).astype(np.uint8)
        for image, label in zip(x, y, strict=True):
            image[2 * label : 2 * label + 4] += 180
        model, history = fit_recipe(Recipe.load("fast"), (x, y), None, verbose=0)
        assert history.history["accuracy"][-1] > 0.9
        assert model.evaluate(x, y, verbose=0, return_dict=True)["accuracy"] > 0.95


def test_bytes_stay_bytes_at_a_scale_of_one():
    pixels = np.full((2, 3, 3), 7, np.uint8)
    assert run_images(pixels, 1.0).dtype == np.uint8 and run_images(pixels, 1.0).shape == (
        2,
        3,
        3,
        1,
    )
    assert run_images(pixels, 7.0).tolist() == np.ones((2, 3, 3, 1)).tolist()


def test_validation_after_every_second_epoch(tmp_path, monkeypatch):
    write_tiny_set(tmp_path)
    monkeypatch.setenv("PYCONVOPT_DATA", str(tmp_path))
    recipe = Recipe.load("seed")
    for key, value in (("epochs", 5), ("batch_size", 10), ("validation_freq", 2)):
        recipe.set(f"fit.{key}", value)
    run = run_recipe(recipe, tmp_path / "run", verbose=0)
    assert json.loads((run.folder / "history.json").read_text())["validated"] == [1, 3]
    assert set(run.test) == {"loss", "accuracy"}
    data = load_images(recipe)
    for own, wanted in (({}, [1, 3]), ({"validation_freq": 1}, [0, 1, 2, 3, 4])):
        assert fit_recipe(recipe, *data, verbose=0, **own)[1].validated == wanted
