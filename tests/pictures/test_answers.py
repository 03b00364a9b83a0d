"""Confusion matrix and mistakes: the numbers in the fields, and which images are shown."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("matplotlib")

from pyconvopt import pictures
from pyconvopt.pictures.answers import probabilities
from tests.pictures.networks import Levels, levels_images, small


def fields(figure, classes: int) -> list[list[int]]:
    numbers = [int(text.get_text()) for text in figure.axes[0].texts]
    return np.array(numbers).reshape(classes, classes).tolist()


class TestConfusionMatrix:
    def test_rows_are_true_classes(self):
        truth, said = [0, 0, 0, 1, 2, 2], [0, 1, 1, 1, 0, 2]
        figure = pictures.confusion_matrix(truth, said, ["cat", "dog", "horse"])
        axes = figure.axes[0]
        assert fields(figure, 3) == [[1, 2, 0], [0, 1, 0], [1, 0, 1]]
        colours = axes.images[0].get_array()
        assert np.allclose(colours, [[1 / 3, 2 / 3, 0], [0, 1, 0], [0.5, 0, 0.5]])
        assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog", "horse"]
        assert (axes.get_ylabel(), axes.get_xlabel()) == ("true class", "said")
        assert axes.get_title() == "accuracy 0.5000 of 6 samples"

    def test_rows_of_probabilities_one_hot_labels_and_classes_that_do_not_occur(self):
        said = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]])
        one_hot = np.eye(3)[[0, 0]]
        assert fields(pictures.confusion_matrix(one_hot, said), 3) == [
            [1, 1, 0],
            [0, 0, 0],
            [0, 0, 0],
        ]

    def test_single_probabilities(self):
        figure = pictures.confusion_matrix([[0], [1], [1]], [[0.1], [0.4], [0.9]])
        assert fields(figure, 2) == [[1, 0], [1, 1]]

    def test_many_classes_have_no_numbers(self):
        figure = pictures.confusion_matrix(range(60), range(60))
        assert not figure.axes[0].texts
        assert figure.axes[0].images[0].get_array().shape == (60, 60)
        assert max(figure.get_size_inches()) < 15

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (([0, 1], [0]), "2 labels and 1 predictions"),
            (([0, 2], [0, 1], ["a", "b"]), "label 2 is out of range"),
            (([0, 1], np.eye(3)[[0, 1]], ["a", "b"]), "must name 3 classes, got 2 names"),
            (([-1, 1], [0, 1]), "label -1 is out of range"),
            (([], []), "true labels are empty"),
            ((np.zeros((2, 2, 2)), [0, 1]), "must be class numbers"),
        ],
    )
    def test_refusals(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            pictures.confusion_matrix(*arguments)


class TestProbabilities:
    def test_logits_become_probabilities_once(self):
        logits = torch.tensor([[1.0, 3.0], [0.0, 0.0]])
        assert torch.equal(probabilities(nn.Identity(), logits), logits.softmax(dim=1))
        shares = logits.softmax(dim=1)
        assert torch.equal(probabilities(nn.Identity(), shares), shares)

    def test_single_outputs(self):
        logits = torch.tensor([[-3.0], [2.0]])
        wanted = torch.cat([1 - logits.sigmoid(), logits.sigmoid()], dim=1)
        assert torch.equal(probabilities(nn.Identity(), logits), wanted)
        assert probabilities(nn.Identity(), torch.tensor([[0.25]])).tolist() == [[0.75, 0.25]]

    def test_refusals(self):
        with pytest.raises(ValueError, match="a row of classes for each sample"):
            probabilities(nn.Identity(), torch.zeros(1, 2, 2))
        with pytest.raises(ValueError, match="NaN or infinite"):
            probabilities(nn.Identity(), torch.tensor([[0.0, float("nan")]]))


class TestMistakes:
    # Right; wrong, sure; wrong, unsure; right; wrong, very sure.
    images = levels_images((3, 0, 0), (4, 0, 0), (1, 0, 0), (0, 0, 2), (0, 9, 0))
    labels = (0, 1, 2, 2, 0)

    def test_the_surest_wrong_ones_come_first(self):
        figure = pictures.mistakes(Levels(), self.images, self.labels, class_names=["a", "b", "c"])
        assert [axes.get_xlabel() for axes in figure.axes] == ["x[4]", "x[1]", "x[2]"]
        sure = [100 * float(self.images[k, 0, 0, :3].softmax(0).max()) for k in (4, 1, 2)]
        assert [axes.get_title() for axes in figure.axes] == [
            f"said b: {sure[0]:.1f} %\ntrue a",
            f"said a: {sure[1]:.1f} %\ntrue b",
            f"said a: {sure[2]:.1f} %\ntrue c",
        ]
        # Stretched to 0 ... 1, since these images are not within it.
        shown = figure.axes[0].images[0].get_array()
        assert np.allclose(shown, self.images[4, 0] / 9)
        assert figure.get_suptitle() == "3 mistakes among 5"

    def test_no_more_than_wanted(self):
        figure = pictures.mistakes(Levels(), self.images, self.labels, 2)
        assert [axes.get_xlabel() for axes in figure.axes] == ["x[4]", "x[1]"]
        assert figure.get_suptitle() == "3 mistakes among 5, the 2 most confident"

    def test_long_names_are_cut(self):
        names = ["a class of a very long name", "b", "c"]
        figure = pictures.mistakes(Levels(), self.images, self.labels, 1, class_names=names)
        assert figure.axes[0].get_title().endswith("true a class of a very…")

    def test_no_mistake(self, tmp_path):
        figure = pictures.mistakes(Levels(), self.images[:1], [0], path=tmp_path / "none.png")
        assert not figure.axes and figure.get_suptitle() == "0 mistakes among 1"
        assert (tmp_path / "none.png").read_bytes().startswith(b"\x89PNG")

    def test_bytes_in_colour_channels_last(self):
        model, images = small(channels=3), np.zeros((6, 8, 8, 3), np.uint8)
        images[..., 0] = 51
        said = model.predict(images).argmax(axis=1)
        figure = pictures.mistakes(model, images, (said + 1) % 3, 5)
        assert len(figure.axes) == 5
        shown = figure.axes[0].images[0].get_array()
        assert np.allclose(shown[..., 0], 0.2) and shown.shape[:2] == (8, 8)

    @pytest.mark.parametrize(
        ("x", "y", "options", "message"),
        [
            (images, (0, 1), {}, "5 images and 2 labels"),
            (images, (0, 1, 2, 3, 0), {}, "label 3 is out of range"),
            (images, labels, {"count": 0}, "count must be a whole number >= 1, got 0"),
            (images, labels, {"class_names": ["a"]}, "must name 3 classes, got 1 names"),
            (torch.zeros(2, 3), (0, 1), {}, r"shown as images, got x of shape \(2, 3\)"),
            (
                images.repeat(1, 2, 1, 1),
                labels,
                {},
                r"1 or 3 channels can be shown, as \(C, H, W\)",
            ),
        ],
    )
    def test_refusals(self, x, y, options, message):
        with pytest.raises(ValueError, match=message):
            pictures.mistakes(Levels(), x, y, **options)
