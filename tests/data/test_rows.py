"""Samples on disk: read batch by batch, the same numbers as from memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyconvopt import data
from pyconvopt.data import augment, checks

PLAIN = "{'descr': '<f4', 'fortran_order': False, 'shape': %s, }"
# What Python's parser, or NumPy, does not take otherwise than with an error of its own kind.
BAD_HEADS = {
    "open brackets": PLAIN % "(((",
    "leading zeros": PLAIN % "(01,)",
    "deep": "-" * 9000 + "1",
    "a long sum": "1" + "+1" * 4000,
    "true": PLAIN % "(True,)",
    "huge": PLAIN % f"({2**70},)",
}


def array_file(head: str) -> bytes:
    """A .npy file with that head and too many bytes of numbers."""
    line = head.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(line).to_bytes(2, "little") + line + bytes(64)


@pytest.fixture
def images(tmp_path):
    """Bytes of 40 images in a .npy file, and the same in memory."""
    array = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
    np.save(tmp_path / "images.npy", array)
    return tmp_path / "images.npy", array


class TestMappedArrays:
    @pytest.mark.parametrize("transforms", [None, [augment.RandomCrop(2), augment.MixUp()]])
    def test_the_batches_are_those_of_memory(self, images, transforms):
        path, array = images
        labels = np.arange(40) % 10
        settings = {"batch_size": 16, "shuffle": True, "seed": 3, "augment": transforms}
        wanted = list(data.ArrayLoader(array, labels, **settings))
        for source in (path, str(path), np.load(path, mmap_mode="r")):
            loader = data.ArrayLoader(source, labels, **settings)
            assert isinstance(loader.x, data.MappedArray) and loader.samples == 40
            for (x, y), (wanted_x, wanted_y) in zip(loader, wanted, strict=True):
                assert torch.equal(x, wanted_x) and torch.equal(y, wanted_y)

    def test_only_what_a_batch_asks_for_is_read(self, tmp_path):
        # 64 GiB in a sparse file, of which a batch touches a few pages.
        array = np.lib.format.open_memmap(
            tmp_path / "large.npy", "w+", np.uint8, (1 << 26, 32, 32, 1)
        )
        array[1 << 25] = 7
        loader = data.ArrayLoader(array, batch_size=4)
        assert loader.pick(torch.tensor([1 << 25, 0]))[0][:, 0, 0, 0].tolist() == [7, 0]
        assert next(iter(loader)).shape == (4, 32, 32, 1)

    def test_slices_of_a_mapped_array_stay_on_disk(self, images):
        path, array = images
        part = np.load(path, mmap_mode="r")[10:30:2]
        loader = data.ArrayLoader(part, batch_size=10)
        assert isinstance(loader.x, data.MappedArray)
        np.testing.assert_array_equal(next(iter(loader)).numpy(), array[10:30:2])
        # What was computed from one is in memory.
        assert isinstance(data.ArrayLoader(part * 2).x, torch.Tensor)

    @pytest.mark.parametrize("kind", [">f4", "<u2", "f2", "?"])
    def test_other_types(self, tmp_path, kind):
        array = np.arange(12).reshape(6, 2).astype(kind)
        np.save(tmp_path / "x.npy", np.asfortranarray(array))
        got = torch.cat(list(data.ArrayLoader(tmp_path / "x.npy", batch_size=4)))
        np.testing.assert_array_equal(got.numpy(), array.astype(np.float32))

    def test_as_samples_of_a_trainer(self, images):
        path, _ = images
        batches = data.as_batches((np.load(path, mmap_mode="r"), np.arange(40)), batch_size=8)
        assert isinstance(batches.x, data.MappedArray)

    def test_nan_is_found_on_disk(self, tmp_path):
        array = np.zeros((10_000, 2), np.float32)
        array[9_000, 1] = np.nan
        np.save(tmp_path / "x.npy", array)
        with pytest.raises(ValueError, match=r"1 values .* in 1 of 10000 samples, .* index 9000"):
            checks.require_finite(data.MappedArray(tmp_path / "x.npy"), "images")

    def test_indices(self, images):
        rows = data.MappedArray(images[0])
        np.testing.assert_array_equal(rows[-1].numpy(), images[1][-1])
        np.testing.assert_array_equal(rows[5:2:-1].numpy(), images[1][5:2:-1])
        assert rows.dim() == 4 and rows.numel() == 40 * 64 and not rows.is_floating_point()
        with pytest.raises(IndexError, match="sample 40 of 40"):
            rows[40]

    def test_refusals(self, tmp_path):
        (tmp_path / "bad.npy").write_bytes(b"no array")
        with pytest.raises(ValueError, match=r"bad.npy is no .npy file of numbers"):
            data.ArrayLoader(tmp_path / "bad.npy")
        np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
        with pytest.raises(ValueError, match=r"objects.npy is no .npy file of numbers"):
            data.ArrayLoader(tmp_path / "objects.npy")
        with pytest.raises(FileNotFoundError):
            data.ArrayLoader(tmp_path / "none.npy")
        with open(tmp_path / "packed.npy", "wb") as file:
            np.savez(file, x=np.ones(3))
        with pytest.raises(ValueError, match=r"packed.npy is no .npy file of numbers"):
            data.ArrayLoader(tmp_path / "packed.npy")
        with pytest.raises(ValueError, match=r"x.npz holds several packed arrays: .* data.load"):
            data.ArrayLoader("x.npz")

    @pytest.mark.parametrize("head", BAD_HEADS.values(), ids=BAD_HEADS)
    def test_damaged_heads(self, tmp_path, head):
        (tmp_path / "bad.npy").write_bytes(array_file(head))
        with pytest.raises(ValueError, match=r"bad.npy is no .npy file of numbers"):
            data.ArrayLoader(tmp_path / "bad.npy")
