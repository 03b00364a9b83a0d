"""Recipes: read, changed, written back, built; what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from pyconvopt import models
from pyconvopt.training.recipes import Recipe


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
        (tmp_path / "own.toml").write_text(recipe.to_toml())
        again = Recipe.load(str(tmp_path / "own.toml"))
        assert again.name == "seed" and again.table == recipe.table
        again.model((28, 28, 1)).save(tmp_path / "model")
        trainer = models.load(tmp_path / "model").trainer()
        given = {"learning_rate": 0.003, "accumulate": 2, "clip_norm": 1.0}
        assert trainer.update_options == given
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
        recipe = Recipe.load("seed")
        recipe.set("layers.0.filter", 3)
        with pytest.raises(ValueError, match=r"layers.0 of the recipe: .*'filter'"):
            recipe.model((28, 28, 1))
