"""Data sets and loading: the IDX format, downloads, batches, what is refused."""

from __future__ import annotations

import gzip
import hashlib
import http.client

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from pyconvopt import data
from pyconvopt.data import checks, datasets
from pyconvopt.data.idx import read_idx
from tests.tiny_data import idx_bytes, write_tiny_set


@pytest.fixture
def tiny_set(tmp_path, monkeypatch):
    """The folder of a small data set in $PYCONVOPT_DATA, and what it holds."""
    arrays = write_tiny_set(tmp_path)
    monkeypatch.setenv("PYCONVOPT_DATA", str(tmp_path))
    return tmp_path / "fashion-mnist", arrays


class TestDatasets:
    def test_read_from_the_chosen_folder(self, tiny_set):
        _, arrays = tiny_set
        (train_x, train_y), (test_x, test_y) = data.fashion_mnist()
        for got, wanted in zip((train_x, train_y, test_x, test_y), arrays, strict=True):
            np.testing.assert_array_equal(got, wanted)
            assert got.dtype == np.uint8 and got.flags.writeable

    def test_unpacked_files_do_as_well(self, tiny_set):
        folder, arrays = tiny_set
        packed = folder / "train-images-idx3-ubyte.gz"
        (folder / "train-images-idx3-ubyte").write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()
        np.testing.assert_array_equal(data.fashion_mnist()[0][0], arrays[0])

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda content: content[:-30], "got .* bytes that do not unpack.*delete it"),
            (lambda content: b"<html>", "do not unpack"),
            (
                lambda content: gzip.compress(gzip.decompress(content)[:-10]),
                "got 15670 bytes of data, wanted 15680 for the shape 20×28×28",
            ),
            (
                lambda content: gzip.compress(b"\0\0\x0d\x03" + gzip.decompress(content)[4:]),
                "got magic number 0x00000d03 .* wanted 0x00000803",
            ),
            (lambda content: gzip.compress(b""), "in 0 bytes, wanted 0x00000803"),
        ],
    )
    def test_damaged_files(self, tiny_set, damage, message):
        path = tiny_set[0] / "train-images-idx3-ubyte.gz"
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(ValueError, match=message) as caught:
            data.fashion_mnist()
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)

    def test_flipped_byte_is_noticed(self, tiny_set):
        path = tiny_set[0] / "train-images-idx3-ubyte.gz"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is damaged"):
            data.fashion_mnist()

    def test_labels_of_another_number(self, tiny_set):
        path = tiny_set[0] / "t10k-labels-idx1-ubyte.gz"
        path.write_bytes(gzip.compress(idx_bytes(np.zeros(7))))
        with pytest.raises(ValueError, match="got 7 labels, wanted 8, one an image"):
            data.fashion_mnist()

    def test_unknown_name(self):
        with pytest.raises(ValueError, match="did you mean 'fashion-mnist'"):
            data.load("fashion_mnst")

    def test_the_systems_fashion_mnist(self):
        if not (datasets.SYSTEM_FOLDER / "fashion-mnist").is_dir():
            pytest.skip("Debian's dataset-fashion-mnist is not installed")
        (train_x, train_y), (test_x, test_y) = data.fashion_mnist()
        assert train_x.shape == (60000, 28, 28) and test_x.shape == (10000, 28, 28)
        assert np.bincount(train_y).tolist() == [6000] * 10
        assert np.bincount(test_y).tolist() == [1000] * 10


