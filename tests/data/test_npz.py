"""Arrays of .npz files that stay on disk: the same numbers as in memory, and nothing read for them."""

from __future__ import annotations

import warnings
import zipfile

import numpy as np
import pytest
import torch

from pyconvopt import data
from pyconvopt.data.rows import is_mapped
from tests.data.test_rows import BAD_HEADS, array_file
from tests.data.test_sources import arrays  # noqa: F401, the fixture


@pytest.fixture
def path(tmp_path):
    return tmp_path / "digits.npz"


class TestMapped:
    @pytest.mark.parametrize("kind", ["u1", "<f4", ">f4", "<u2", "?", "f8"])
    @pytest.mark.parametrize("order", [np.ascontiguousarray, np.asfortranarray])
    def test_the_numbers_of_memory(self, path, arrays, kind, order):  # noqa: F811
        given = {
            name: order(each.astype(kind)) if "x" in name else each[:, None]
            for name, each in arrays.items()
        }
        np.savez(path, **given)
        whole = data.load(path)
        mapped = data.load(path, in_memory=False)
        for (rows, labels), (images, numbers) in zip(mapped, whole, strict=True):
            assert isinstance(rows, data.MappedArray) and is_mapped(rows.array)
            np.testing.assert_array_equal(rows[:].numpy(), images)
            np.testing.assert_array_equal(rows.read([3, 0]).numpy(), images[[3, 0]])
            np.testing.assert_array_equal(labels, numbers)
            assert not is_mapped(labels)

    def test_undivided(self, path, arrays):  # noqa: F811
        np.savez(path, x=arrays["x_train"], y=arrays["y_train"])
        for (rows, labels), (images, numbers) in zip(
            data.load(path, in_memory=False), data.load(path), strict=True
        ):
            assert isinstance(rows, data.Rows)
            np.testing.assert_array_equal(rows[:].numpy(), images)
            np.testing.assert_array_equal(labels, numbers)

    def test_larger_than_memory(self, path):
        """64 GiB in a sparse archive, of which a batch touches a few pages."""
        shape = (1 << 26, 32, 32)
        with zipfile.ZipFile(path, "w") as archive:
            for name, values in (("x_test", np.zeros((2, 32, 32), np.uint8)), ("y_test", [0, 1])):
                with archive.open(f"{name}.npy", "w") as member:
                    np.save(member, values)
            with archive.open("y_train.npy", "w") as member:
                np.save(member, np.zeros(4))
        sparse_member(path, "x_train.npy", shape)
        (rows, _), _ = data.load(path, in_memory=False)
        assert tuple(rows.shape) == shape
        assert torch.equal(rows[-1], torch.zeros(32, 32, dtype=torch.uint8))


def sparse_member(path, name: str, shape: tuple[int, ...]) -> None:
    """Add an array of zeros to an archive, as a hole in the file."""
    size = int(np.prod(shape))
    with zipfile.ZipFile(path, "a", allowZip64=True) as archive:
        info = zipfile.ZipInfo(name)
        with archive.open(info, "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(
                member, {"descr": "|u1", "fortran_order": False, "shape": shape}
            )
        # The rest of the member: skipped instead of written.
        info.file_size += size
        info.compress_size += size
        archive.start_dir += size
        archive.fp.seek(archive.start_dir)


class TestRefusals:
    def refused(self, path, message: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(
                ValueError, match=f"digits.npz cannot be mapped: {message}"
            ) as caught:
                data.load(path, in_memory=False)
        assert "\n" not in str(caught.value)

    def test_packed(self, path, arrays):  # noqa: F811
        np.savez_compressed(path, **arrays)
        self.refused(path, r"x_train.npy is packed, .*: write it with numpy.savez, or as a .npy")

    def test_objects(self, path):
        np.savez(path, x=np.array([{}, {}], object), y=[0, 0])
        self.refused(path, "x.npy holds Python objects, wanted numbers")

    def test_no_archive_and_no_array(self, path):
        path.write_bytes(b"no zip file")
        self.refused(path, "File is not a zip file")
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", b"no array at all")
        self.refused(path, "the magic string is not correct")
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", b"\x93NUMPY\x09\x00rest")
        self.refused(path, r"x.npy is of format \(9, 0\), wanted one of \(1, 0\), \(2, 0\)")

    @pytest.mark.parametrize("head", BAD_HEADS.values(), ids=BAD_HEADS)
    def test_damaged_heads(self, path, head):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", array_file(head))
        self.refused(path, "")
        if head.startswith("--"):
            return  # read whole, it is a MemoryError, as for arrays that are too large
        with pytest.raises(ValueError, match=r"digits.npz is no .npz file of numbers"):
            data.load(path)

    def test_one_array_and_a_locked_archive(self, path, arrays):  # noqa: F811
        with open(path, "wb") as file:
            np.save(file, arrays["x_train"])
        with pytest.raises(
            ValueError, match=r"digits.npz is no .npz file of numbers: .* one array"
        ):
            data.load(path)
        np.savez(path, **arrays)
        content = bytearray(path.read_bytes())
        for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            content[content.find(signature) + place] |= 1  # the flag of an encrypted member
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=r"digits.npz is no .npz file of numbers: .* encrypted"
        ):
            data.load(path)

    @pytest.mark.parametrize("kept", [0.02, 0.5, 0.97])
    def test_cut_short(self, path, arrays, kept):  # noqa: F811
        np.savez(path, **arrays)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(kept * len(whole))])
        self.refused(path, "File is not a zip file")

    def test_a_head_that_speaks_of_more(self, path):
        np.savez(path, x=np.zeros((12, 5)), y=np.zeros(12))
        path.write_bytes(path.read_bytes().replace(b"(12, 5)", b"(99, 5)"))
        self.refused(path, "x.npy has 480 bytes of numbers, its head speaks of 3960")

    def test_a_member_elsewhere(self, path):
        np.savez(path, x=np.zeros((12, 5)), y=np.zeros(12))
        path.write_bytes(path.read_bytes().replace(b"PK\x03\x04", b"KP\x03\x04", 1))
        self.refused(path, "there is no x.npy where the archive's directory says")
