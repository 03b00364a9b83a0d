"""Folders of pictures: arrays, batches, sizes, colours, damaged files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from pyconvopt import data, layers, models

pillow = pytest.importorskip("PIL.Image", reason="pictures need the extra 'images'")


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    pillow.fromarray(np.asarray(pixels, np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    """Six grey pictures of 8×6 pixels in two classes; a picture's pixels are its number."""
    for number in range(6):
        write(tmp_path / "photos" / "ab"[number % 2] / f"{number}.png", np.full((8, 6), number))
    (tmp_path / "photos" / "a" / "notes.txt").write_text("no picture")
    return tmp_path / "photos"


class TestImageFolder:
    def test_arrays(self, folder):
        photos = data.ImageFolder(folder)
        images, labels = photos.arrays()
        assert images.shape == (6, 8, 6, 1) and images.dtype == np.uint8
        assert images[:, 0, 0, 0].tolist() == [0, 2, 4, 1, 3, 5]
        assert labels.tolist() == [0, 0, 0, 1, 1, 1] and photos.classes == ["a", "b"]
        image, label = photos[4]
        assert image.unique().tolist() == [3] and label == 1 and len(photos) == 6

    def test_batches_are_decoded_as_they_come(self, folder):
        photos = data.ImageFolder(folder)
        loader = photos.loader(batch_size=4, shuffle=True, seed=0)
        seen = [(x[:, 0, 0, 0].tolist(), y.tolist()) for x, y in loader]
        assert sorted(number for x, _ in seen for number in x) == [0, 1, 2, 3, 4, 5]
        assert all(label == number % 2 for x, y in seen for number, label in zip(x, y, strict=True))
        # The files were not kept: what changes on disk changes in the next epoch.
        write(folder / "a" / "0.png", np.full((8, 6), 200))
        assert max(float(x.max()) for x, _ in loader) == 200

    def test_a_trainer_and_a_data_loader_take_it(self, folder):
        photos = data.ImageFolder(folder)
        model = models.Sequential([layers.Flatten(), layers.Dense(2, "softmax")])
        model.compile("sgd", "sparse_categorical_crossentropy", ["accuracy"])
        history = model.fit(photos, validation_data=photos, verbose=0)
        assert "val_accuracy" in history.history
        images, labels = next(iter(DataLoader(photos, batch_size=3)))
        assert images.shape == (3, 8, 6, 1) and labels.tolist() == [0, 0, 0]

    def test_colours(self, folder):
        write(folder / "b" / "red.png", np.full((8, 6, 3), (255, 0, 0)))
        assert data.ImageFolder(folder).images.shape == (7, 8, 6, 3)
        assert data.ImageFolder(folder).arrays()[0][-1, 0, 0].tolist() == [255, 0, 0]
        assert data.ImageFolder(folder, color_mode="grayscale").arrays()[0][-1, 0, 0] == [76]

    def test_sizes(self, folder):
        halves = np.zeros((4, 12))
        halves[:, 6:] = 200
        write(folder / "b" / "wide.png", halves)
        with pytest.raises(ValueError, match=r"unequal sizes: .* is 8×6, .*wide.png is 4×12; give"):
            data.ImageFolder(folder)
        stretched = data.ImageFolder(folder, image_size=(4, 4), interpolation="nearest")
        assert stretched.arrays()[0][-1, 0, :, 0].tolist() == [0, 0, 200, 200]
        cropped = data.ImageFolder(
            folder, image_size=(4, 4), interpolation="nearest", crop_to_aspect_ratio=True
        )
        # The middle 4 of 12 columns, two of each half.
        np.testing.assert_array_equal(cropped.arrays()[0][-1, ..., 0], halves[:, 4:8])

    def test_damaged_files(self, folder):
        whole = (folder / "a" / "2.png").read_bytes()
        noise = np.random.default_rng(0).integers(0, 256, (8, 6))
        write(folder / "a" / "cut.png", noise)
        content = (folder / "a" / "cut.png").read_bytes()
        (folder / "a" / "cut.png").write_bytes(content[: len(content) // 2])
        (folder / "b" / "text.jpg").write_text("no picture")
        assert whole == (folder / "a" / "2.png").read_bytes()
        with pytest.raises(ValueError, match=r"text.jpg cannot be read: .*damaged='skip' leaves"):
            data.ImageFolder(folder)
        with pytest.warns(UserWarning, match=r"left out 2 of 8 pictures .* the first .*cut.png"):
            photos = data.ImageFolder(folder, damaged="skip")
        assert [each.path.name for each in photos.skipped] == ["cut.png", "text.jpg"]
        assert photos.arrays()[0].shape == (6, 8, 6, 1) and len(photos.labels) == 6
        # Its header is whole, so it is found when it is decoded.
        (folder / "b" / "text.jpg").unlink()
        with pytest.raises(ValueError, match=r"cut.png is damaged: "):
            data.ImageFolder(folder).arrays()

    def test_damage_of_any_kind(self, folder):
        # A texture that calls itself .png, of a format that is none: no OSError of Pillow's.
        pillow.fromarray(np.zeros((8, 6, 3), np.uint8)).save(folder / "a" / "odd.dds")
        content = bytearray((folder / "a" / "odd.dds").read_bytes())
        content[80:84] = bytes(4)
        (folder / "a" / "odd.dds").unlink()
        (folder / "a" / "odd.png").write_bytes(content)
        with pytest.raises(ValueError, match=r"odd.png cannot be read: Unknown pixel format"):
            data.ImageFolder(folder)
        with pytest.warns(UserWarning, match=r"left out 1 of 7 pictures .*odd.png"):
            data.ImageFolder(folder, damaged="skip")

    @pytest.mark.parametrize("error", [RuntimeError("odd"), KeyError("odd"), IndexError("odd")])
    def test_damage_that_shows_in_decoding(self, folder, monkeypatch, error):
        def fails(picture, mode):
            raise error

        monkeypatch.setattr(pillow.Image, "convert", fails)
        with pytest.raises(ValueError, match=r"png is damaged: .*odd"):
            data.ImageFolder(folder).arrays()

    def test_16_bits(self, folder):
        pillow.fromarray(np.full((8, 6), 40_000, np.uint16)).save(folder / "a" / "deep.png")
        with pytest.raises(ValueError, match=r"deep.png .* mode I.*, wanted 8 bits a channel"):
            data.ImageFolder(folder)

    def test_refusals(self, folder, tmp_path):
        (folder / "c").mkdir()
        with pytest.raises(ValueError, match=r"c holds no picture \(.jpg"):
            data.ImageFolder(folder)
        with pytest.raises(ValueError, match="there is no folder"):
            data.ImageFolder(tmp_path / "none")
        with pytest.raises(ValueError, match="one folder a class"):
            data.ImageFolder(folder / "c")
        (folder / "c").rmdir()
        for settings, message in (
            ({"image_size": (0, 4)}, r"image_size must be \(height, width\)"),
            ({"image_size": 4}, r"image_size must be \(height, width\)"),
            ({"image_size": (True, 4)}, r"image_size must be \(height, width\)"),
            ({"damaged": "skipp"}, "did you mean 'skip'"),
            ({"color_mode": "grey"}, "unknown color_mode 'grey'"),
            ({"interpolation": "bilinar"}, "did you mean 'bilinear'"),
        ):
            with pytest.raises(ValueError, match=message):
                data.ImageFolder(folder, **settings)

    def test_a_size_of_numpys(self, folder):
        for size in ((np.int64(4), np.int64(3)), np.array([4, 3])):
            assert data.ImageFolder(folder, image_size=size).images.shape == (6, 4, 3, 1)

    def test_the_order_of_a_batch_is_the_order_asked_for(self, folder):
        rows = data.ImageFolder(folder, workers=4).images
        got = rows.index_select(0, torch.tensor([5, 0, 3, 3]))
        assert got[:, 0, 0, 0].tolist() == [5, 0, 1, 1]