class TestDownload:
    def serve(self, tmp_path, monkeypatch, content=b"content", sha256=None):
        """A set of one kind of file, behind a file:// address."""
        shop = tmp_path / "shop"
        shop.mkdir()
        file = datasets.RemoteFile("a.gz", sha256 or hashlib.sha256(content).hexdigest())
        (shop / "a.gz").write_bytes(content)
        source = datasets.Source(shop.as_uri(), (file,) * 4, ("a",))
        monkeypatch.setitem(datasets.SOURCES, "toy", source)
        monkeypatch.setenv("PYCONVOPT_DATA", str(tmp_path / "home"))
        return file

    def test_fetched_once(self, tmp_path, monkeypatch):
        file = self.serve(tmp_path, monkeypatch)
        path = datasets.locate("toy", file)
        assert path == tmp_path / "home" / "toy" / "a.gz" and path.read_bytes() == b"content"
        (tmp_path / "shop" / "a.gz").unlink()
        assert datasets.locate("toy", file) == path

    def test_wrong_checksum_leaves_nothing(self, tmp_path, monkeypatch):
        file = self.serve(tmp_path, monkeypatch, sha256="0" * 64)
        with pytest.raises(ValueError, match=r"got SHA-256 .* wanted 0000"):
            datasets.locate("toy", file)
        assert list((tmp_path / "home" / "toy").iterdir()) == []

    def test_unreachable(self, tmp_path, monkeypatch):
        file = self.serve(tmp_path, monkeypatch)
        (tmp_path / "shop" / "a.gz").unlink()
        with pytest.raises(OSError, match=r"cannot download .* set PYCONVOPT_DATA"):
            datasets.locate("toy", file)

    @pytest.mark.parametrize(
        "error",
        [
            http.client.BadStatusLine("nonsense"),
            http.client.IncompleteRead(b"con", 4),
            ConnectionResetError(104, "Connection reset by peer"),
            TimeoutError("timed out"),
        ],
    )
    def test_a_cut_connection(self, tmp_path, monkeypatch, error):
        file = self.serve(tmp_path, monkeypatch)
        read = datasets.urllib.request.urlopen

        def cut(url, timeout):
            answer = read(url, timeout=timeout)
            monkeypatch.setattr(answer, "read", lambda size: (_ for _ in ()).throw(error))
            return answer

        monkeypatch.setattr(datasets.urllib.request, "urlopen", cut)
        with pytest.raises(OSError, match=r"cannot download .*: .+; put the file into .*toy"):
            datasets.locate("toy", file)
        assert list((tmp_path / "home" / "toy").iterdir()) == []

    def test_cache_folder_without_the_variable(self, tmp_path, monkeypatch):
        monkeypatch.delenv("PYCONVOPT_DATA", raising=False)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert data.folders("mnist")[-1] == tmp_path / "pyconvopt" / "mnist"


class TestArrayLoader:
    def test_every_sample_once_an_epoch_in_a_new_order(self):
        loader = data.ArrayLoader(np.arange(10)[:, None], np.arange(10), 4, shuffle=True, seed=1)
        epochs = [torch.cat([y for _, y in loader]).tolist() for _ in range(2)]
        assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10))
        assert epochs[0] != epochs[1] != list(range(10))
        assert len(loader) == 3 and loader.last_batch == 2

    def test_images_and_labels_stay_together(self):
        loader = data.ArrayLoader(np.arange(50)[:, None], np.arange(50), 8, shuffle=True)
        for x, y in loader:
            assert torch.equal(x[:, 0].long(), y)

    def test_the_seed_and_the_epoch_decide_the_order(self):
        first = data.ArrayLoader(np.arange(30.0), batch_size=30, shuffle=True, seed=5)
        second = data.ArrayLoader(np.arange(30.0), batch_size=30, shuffle=True, seed=5)
        orders = [next(iter(first)).tolist() for _ in range(3)]
        second.epoch = 2
        assert next(iter(second)).tolist() == orders[2]
        torch.manual_seed(7)
        one = data.ArrayLoader(np.arange(30.0), shuffle=True).seed
        torch.manual_seed(7)
        assert data.ArrayLoader(np.arange(30.0), shuffle=True).seed == one

    def test_pixels_stay_bytes_until_their_batch(self):
        pixels = np.full((3, 2, 2, 1), 255, np.uint8)
        loader = data.ArrayLoader(pixels, batch_size=2)
        assert loader.x.dtype == torch.uint8 and loader.x.data_ptr() == pixels.ctypes.data
        batch = next(iter(loader))
        assert batch.dtype == torch.float32 and batch.max() == 255

    @pytest.mark.parametrize(
        "array",
        [
            np.arange(6, dtype=">f4").reshape(3, 2),
            np.arange(6.0)[::-1].reshape(3, 2),
            np.arange(6, dtype=np.uint16).reshape(3, 2),
            np.arange(6, dtype=np.float16).reshape(3, 2),
            np.arange(12.0).reshape(3, 4)[:, ::2],
        ],
    )
    def test_unusual_arrays(self, array):
        got = next(iter(data.ArrayLoader(array, batch_size=3)))
        np.testing.assert_array_equal(got.numpy(), array.astype(np.float32))

    def test_read_only_arrays_do_not_warn(self, recwarn):
        array = np.ones((3, 2), np.float32)
        array.flags.writeable = False
        data.ArrayLoader(array)
        assert len(recwarn) == 0

    def test_drop_last(self):
        loader = data.ArrayLoader(np.arange(10.0), batch_size=4, drop_last=True)
        assert len(loader) == 2 and sum(len(x) for x in loader) == 8

    @pytest.mark.parametrize(
        ("x", "y", "error", "message"),
        [
            ([["a"]], [0], TypeError, "images have dtype <U1; wanted numbers"),
            (np.array([object()]), [0], TypeError, "images have dtype object"),
            ([[1.0], [1.0, 2.0]], [0, 1], ValueError, "rows of different shapes"),
            (np.zeros((0, 2)), np.zeros(0), ValueError, r"images are empty: got shape \(0, 2\)"),
            (np.zeros((3, 2)), np.zeros(2), ValueError, "got 3 images and 2 labels"),
            (np.zeros(2), ["a", "b"], TypeError, "labels have dtype <U1"),
            (np.zeros(2, complex), [0, 1], TypeError, "complex128; wanted numbers"),
            (3.0, None, ValueError, "single number"),
        ],
    )
    def test_refusals(self, x, y, error, message):
        with pytest.raises(error, match=message):
            data.ArrayLoader(x, y)

    def test_batch_size(self):
        with pytest.raises(ValueError, match="batch_size must be a whole number >= 1, got 0"):
            data.ArrayLoader([1.0], batch_size=0)


