"""A share of the data is held out, whatever they are; what cannot be divided is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from pyconvopt.data import ArrayLoader, ImageFolder, MappedArray
from pyconvopt.data.rows import Selected
from pyconvopt.data.split import divided, split
from tests.small_models import dense, points


class Own(Dataset):
    def __init__(self, samples: int = 64) -> None:
        self.x, self.y = points(samples)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, number):
        return self.x[number], self.y[number]


class Endless(IterableDataset):
    def __iter__(self):
        return iter(Own())


def flat(model) -> np.ndarray:
    return np.concatenate([each.ravel() for each in model.get_weights()])


def fitted(data, y=None, **options):
    torch.manual_seed(0)
    model = dense()
    history = model.fit(data, y, epochs=2, verbose=0, seed=1, **options)
    return flat(model), history.history


class TestFit:
    def kinds(self, folder):
        x, y = points()
        np.save(folder / "x.npy", x)
        return {
            "pair": (x, y),
            "tensors": TensorDataset(torch.tensor(x), torch.tensor(y)),
            "own": Own(),
            "mapped": (np.load(folder / "x.npy", mmap_mode="r"), y),
            "file": (str(folder / "x.npy"), y),
        }

    @pytest.mark.parametrize("kind", ["pair", "tensors", "own", "mapped", "file"])
    def test_every_kind_ends_with_the_same_bits(self, tmp_path, kind):
        x, y = points()
        given = self.kinds(tmp_path)[kind]
        wanted, history = fitted(x[:51], y[:51], validation_data=(x[51:], y[51:]))
        got, seen = fitted(given, validation_split=0.2)
        np.testing.assert_array_equal(got, wanted)
        assert seen["val_loss"] == pytest.approx(history["val_loss"])
        if isinstance(given, tuple):
            got, _ = fitted(*given, validation_split=0.2)
            np.testing.assert_array_equal(got, wanted)

    def test_the_trainer_takes_a_share(self):
        wanted, _ = fitted(*points(), validation_split=0.25)
        torch.manual_seed(0)
        model = dense()
        history = model.trainer().fit(points(), epochs=2, verbose=0, seed=1, validation=0.25)
        np.testing.assert_array_equal(flat(model), wanted)
        assert history.params["samples"] == 48

    @pytest.mark.parametrize(
        "given",
        [
            lambda: DataLoader(Own(), 8),
            lambda: ArrayLoader(*points()),
            lambda: Endless(),
            lambda: iter([points()]),
            lambda: lambda: iter([points()]),
        ],
    )
    def test_batches_cannot_be_divided(self, given):
        with pytest.raises(
            TypeError, match=r"validation_split divides arrays .*give validation_dat"
        ):
            fitted(given(), validation_split=0.2)

    @pytest.mark.parametrize("share", [1, 1.5, -0.1, 0.999, True])
    def test_shares_that_are_none(self, share):
        with pytest.raises(ValueError, match="validation_split"):
            fitted(*points(), validation_split=share)

    def test_unequal_lengths_are_told_as_they_are(self):
        x, y = points()
        with pytest.raises(ValueError, match="64 images and 60 labels"):
            fitted(x, y[:60], validation_split=0.2)


class TestSeed:
    def test_a_dataset_has_the_order_of_arrays(self):
        wanted, _ = fitted(*points())
        got, _ = fitted(Own())
        np.testing.assert_array_equal(got, wanted)

    def test_in_two_parts(self):
        wanted, _ = fitted(Own())
        torch.manual_seed(0)
        model = dense()
        model.fit(Own(), epochs=1, verbose=0, seed=1)
        model.fit(Own(), epochs=2, initial_epoch=1, verbose=0, seed=1)
        np.testing.assert_array_equal(flat(model), wanted)

    def test_an_iterable_dataset_keeps_its_own(self):
        x, y = points()
        wanted, _ = fitted(x, y, shuffle=False)
        got, _ = fitted(Endless())
        np.testing.assert_array_equal(got, wanted)


def test_pictures_are_divided_class_by_class(tmp_path):
    pillow = pytest.importorskip("PIL.Image", reason="reading pictures needs Pillow")
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for number in range(5):
            pixels = np.full((4, 4, 3), 100 * label + number, np.uint8)
            pillow.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    (x, y), (held_out, labels) = split(ImageFolder(tmp_path), 0.2)
    assert y.tolist() == [0] * 4 + [1] * 4 and labels.tolist() == [0, 1]
    seen = np.concatenate([rows[:][:, 0, 0, 0].numpy() for rows in (x, held_out)])
    assert sorted(seen) == [0, 1, 2, 3, 4, 100, 101, 102, 103, 104]
    assert (held_out[:][:, 0, 0, 0].numpy() // 100 == labels).all()


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("members", [2, 3, 10])
def test_every_class_is_on_both_sides(share, members):
    y = np.repeat([0, 1, 2], members)
    for _, labels in divided(np.arange(len(y)), y, share):
        assert set(labels.tolist()) == {0, 1, 2}


def test_selected_rows(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(20).reshape(10, 2))
    rows = MappedArray(tmp_path / "x.npy")
    whole = rows[:]
    for numbers in (range(3, 9), [7, 2, 2, 5]):
        chosen, wanted = Selected(rows, numbers), whole[list(numbers)]
        assert len(chosen) == len(numbers) and chosen.shape[1:] == (2,)
        for part in (slice(None), slice(1, 3), slice(None, None, 2)):
            assert torch.equal(chosen[part], wanted[part])
        assert torch.equal(chosen[::-1], wanted.flip(0)) and torch.equal(chosen[-1], wanted[-1])
        index = torch.tensor([2, 0, 3])
        assert torch.equal(chosen.index_select(0, index), wanted[index])
