"""The operators between two training steps: gathering a batch's samples, counting right answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pyconvopt.data.choice import chosen
from pyconvopt.metrics import Accuracy
from pyconvopt.metrics.measures import right_answers

OPS = torch.ops.pyconvopt
ROWS = torch.tensor([3, 0, 3, 6])
SAMPLES = {
    "floats": torch.randn(7, 5, 3, 2),
    "bytes": torch.randint(0, 256, (7, 9, 9, 1), dtype=torch.uint8),
    "single numbers": torch.randn(7),
    "nothing within": torch.randn(7, 0, 4),
    "large": torch.randn(7, 3, 224, 224),
    "doubles": torch.randn(7, 3).double(),
    "every second": torch.randn(14, 3)[::2],
    "turned": torch.randn(7, 3, 5).transpose(1, 2),
}
LABELS = {
    "none": None,
    "numbers": torch.arange(7),
    "shares": torch.rand(7, 4),
    "truths": torch.tensor([True, False] * 3 + [True]),
    "halves": torch.rand(7, 2).half(),
    "every second": torch.arange(14)[::2],
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("samples", SAMPLES.values(), ids=SAMPLES)
@pytest.mark.parametrize("rows", [ROWS, ROWS[:0]], ids=["some", "none"])
def test_chosen_samples_are_those_of_index_select(samples, labels, rows):
    x, y = chosen(samples, labels, rows)
    assert x.dtype == torch.float32
    assert torch.equal(x, samples.index_select(0, rows).float())
    if labels is None:
        assert y is None
    else:
        assert y.dtype == labels.dtype
        assert torch.equal(y, labels.index_select(0, rows))


def test_many_samples_by_any_number_of_threads():
    samples = torch.randint(0, 256, (500, 28, 28), dtype=torch.uint8)
    rows = torch.randint(0, 500, (4000,))
    threads = torch.get_num_threads()
    try:
        for each in (1, 3):
            torch.set_num_threads(each)
            assert torch.equal(chosen(samples, None, rows)[0], samples[rows].float())
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(7, 2), None, torch.tensor([7])), "rows of 0 ... 6, but got 7"),
        ((torch.ones(7, 2), None, torch.tensor([-1])), "rows of 0 ... 6, but got -1"),
        ((torch.ones(0, 2), None, torch.tensor([0])), "rows of 0 ... -1, but got 0"),
        ((torch.ones(7, 2), None, torch.tensor([1.0])), "rows to be a vector of int64"),
        ((torch.ones(7, 2), None, torch.tensor([[1]])), r"vector of int64, but got shape \[1, 1\]"),
        ((torch.ones(7, 2).double(), None, ROWS), "samples of dtype float32 or uint8"),
        ((torch.ones(2, 7).t(), None, ROWS), "samples to be contiguous"),
        ((torch.tensor(1.0), None, ROWS), "samples to be contiguous"),
        ((torch.ones(7, 2), torch.ones(6), ROWS), "as many labels as samples, but got 6 and 7"),
        ((torch.ones(7, 2), torch.ones(2, 7).t(), ROWS), "labels to be contiguous"),
    ],
)
def test_a_gather_of_what_is_not_there_is_refused(arguments, message):
    with pytest.raises(RuntimeError, match=message):
        OPS.gather_samples(*arguments)


def test_right_answers_are_those_of_argmax():
    rng = np.random.default_rng(0)
    for rows, columns in ((0, 3), (1, 1), (64, 10), (300, 1000)):
        # Few different values: many rows have their largest more than once.
        outputs = torch.from_numpy(rng.integers(0, 4, (rows, columns)).astype(np.float32))
        labels = torch.from_numpy(rng.integers(0, columns, rows))
        found = OPS.right_answers(outputs, labels)
        assert found == int((outputs.argmax(dim=1) == labels).sum())
        assert right_answers(outputs, labels) == found == right_answers(outputs.double(), labels)


def test_a_nan_is_the_largest_as_in_argmax():
    nan = math.nan
    outputs = torch.tensor(
        [[1.0, nan, 2.0], [nan, nan, 9.0], [math.inf, 0.0, nan], [-nan, 1.0, 1.0]]
    )
    wanted = outputs.argmax(dim=1)
    assert wanted.tolist() == [1, 0, 2, 0]
    assert OPS.right_answers(outputs, wanted) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(3, 2), torch.tensor([0, 1])), r"\[3, 2\] and \[2\]"),
        ((torch.ones(3), torch.tensor([0, 1, 0])), r"\[3\] and \[3\]"),
        ((torch.ones(3, 0), torch.tensor([0, 1, 0])), r"\[3, 0\] and \[3\]"),
        ((torch.ones(3, 2).double(), torch.tensor([0, 1, 0])), "outputs of dtype float32"),
        ((torch.ones(2, 3).t(), torch.tensor([0, 1, 0])), "outputs to be contiguous"),
        ((torch.ones(3, 2), torch.tensor([0.0, 1.0, 0.0])), "labels to be a vector of int64"),
    ],
)
def test_answers_that_cannot_be_counted_are_refused(arguments, message):
    with pytest.raises(RuntimeError, match=message):
        OPS.right_answers(*arguments)


@pytest.mark.parametrize("order", ["plain", "turned"])
@pytest.mark.parametrize("one_hot", [False, True], ids=["numbers", "one-hot"])
def test_accuracy_counts_the_same_by_operator_and_by_torch(order, one_hot):
    outputs = torch.randn(10, 50).t() if order == "turned" else torch.randn(50, 10)
    labels = torch.randint(0, 10, (50,))
    targets = torch.nn.functional.one_hot(labels, 10).float() if one_hot else labels
    accuracy = Accuracy()
    accuracy.update(outputs, targets)
    assert accuracy.result() == int((outputs.argmax(dim=1) == labels).sum()) / 50


def test_operators_pass_opcheck():
    for labels in (None, torch.rand(7, 3)):
        torch.library.opcheck(OPS.gather_samples.default, (torch.randn(7, 4), labels, ROWS))
    # A whole opcheck compares a number that depends on the data with one that nobody knows yet.
    utilities = ("test_schema", "test_autograd_registration")
    arguments = (torch.randn(3, 4), torch.tensor([0, 1, 2]))
    torch.library.opcheck(OPS.right_answers.default, arguments, test_utils=utilities)