class TestAsBatches:
    def test_kinds(self):
        x, y = torch.zeros(6, 2), torch.zeros(6)
        own = DataLoader(TensorDataset(x, y), batch_size=3)
        assert data.as_batches(own) is own
        assert isinstance(data.as_batches(TensorDataset(x, y)), data.ArrayLoader)
        assert isinstance(data.as_batches((x, y)), data.ArrayLoader)
        plain = data.as_batches([(1.0, 2), (3.0, 4)])
        assert isinstance(plain, data.ArrayLoader) and plain.y is None

    def test_refusals(self):
        with pytest.raises(ValueError, match="a tuple of 4"):
            data.as_batches(([1], [2], [3], [4]))
        with pytest.raises(TypeError, match="got dict"):
            data.as_batches({"x": [1]})
        with pytest.raises(TypeError, match=r"\(x, y\) or \(x, y, weights\), got a int"):
            next(iter(data.as_batches(each for each in [1])))

    def test_batches_somebody_else_makes(self):
        def batches():
            for number in range(3):
                yield np.full((2, 1), number), np.array([number, 0])

        once = data.as_batches(batches())
        assert [y[0].item() for _, y in once] == [0, 1, 2] and not list(once)
        again = data.as_batches(batches)
        for _ in range(2):
            got = list(again)
            assert len(got) == 3 and got[2][0].dtype == torch.float32

    def test_weights_go_with_their_samples(self):
        loader = data.ArrayLoader(
            np.arange(9.0), np.arange(9), 4, shuffle=True, seed=1, weights=np.arange(9) / 10
        )
        for x, y, weights in loader:
            np.testing.assert_allclose(x, y)
            np.testing.assert_allclose(weights, x / 10)
        for weights, message in (
            (np.zeros(3), r"one a sample, \(9,\), got shape \(3,\)"),
            (-np.ones(9), "0 or more"),
            (np.full(9, np.inf), "infinite"),
        ):
            with pytest.raises(ValueError, match=message):
                data.ArrayLoader(np.arange(9.0), np.arange(9), weights=weights)

    def test_weights_need_labels(self):
        with pytest.raises(ValueError, match="weights go with labels"):
            data.ArrayLoader(np.arange(9.0), weights=np.ones(9))

    @pytest.mark.parametrize(
        "weights", [np.ones((3, 1)), np.ones(1), -np.ones(2), -np.ones((2, 3))]
    )
    def test_weights_of_batches_somebody_else_makes(self, weights):
        source = data.as_batches(lambda: iter([(np.zeros((2, 3)), np.arange(2), weights)]))
        with pytest.raises(ValueError, match="the weights must be"):
            list(source)

    def test_images_alone_begin_at_the_epoch_asked_for(self):
        x = np.arange(20.0)
        loader = data.as_batches(x, 20, shuffle=True, seed=3, epoch=4)
        wanted = data.as_batches((x, x), 20, shuffle=True, seed=3, epoch=4)
        assert torch.equal(next(iter(loader)), next(iter(wanted))[0])

    def test_an_epoch_from_any_batch_on(self):
        loader = data.ArrayLoader(np.arange(10.0), batch_size=3, shuffle=True, seed=4)
        whole = [x.tolist() for x in loader.batches(5)]
        for first in range(5):
            assert [x.tolist() for x in loader.batches(5, first)] == whole[first:]


class TestChecks:
    def test_nan_says_where(self):
        x = torch.zeros(5, 2, 2)
        x[3, 0, 1] = float("nan")
        x[4] = float("inf")
        with pytest.raises(ValueError, match=r"5 values .* in 2 of 5 samples, .* index 3"):
            checks.require_finite(x, "images")

    def test_finite_values_whose_sum_is_not(self):
        checks.require_finite(torch.full((10,), 3e38), "images")

    def test_class_numbers(self):
        assert checks.class_numbers(torch.tensor([[1.0], [2.0]])).tolist() == [1, 2]
        with pytest.raises(TypeError, match=r"whole class numbers, got 0.5"):
            checks.class_numbers(torch.tensor([1.0, 0.5]))

    def test_read_idx_needs_no_gzip(self, tmp_path):
        (tmp_path / "labels").write_bytes(idx_bytes(np.arange(4)))
        assert read_idx(tmp_path / "labels", 1).tolist() == [0, 1, 2, 3]
