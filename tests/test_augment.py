"""Augmentation: each transform by hand, the same for any batches, soft labels in training."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from pyconvopt import layers, models
from pyconvopt.data import ArrayLoader, augment
from pyconvopt.training import Trainer

from .small_models import sgd

EVERY = [
    augment.RandomCrop(2, mode="reflect"),
    augment.AlternatingFlip(),
    augment.RandomHorizontalFlip(),
    augment.RandomTranslation(),
    augment.RandomRotation(),
    augment.RandomErasing(),
    augment.Cutout(3),
    augment.MixUp(),
    augment.CutMix(),
]


def pictures(samples=30, shape=(8, 9, 3)):
    return torch.rand(samples, *shape), torch.arange(samples) % 5


def epoch(transforms, batch_size, shuffle=False, number=0, seed=1, data=None):
    """The images and labels of one epoch, put back into the arrays' order."""
    x, y = pictures() if data is None else data
    loader = ArrayLoader(x, y, batch_size, shuffle=shuffle, seed=seed, augment=transforms)
    order = loader.order(number)
    loader.epoch = number
    images, labels = (torch.cat(each) for each in zip(*loader, strict=True))
    if order is not None:
        back = order.argsort()
        images, labels = images[back], labels[back]
    return images, labels


class TestTheSameForAnyBatches:
    @pytest.fixture
    def data(self):
        return pictures()

    @pytest.mark.parametrize("steps", [*([each] for each in EVERY), EVERY], ids=str)
    def test_batch_size_and_order_change_nothing(self, steps, data):
        images, labels = epoch(steps, 30, data=data)
        for batch_size, shuffle in ((1, False), (7, False), (7, True), (30, True)):
            others = epoch(steps, batch_size, shuffle, data=data)
            # Bilinear sampling of other batch sizes may round otherwise.
            torch.testing.assert_close(others[0], images, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(others[1], labels)

    @pytest.mark.parametrize("steps", [*([each] for each in EVERY), EVERY], ids=str)
    def test_seed_and_epoch_do(self, steps, data):
        images, _ = epoch(steps, 30, data=data)
        assert not torch.equal(images, data[0])
        assert not torch.equal(epoch(steps, 30, number=1, data=data)[0], images)
        assert not torch.equal(epoch(steps, 30, seed=2, data=data)[0], images)

    def test_two_of_a_kind_draw_each_for_themselves(self, data):
        flip = augment.RandomHorizontalFlip()
        twice = epoch([flip, flip], 30, data=data)[0]
        assert not torch.equal(twice, data[0])

    def test_torchs_generator_decides_without_a_seed(self, data):
        def images():
            torch.manual_seed(5)
            return torch.cat([x for x, _ in ArrayLoader(*data, augment=EVERY[0])])

        assert torch.equal(images(), images())

    def test_the_arrays_stay_as_they_are(self, data):
        before = data[0].clone()
        epoch(EVERY, 30, data=data)
        assert torch.equal(data[0], before)

    def test_the_layouts_agree(self, data):
        x, y = data
        last = epoch(EVERY, 30, data=(x, y))
        first = epoch(EVERY, 30, data=(x.permute(0, 3, 1, 2).contiguous(), y))
        torch.testing.assert_close(first[0].permute(0, 2, 3, 1), last[0])
        assert last[0].is_contiguous() and first[0].is_contiguous()
        grey = epoch(EVERY, 30, data=(x[..., 0].contiguous(), y))
        alone = epoch(EVERY, 30, data=(x[..., :1].contiguous(), y))
        torch.testing.assert_close(grey[0], alone[0][..., 0])

    @pytest.mark.parametrize("steps", [*([each] for each in EVERY), EVERY], ids=str)
    def test_a_process_may_get_none_of_a_batch(self, steps, data):
        loader = ArrayLoader(data[0][:3], data[1][:3], 2, seed=1, augment=steps)
        halves = []
        for number in range(2):
            loader.part, loader.epoch = (number, 2), 0
            halves.append(list(loader))
        assert [[len(x) for x, _ in half] for half in halves] == [[1, 0], [1, 1]]
        images = torch.cat([x for batch in zip(*halves, strict=True) for x, _ in batch])
        wanted = epoch(steps, 3, data=(data[0][:3], data[1][:3]))[0]
        torch.testing.assert_close(images, wanted, rtol=1e-5, atol=1e-6)

    def test_the_layout_by_any_spelling(self, data):
        steps = augment.Compose([augment.AlternatingFlip()], "ChannelsLast")
        assert torch.equal(epoch(steps, 30, data=data)[0], epoch(EVERY[1], 30, data=data)[0])

    def test_numpys_whole_numbers(self):
        assert augment.RandomCrop(np.int64(2)) == augment.RandomCrop(2)
        assert augment.Cutout(np.int32(3)) == augment.Cutout(3)
        assert augment.MixUp(num_classes=np.int64(3)) == augment.MixUp(num_classes=3)

    def test_pixels_of_bytes(self):
        x = torch.randint(256, (6, 5, 5, 1), dtype=torch.uint8)
        images, _ = epoch(augment.RandomHorizontalFlip(1.0), 4, data=(x, torch.zeros(6)))
        assert images.dtype == torch.float32
        assert torch.equal(images, x.flip(2).float())

    def test_without_labels(self):
        x, _ = pictures(4)
        (batch,) = ArrayLoader(x, augment=augment.RandomHorizontalFlip(1.0), batch_size=4)
        assert torch.equal(batch, x.flip(2))


class TestGeometry:
    def test_crop_takes_every_place_alike(self):
        image = torch.arange(1.0, 13).reshape(1, 1, 3, 4)
        padded = torch.nn.functional.pad(image, (1, 1, 1, 1), value=-1.0)
        places = [padded[..., i : i + 3, j : j + 4] for i in range(3) for j in range(3)]
        crop = augment.RandomCrop(1, fill=-1.0)
        cropped = crop(image.expand(9000, 1, 3, 4), torch.rand(9000, 2))
        counts = [int((cropped == place).flatten(1).all(1).sum()) for place in places]
        assert sum(counts) == 9000
        assert min(counts) > 850 and max(counts) < 1150  # 1000 ± 5 deviations
        last = crop(image, torch.full((1, 2), 1 - 2**-24))
        assert torch.equal(last, places[-1])

    def test_too_small_to_reflect(self):
        images = torch.rand(2, 1, 3, 3)
        with pytest.raises(
            ValueError, match="larger than its padding, got 3×3 pixels and padding=4"
        ):
            augment.RandomCrop(4, "reflect")(images, torch.rand(2, 2))
        assert augment.RandomCrop(4, "replicate")(images, torch.rand(2, 2)).shape == images.shape

    @pytest.mark.parametrize("mode", ["reflect", "replicate"])
    def test_crop_modes(self, mode):
        image = torch.rand(1, 2, 5, 6)
        padded = torch.nn.functional.pad(image, (2, 2, 2, 2), mode)
        cropped = augment.RandomCrop(2, mode)(image, torch.tensor([[0.99, 0.0]]))
        assert torch.equal(cropped, padded[..., 4:, :6])

    def test_flip_mirrors_its_share(self):
        image = torch.rand(1, 1, 2, 3).expand(4000, 1, 2, 3)
        flipped = augment.RandomHorizontalFlip(0.3)(image, torch.rand(4000, 1))
        turned = (flipped == image.flip(3)).flatten(1).all(1)
        assert torch.equal(flipped[~turned], image[~turned])
        assert turned.float().mean().item() == pytest.approx(0.3, abs=0.04)

    def test_alternating_flip_shows_both_sides_in_two_epochs(self):
        x, y = pictures(200)
        shown = [epoch(augment.AlternatingFlip(), 64, number=n, data=(x, y))[0] for n in range(4)]
        straight = (shown[0] == x).flatten(1).all(1)
        assert 60 < straight.sum() < 140
        assert torch.equal(shown[1], torch.where(straight[:, None, None, None], x.flip(2), x))
        assert torch.equal(shown[2], shown[0]) and torch.equal(shown[3], shown[1])

    def test_rotation_by_a_right_angle_and_by_nothing(self):
        images = torch.rand(2, 3, 6, 6)
        quarter = augment.RandomRotation(90)(images, torch.tensor([[1.0], [0.5]]))
        turned = torch.stack([torch.rot90(images[0], k, (1, 2)) for k in (1, -1)])
        assert min((quarter[0] - each).abs().max() for each in turned) < 1e-5
        torch.testing.assert_close(quarter[1], images[1])

    def test_rotation_keeps_shapes_of_oblong_images(self):
        """A bar across the middle of a wide image, turned by 90°, is a bar down its middle."""
        image = torch.zeros(1, 1, 9, 15)
        image[..., 4, 3:12] = 1.0
        turned = augment.RandomRotation(90)(image, torch.tensor([[1.0]]))
        wanted = torch.zeros(1, 1, 9, 15)
        wanted[..., :, 7] = 1.0
        torch.testing.assert_close(turned, wanted, atol=1e-4, rtol=0)

    def test_translation_by_whole_pixels(self):
        image = torch.rand(1, 2, 5, 10)
        step = augment.RandomTranslation(0.4, 0.1)
        moved = step(image, torch.tensor([[1.0, 0.5]]))  # one column, no row
        torch.testing.assert_close(moved[..., :-1], image[..., 1:])
        assert moved[..., -1].abs().max() < 1e-5
        moved = step(image, torch.tensor([[0.5, 0.0]]))  # two rows the other way
        torch.testing.assert_close(moved[..., 2:, :], image[..., :-2, :])


class TestErasing:
    def test_share_area_and_ratio(self):
        images = torch.ones(3000, 2, 40, 40)
        erased = augment.RandomErasing(0.4, (0.1, 0.2), (0.5, 2.0), value=7.0)(
            images, torch.rand(3000, 5)
        )
        assert torch.equal(erased[:, 0], erased[:, 1])
        mask = erased[:, 0] == 7
        chosen = mask.flatten(1).any(1)
        assert chosen.float().mean().item() == pytest.approx(0.4, abs=0.045)
        tall, wide = mask.any(2).sum(1)[chosen], mask.any(1).sum(1)[chosen]
        area = mask[chosen].flatten(1).sum(1)
        assert torch.equal(area, tall * wide), "one full rectangle"
        assert area.min() > 0.085 * 1600 and area.max() < 0.22 * 1600
        assert area.float().mean().item() / 1600 == pytest.approx(0.15, abs=0.005)
        ratio = (tall / wide).log()
        assert ratio.mean().abs() < 0.05 and ratio.abs().max() < math.log(2.3)
        assert mask[:, 0].any() and mask[:, -1].any() and mask[..., 0].any()

    def test_cutout_is_cut_off_at_the_border(self):
        numbers = torch.tensor([[0.5, 0.5], [0.0, 0.99]])
        erased = augment.Cutout(4)(torch.ones(2, 1, 8, 8), numbers)
        assert (erased == 0).flatten(1).sum(1).tolist() == [16, 6]


class TestMixing:
    def test_mixup_by_formula(self):
        x, y = pictures(20)
        images, labels = epoch(augment.MixUp(0.4, num_classes=7), 8, data=(x, y))
        table = augment.MixUp(0.4).table(20, 1, 0, 0)
        partners, portion = (table[:, 0] * 20).long(), table[:, 1].float()
        shape = (-1, 1, 1, 1)
        wanted = portion.view(shape) * x + (1 - portion).view(shape) * x[partners]
        torch.testing.assert_close(images, wanted)
        hot = torch.eye(7)
        soft = portion[:, None] * hot[y] + (1 - portion)[:, None] * hot[y[partners]]
        torch.testing.assert_close(labels, soft)
        assert labels.dtype == torch.float32

    def test_beta_and_the_share_that_is_mixed(self):
        table = augment.MixUp(0.3, p=0.25).table(40000, 0, 0, 0)
        mixed = table[:, 1][table[:, 1] < 1]
        assert len(mixed) / 40000 == pytest.approx(0.25, abs=0.01)
        # The variance of Beta(a, a) is 1 / (4·(2·a + 1)).
        assert mixed.mean().item() == pytest.approx(0.5, abs=0.02)
        assert mixed.var().item() == pytest.approx(1 / (4 * 1.6), abs=0.005)

    def test_cutmix_labels_are_areas(self):
        x = torch.arange(50.0).reshape(50, 1, 1).expand(50, 10, 12).contiguous()
        y = torch.arange(50)
        images, labels = epoch(augment.CutMix(), 16, data=(x, y))
        torch.testing.assert_close(labels.sum(1), torch.ones(50))
        for index in range(50):
            values, counts = images[index].unique(return_counts=True)
            for value, count in zip(values.long(), counts, strict=True):
                assert labels[index, value].item() == pytest.approx(count.item() / 120, abs=1e-6)
            mask = images[index] != index
            assert mask.sum() == mask.any(0).sum() * mask.any(1).sum(), "a rectangle"
        assert ((labels > 0).sum(1) == 2).sum() > 25

    def test_partners_went_through_the_steps_before(self):
        """What comes before is seen on both images, what comes after once on the mixture."""
        x, y = torch.ones(10, 5, 5, 1), torch.arange(10) % 2
        erase = augment.RandomErasing(1.0, (1.0, 1.0), (1.0, 1.0))
        assert not epoch([erase, augment.MixUp()], 5, data=(x, y))[0].any()
        x = torch.rand(10, 5, 5, 1)
        flipped = epoch([augment.RandomHorizontalFlip(1.0), augment.MixUp(1.0)], 5, data=(x, y))
        table = augment.MixUp(1.0).table(10, 1, 0, 1)
        partners, portion = (table[:, 0] * 10).long(), table[:, 1].float().view(-1, 1, 1, 1)
        wanted = (portion * x + (1 - portion) * x[partners]).flip(2)
        torch.testing.assert_close(flipped[0], wanted)

    def test_soft_labels_are_mixed_on(self):
        x, _ = pictures(12)
        soft = torch.softmax(torch.randn(12, 3), 1)
        _, labels = epoch([augment.MixUp(), augment.CutMix()], 5, data=(x, soft))
        torch.testing.assert_close(labels.sum(1), torch.ones(12))


class TestTraining:
    def model(self):
        return models.Sequential(
            [layers.Flatten(input_shape=(8, 9, 3)), layers.Dense(5, activation="softmax")]
        )

    @pytest.mark.parametrize(
        "loss",
        ["sparse_categorical_crossentropy", "categorical_crossentropy", nn.CrossEntropyLoss()],
        ids=str,
    )
    def test_losses_of_mixed_labels(self, loss):
        x, y = pictures(24)
        model = self.model()
        loader = ArrayLoader(x, y, 24, augment=augment.MixUp(1.0))
        images, targets = next(iter(loader))
        loader.epoch = 0
        wanted = -(targets * model(images).log()).sum(1).mean().item()
        trainer = Trainer(model, sgd, loss, metrics=["accuracy"])
        history = trainer.fit(loader, epochs=1, verbose=0)
        assert history.history["loss"] == [pytest.approx(wanted, rel=1e-5)]
        assert 0 <= history.history["accuracy"][0] <= 1

    def test_validation_keeps_its_class_numbers(self):
        x, y = pictures(24)
        model = self.model()
        model.compile("adam", "sparse_categorical_crossentropy", ["accuracy"])
        loader = ArrayLoader(x, y, 8, shuffle=True, seed=0, augment=EVERY)
        history = model.fit(loader, epochs=2, validation_data=(x, y), verbose=0)
        plain = model.evaluate(x, y, verbose=0)
        assert history.history["val_loss"][-1] == pytest.approx(plain[0])

    def test_one_hot_labels_are_still_refused_by_the_sparse_loss(self):
        x, y = pictures(8)
        model = self.model()
        model.compile("sgd", "sparse_categorical_crossentropy")
        with pytest.raises(ValueError, match="for one-hot labels use categorical_crossentropy"):
            model.fit(x, torch.eye(5)[y], verbose=0)

    def test_torch_models_and_pickles(self):
        x, y = pictures(16)
        steps = augment.Compose(EVERY[:3], data_format="channels_first")
        loader = ArrayLoader(x.permute(0, 3, 1, 2), y, 8, seed=0, augment=steps)
        model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        Trainer(model, "sgd", "cross_entropy").fit(loader, verbose=0)
        assert repr(pickle.loads(pickle.dumps(steps))) == repr(steps)


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (lambda: augment.RandomCrop(0), ValueError, "padding must be a whole number >= 1, got 0"),
        (lambda: augment.RandomCrop(2, "mirror"), ValueError, "unknown mode 'mirror'"),
        (lambda: augment.RandomHorizontalFlip(1.5), ValueError, r"p must lie in 0 ... 1, got 1.5"),
        (lambda: augment.AlternatingFlip(0.3), ValueError, "every other epoch"),
        (lambda: augment.RandomRotation(-5), ValueError, r"degrees must lie in 0 ... 180, got -5"),
        (lambda: augment.RandomErasing(scale=(0.5, 0.1)), ValueError, "scale must be two shares"),
        (lambda: augment.RandomErasing(ratio=(0, 1)), ValueError, "ratio must be two positive"),
        (lambda: augment.Cutout(0), ValueError, "size must be a whole number >= 1, got 0"),
        (lambda: augment.MixUp(0), ValueError, "alpha must be above 0, got 0"),
        (
            lambda: augment.CutMix(math.inf),
            ValueError,
            "alpha must be above 0, and finite, got inf",
        ),
        (lambda: augment.MixUp(num_classes=3.0), ValueError, "num_classes must be a whole number"),
        (lambda: augment.CutMix(num_classes=0), ValueError, "num_classes must be a whole number"),
        (lambda: augment.Compose([augment.MixUp]), TypeError, r"write MixUp\(\)"),
        (lambda: augment.Compose([], "channels_lst"), ValueError, "did you mean 'channels_last'"),
        (lambda: ArrayLoader([[1.0]], augment=3), TypeError, "takes transforms of data.augment"),
    ],
)
def test_refused_settings(act, error, message):
    with pytest.raises(error, match=message):
        act()


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((4, 6)), None, r"wants images .* got shape \(4, 6\)"),
        (np.zeros((4, 3, 5, 3)), None, r"\(4, 3, 5, 3\) do not tell where their channels lie"),
        (np.zeros((4, 5, 5, 7)), None, "do not tell where their channels lie"),
        (np.zeros((4, 5, 5, 1)), None, "MixUp and CutMix need labels"),
        (
            np.zeros((4, 5, 5, 1)),
            np.array([0, 1, 3, 1]),
            "num_classes is 3, but there is a label 3",
        ),
        (np.zeros((4, 5, 5, 1)), np.array([0, 0.5, 1, 1]), "whole numbers"),
        (np.zeros((4, 5, 5, 1)), np.array([0, 1, -1, 2]), "class numbers of 0 or more, got -1"),
        (np.zeros((4, 5, 5, 1)), np.ones((4, 2)), "num_classes is 3, but the soft labels have 2"),
        (np.zeros((4, 5, 5, 1)), np.zeros((4, 2), int), "one class number an image"),
    ],
)
def test_refused_data(x, y, message):
    with pytest.raises(ValueError, match=message):
        next(iter(ArrayLoader(x, y, augment=augment.MixUp(num_classes=3))))
