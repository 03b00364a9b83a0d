"""Data by name or path: folders, .npz files, what is held out, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from pyconvopt import data
from pyconvopt.training.recipes import Recipe
from pyconvopt.training.run import fit_recipe, load_images
from tests.tiny_data import write_tiny_set


@pytest.fixture
def arrays():
    generator = np.random.default_rng(0)
    return {
        "x_train": generator.integers(0, 256, (12, 5, 5), dtype=np.uint8),
        "y_train": np.arange(12) % 3,
        "x_test": generator.integers(0, 256, (6, 5, 5), dtype=np.uint8),
        "y_test": np.arange(6) % 3,
    }


class TestNpz:
    def test_names_for_labels_are_refused(self, tmp_path, arrays):
        np.savez(tmp_path / "x.npz", **{**arrays, "y_train": np.array(list("abcabcabcabc"))})
        with pytest.raises(
            ValueError, match=r"x.npz holds labels of dtype <U1; wanted class numbers"
        ):
            data.load(tmp_path / "x.npz")

    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    def test_keras_names(self, tmp_path, arrays, save):
        save(tmp_path / "digits.npz", **{**arrays, "y_train": arrays["y_train"][:, None]})
        train, test = data.load(tmp_path / "digits.npz")
        for got, name in zip((*train, *test), arrays, strict=True):
            np.testing.assert_array_equal(got, arrays[name])

    def test_a_share_of_each_class_is_held_out(self, tmp_path):
        x, y = np.arange(100), np.repeat([0, 1], [80, 20])
        np.savez(tmp_path / "all.npz", x=x, y=y)
        (train_x, train_y), (test_x, test_y) = data.load(str(tmp_path / "all.npz"), test_share=0.25)
        assert np.bincount(train_y).tolist() == [60, 15] and np.bincount(test_y).tolist() == [20, 5]
        assert sorted([*train_x, *test_x]) == list(range(100))
        again = data.load(str(tmp_path / "all.npz"), test_share=0.25)
        np.testing.assert_array_equal(again[1][0], test_x)

    def test_refusals(self, tmp_path, arrays):
        path = tmp_path / "x.npz"
        with pytest.raises(ValueError, match=r"there is no file .*x.npz"):
            data.load(path)
        path.write_bytes(b"no zip file")
        with pytest.raises(ValueError, match=r"x.npz is no .npz file"):
            data.load(path)
        np.savez(path, x=np.array([{}], object), y=[0])
        with pytest.raises(ValueError, match=r"x.npz is no .npz file of numbers"):
            data.load(path)
        np.savez(path, pictures=[1], y=[0])
        with pytest.raises(ValueError, match=r"holds pictures, y; wanted x_train, .* or x and y"):
            data.load(path)
        np.savez(path, x=np.zeros(3), y=[0, 0, 1])
        with pytest.raises(ValueError, match="class 1 has one sample"):
            data.load(path)
        with pytest.raises(ValueError, match="test_share must lie between 0 and 1, got 1"):
            data.load(path, test_share=1)
        np.savez(path, x=np.zeros(3), y=[0, 0])
        with pytest.raises(ValueError, match="got 3 images and 2 labels"):
            data.load(path)


class TestFolders:
    def put(self, folder, arrays, halves):
        pillow = pytest.importorskip("PIL.Image", reason="pictures need the extra 'images'")
        for half, name in halves.items():
            pairs = zip(arrays[f"x_{name}"], arrays[f"y_{name}"], strict=True)
            for number, (image, label) in enumerate(pairs):
                path = folder / half / f"class{label}" / f"{number:02}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pillow.fromarray(image).save(path)

    def test_divided_by_folders(self, tmp_path, arrays):
        self.put(tmp_path, arrays, {"train": "train", "val": "test"})
        (loaded, classes) = data.load_named(tmp_path)
        assert classes == ("class0", "class1", "class2")
        for (images, labels), half in zip(loaded, ("train", "test"), strict=True):
            order = np.argsort(arrays[f"y_{half}"], kind="stable")
            np.testing.assert_array_equal(images[..., 0], arrays[f"x_{half}"][order])
            np.testing.assert_array_equal(labels, arrays[f"y_{half}"][order])

    def test_undivided(self, tmp_path, arrays):
        self.put(tmp_path, arrays, {".": "train"})
        train, test = data.load(str(tmp_path), image_size=(4, 3))
        assert train[0].shape == (9, 4, 3, 1) and test[0].shape == (3, 4, 3, 1)

    def test_damaged_pictures_by_choice(self, tmp_path, arrays):
        self.put(tmp_path, arrays, {".": "train"})
        (tmp_path / "class1" / "01.png").write_bytes(b"no picture")
        with pytest.raises(ValueError, match=r"01.png cannot be read"):
            data.load(tmp_path)
        with pytest.warns(UserWarning, match="left out 1 of 12 pictures"):
            train, test = data.load(tmp_path, damaged="skip")
        assert len(train[0]) + len(test[0]) == 11

    @pytest.mark.parametrize("halves", [{".": "train"}, {"train": "train", "test": "test"}])
    def test_decoded_batch_by_batch(self, tmp_path, arrays, halves):
        self.put(tmp_path, arrays, halves)
        wanted = data.load(tmp_path)
        for (rows, labels), (images, numbers) in zip(
            data.load(tmp_path, in_memory=False), wanted, strict=True
        ):
            assert isinstance(rows, data.Rows)
            np.testing.assert_array_equal(rows[:].numpy(), images)
            np.testing.assert_array_equal(labels, numbers)

    @pytest.mark.parametrize(("half", "other"), [("train", "test"), ("validation", "train")])
    def test_half_a_set(self, tmp_path, arrays, half, other):
        self.put(tmp_path, arrays, {half: "train"})
        with pytest.raises(ValueError, match=f"holds a folder {half}, but none named {other}"):
            data.load(tmp_path)
        assert len(data.load(tmp_path / half)[0][0]) == 9  # its own share is held out

    def test_a_class_may_be_called_train(self, tmp_path, arrays):
        self.put(tmp_path, arrays, {".": "train"})
        (tmp_path / "class0").rename(tmp_path / "train")
        assert data.load_named(tmp_path)[1] == ("class1", "class2", "train")

    def test_unlike_classes(self, tmp_path, arrays):
        arrays["y_test"][:] = 0
        self.put(tmp_path, arrays, {"train": "train", "test": "test"})
        with pytest.raises(ValueError, match="differ in their classes: class1, class2"):
            data.load(tmp_path)


class TestArrayFolders:
    def put(self, folder, arrays, columns=False):
        for name, values in arrays.items():
            np.save(folder / f"{name}.npy", values[:, None] if columns and "y" in name else values)

    def test_divided(self, tmp_path, arrays):
        self.put(tmp_path, arrays, columns=True)
        train, test = data.load(tmp_path)
        for (rows, labels), half in zip((train, test), ("train", "test"), strict=True):
            assert isinstance(rows, data.MappedArray)
            np.testing.assert_array_equal(rows[:].numpy(), arrays[f"x_{half}"])
            np.testing.assert_array_equal(labels, arrays[f"y_{half}"])

    def test_undivided_as_in_an_npz_file(self, tmp_path, arrays):
        pair = {"x": arrays["x_train"], "y": arrays["y_train"]}
        self.put(tmp_path, pair)
        np.savez(tmp_path / "same.npz", **pair)
        wanted = data.load(tmp_path / "same.npz")
        for (rows, labels), (images, numbers) in zip(data.load(tmp_path), wanted, strict=True):
            assert isinstance(rows, data.Rows)
            np.testing.assert_array_equal(rows[:].numpy(), images)
            np.testing.assert_array_equal(labels, numbers)

    def test_refusals(self, tmp_path, arrays):
        self.put(tmp_path, {"x": arrays["x_train"]})
        with pytest.raises(ValueError, match="holds x; wanted x_train, y_train, x_test, y_test"):
            data.load(tmp_path)
        with pytest.raises(ValueError, match=r"is one array: give a folder that holds x.npy and y"):
            data.load(tmp_path / "x.npy")

    def test_a_recipe_trains_from_disk_as_from_memory(self, tmp_path, arrays):
        (tmp_path / "disk").mkdir()
        self.put(tmp_path / "disk", arrays)
        np.savez(tmp_path / "memory.npz", **arrays)
        weights = []
        for name in ("disk", "memory.npz"):
            recipe = Recipe.load("seed")
            recipe.set("data.name", str(tmp_path / name))
            recipe.set("data.standardize", True)
            recipe.table["layers"] = [
                {"type": "Flatten"},
                {"type": "Dense", "units": 3, "activation": "softmax"},
            ]
            train, test = load_images(recipe)
            assert train[0].shape == (12, 5, 5, 1)
            model, _ = fit_recipe(recipe, train, test, epochs=2, verbose=0)
            weights.append(np.concatenate([each.ravel() for each in model.get_weights()]))
        np.testing.assert_allclose(*weights, rtol=1e-6)


class TestNames:
    def test_a_set_wins_over_a_folder_of_its_name(self, tmp_path, monkeypatch):
        write_tiny_set(tmp_path)
        monkeypatch.setenv("PYCONVOPT_DATA", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        assert (tmp_path / "fashion-mnist").is_dir()
        loaded, classes = data.load_named("Fashion_MNIST")
        assert loaded[0][0].shape == (20, 28, 28) and classes[1] == "Trouser"

    def test_refusals(self, tmp_path, monkeypatch):
        with pytest.raises(ValueError, match="unknown data set 'cifar': did you mean 'cifar10'"):
            data.load("cifar")
        (tmp_path / "photo.jpg").write_bytes(b"")
        with pytest.raises(ValueError, match=r"neither a folder of pictures nor an .npz file"):
            data.load(tmp_path / "photo.jpg")
