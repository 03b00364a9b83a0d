"""CIFAR in all the forms in which it lies on disks: one small set, written in each of them."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from pyconvopt import data
from pyconvopt.data import cifar
from tests.data.test_plain_pickle import nested

SAMPLES = {"train": 10, "test": 4}


def small_set(dataset: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images (N, 32, 32, 3) and labels (N, 1 or 2) for both halves."""
    generator = np.random.default_rng(3)
    columns = 1 if dataset == "cifar10" else 2
    return {
        half: (
            generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8),
            generator.integers(0, 10, (count, columns), dtype=np.uint8),
        )
        for half, count in SAMPLES.items()
    }


def files(dataset: str, archive: cifar.Archive) -> dict[str, bytes]:
    """The archive's files with that set in them."""
    written = {}
    for half, (images, labels) in small_set(dataset).items():
        names = getattr(archive, half)
        pixels = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        for name, part, numbers in zip(
            names, np.split(pixels, len(names)), np.split(labels, len(names)), strict=True
        ):
            if not archive.pickled:
                written[name] = np.hstack([numbers, part]).tobytes()
                continue
            keys = ("labels",) if dataset == "cifar10" else ("coarse_labels", "fine_labels")
            columns = {key: numbers[:, place].tolist() for place, key in enumerate(keys)}
            table = {"data": part, "filenames": ["a.png"] * len(part), **columns}
            written[name] = pickle.dumps(table, protocol=2)
    return written


def put(folder: Path, dataset: str, form: int, packed: bool) -> Path:
    """One form of the set in that folder."""
    archive = cifar.ARCHIVES[dataset][form]
    folder.mkdir(parents=True, exist_ok=True)
    if not packed:
        (folder / archive.folder).mkdir()
        for name, content in files(dataset, archive).items():
            (folder / archive.folder / name).write_bytes(content)
        return folder / archive.folder
    path = folder / archive.file.name
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files(dataset, archive).items():
            member = tarfile.TarInfo(f"{archive.folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.setenv("PYCONVOPT_DATA", str(tmp_path))
    return tmp_path


class TestCifar:
    @pytest.mark.parametrize("packed", [False, True])
    @pytest.mark.parametrize("form", [0, 1])
    def test_all_forms_hold_the_same(self, base, form, packed):
        for dataset in ("cifar10", "cifar100"):
            put(base / dataset, dataset, form, packed)
        for got, (images, labels) in zip(
            data.cifar10(), small_set("cifar10").values(), strict=True
        ):
            np.testing.assert_array_equal(got[0], images)
            np.testing.assert_array_equal(got[1], labels[:, 0])
            assert got[0].dtype == got[1].dtype == np.uint8
        for mode, column in (("fine", 1), ("coarse", 0)):
            (_, labels), _ = data.cifar100(label_mode=mode)
            np.testing.assert_array_equal(labels, small_set("cifar100")["train"][1][:, column])

    def test_a_folder_beside_the_sets(self, base):
        put(base, "cifar10", 1, packed=False)
        assert data.load("cifar-10")[0][0].shape == (10, 32, 32, 3)

    def test_damage(self, base):
        path = put(base / "cifar10", "cifar10", 0, packed=True)
        path.write_bytes(path.read_bytes()[:-4000])
        with pytest.raises(ValueError, match=r"cifar-10-binary.tar.gz is damaged: .* unpack"):
            data.cifar10()
        folder = put(base / "cifar10", "cifar10", 0, packed=False)
        (folder / "data_batch_3.bin").write_bytes(b"short")
        with pytest.raises(ValueError, match=r"data_batch_3.bin is damaged: got 5 bytes"):
            data.cifar10()
        (folder / "data_batch_3.bin").unlink()
        with pytest.raises(ValueError, match=r"not whole: there is no .*data_batch_3.bin"):
            data.cifar10()

    @pytest.mark.parametrize("target", ["nowhere", "train.bin"])
    def test_an_archive_of_links(self, base, target):
        path = base / "cifar100" / "cifar-100-binary.tar.gz"
        path.parent.mkdir()
        with tarfile.open(path, "w:gz") as tar:
            link = tarfile.TarInfo("cifar-100-binary/train.bin")
            link.type, link.linkname = tarfile.SYMTYPE, target
            tar.addfile(link)
        with pytest.raises(ValueError, match=r"is damaged: there is no .*/train.bin in it"):
            data.cifar100()

    def test_a_pickle_of_something_else(self, base):
        folder = put(base / "cifar100", "cifar100", 1, packed=False)
        for content, message in (
            (pickle.dumps({"data": np.zeros((2, 5), np.uint8)}), "not the pickle"),
            (
                pickle.dumps(
                    {
                        "data": np.zeros((2, 5), np.uint8),
                        "coarse_labels": [1, 2],
                        "fine_labels": [3, 4],
                    }
                ),
                r"got images \(2, 5\) and 2 labels",
            ),
            (
                pickle.dumps({"data": nested(60), "coarse_labels": [1], "fine_labels": [3]}),
                "not the pickle .* no array",
            ),
            (
                pickle.dumps(
                    {
                        "data": np.zeros((1, 3072), np.uint8),
                        "coarse_labels": nested(60),
                        "fine_labels": [3],
                    }
                ),
                "not the pickle",
            ),
        ):
            (folder / "train").write_bytes(content)
            with pytest.raises(ValueError, match=message):
                data.cifar100()

    def test_label_mode(self, base):
        with pytest.raises(ValueError, match="did you mean 'fine'"):
            data.cifar100(label_mode="fien")

    def test_class_names(self):
        assert len(data.CLASS_NAMES["cifar10"]) == 10
        names = data.CLASS_NAMES["cifar100"]
        assert len(set(names)) == 100 and sorted(names) == list(names)
