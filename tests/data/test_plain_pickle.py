"""Pickles of plain data: what is read, and that nothing in them runs."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from pyconvopt.data import plain_pickle

# {'data': array of 2×3 bytes 'abcdef', 'labels': [1, 2]}, as Python 2 wrote it.
PYTHON_2 = (
    b"\x80\x02}q\x00(U\x04dataq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03"
    b"K\x00\x85q\x04U\x01bq\x05\x87q\x06Rq\x07(K\x01K\x02K\x03\x86q\x08cnumpy\ndtype\nq\tU\x02u1q\n"
    b"K\x00K\x01\x87q\x0bRq\x0c(K\x03U\x01|q\rNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0eb"
    b"\x89U\x06abcdefq\x0ftq\x10bU\x06labelsq\x11]q\x12(K\x01K\x02eu."
)


def nested(depth):
    """A list of two, of which both are the same list of two, and so on."""
    value = [1]
    for _ in range(depth):
        value = [value, value]
    return value


class Bomb:
    """Its pickle calls what it was given."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


class TestRead:
    def test_python_2(self):
        got = plain_pickle.read(PYTHON_2)
        np.testing.assert_array_equal(got["data"], [list(b"abc"), list(b"def")])
        assert got["labels"] == [1, 2]
        assert pickle.loads(PYTHON_2, encoding="latin1")["labels"] == got["labels"]

    @pytest.mark.parametrize("protocol", [2, 3, 4])
    def test_the_same_as_pickle(self, protocol):
        array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
        shared = ["twice"]
        value = {
            b"data": array,
            "fortran": np.asfortranarray(array),
            "nested": [shared, shared, (1, 2.5, None, True), (), {"a": -3, "b": 1 << 40}],
            "many": list(range(2000)),
        }
        got = plain_pickle.read(pickle.dumps(value, protocol=protocol))
        np.testing.assert_array_equal(got.pop(b"data"), value.pop(b"data"))
        np.testing.assert_array_equal(got.pop("fortran"), value.pop("fortran"))
        assert got == value

    @pytest.mark.parametrize("protocol", [2, 4])
    def test_nothing_runs(self, protocol, tmp_path):
        victim = tmp_path / "victim"
        bomb = pickle.dumps({"data": Bomb(open, str(victim), "w")}, protocol=protocol)
        with pytest.raises(ValueError, match=r"it names (io|_io)\.open"):
            plain_pickle.read(bomb)
        assert not victim.exists()
        pickle.loads(bomb)["data"].close()
        assert victim.exists()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (PYTHON_2[:-30], "but only 3 remain"),
            (b"", "exhausted before"),
            (b"<html>", "opcode"),
            (pickle.dumps(np.arange(3.0), protocol=2), "wanted unsigned bytes"),
            (pickle.dumps({1, 2}, protocol=4), "instruction EMPTY_SET"),
            (pickle.dumps(np.ndarray, protocol=2), "it holds"),
            (pickle.dumps(Bomb(np.dtype, "u1"), protocol=2)[:-1] + b"}b.", "it holds"),
            (b"\x80\x02]}b.", "it sets the state"),
            (b"\x80\x02h\x07.", "KeyError"),
            (b"\x80\x02]q\x00h\x00a.", "recursion"),
        ],
    )
    def test_refused(self, content, message):
        with pytest.raises(ValueError, match=f"^not a pickle of plain data: .*{message}"):
            plain_pickle.read(content)

    def test_what_is_shared_is_read_once(self):
        value = plain_pickle.read(pickle.dumps(nested(100), protocol=2))
        for _ in range(100):
            assert len(value) == 2 and value[0] is value[1]
            value = value[0]
        assert value == [1]
