import dataclasses
import hashlib
import tarfile

import numpy as np
import pytest
import torch

from onsphere.lab.data import DataError, cifar, load, named
from onsphere.lab.data.cifar import CIFAR10, CIFAR100, read_cifar
from onsphere.lab.data.places import Place


def read(kind, folder):
    return read_cifar(kind, Place(folder, "data_dir", binding=True), download=False)


@pytest.mark.parametrize("subfolder", ["", "cifar-10-batches-bin"])
def test_binary_cifar10(tmp_path, write_cifar10, subfolder):
    x, y, x_test, y_test = write_cifar10(tmp_path / subfolder, train_files=(1, 2, 3, 4, 5))
    raw = read(CIFAR10, tmp_path)
    assert (raw.x_train == x).all() and (raw.y_train == y).all() and raw.y_train.dtype == np.int64
    assert (raw.x_test == x_test).all() and (raw.y_test == y_test).all()
    assert "of 5" not in raw.source


@pytest.mark.parametrize("subfolder", ["", "cifar-100-binary"])
def test_binary_cifar100_takes_the_fine_labels(tmp_path, write_cifar100, subfolder):
    x, y, x_test, y_test = write_cifar100(tmp_path / subfolder)
    raw = read(CIFAR100, tmp_path)
    assert (raw.x_train == x).all() and (raw.y_train == y).all() and raw.classes == 100
    assert (raw.x_test == x_test).all() and (raw.y_test == y_test).all()


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", [CIFAR10, CIFAR100], ids=lambda kind: kind.name)
def test_python_layout(tmp_path, write_pickles, kind, protocol):
    files = (*kind.train_files, kind.test_file)
    folder = tmp_path / kind.python_folder
    written = write_pickles(folder, files, kind.label_key, kind.classes, protocol, examples=100)
    raw = read(kind, tmp_path)
    assert (raw.x_train == np.concatenate([written[file][0] for file in kind.train_files])).all()
    assert (raw.y_train == np.concatenate([written[file][1] for file in kind.train_files])).all()
    assert (raw.x_test == written[kind.test_file][0]).all() and (raw.y_test == written[kind.test_file][1]).all()


def test_partial_set_says_so(tmp_path, write_cifar10):
    write_cifar10(tmp_path / "d", train_files=(1,), examples=30, test_examples=10)
    loaded = load("cifar10", data_dir=tmp_path / "d")
    assert loaded.x_train.shape == (30, 3, 32, 32) and len(loaded.x_test) == 10
    assert "1 of 5 training files" in loaded.source
    with pytest.raises(DataError, match="train=31: there are 30 training images of cifar10"):
        load("cifar10", data_dir=tmp_path / "d", train=31)


def test_images_are_nchw_and_standardised_by_channel(tmp_path, write_cifar10):
    x, y, *_ = write_cifar10(tmp_path / "d", examples=50)
    scaled = load("cifar10", data_dir=tmp_path / "d", standardise=False)
    places = [np.flatnonzero((x == image).all(axis=(1, 2, 3)))[0] for image in (scaled.x_train * 255).round().numpy()]
    assert sorted(places) == list(range(50)) and (y[places] == scaled.y_train.numpy()).all()
    standard = load("cifar10", data_dir=tmp_path / "d").x_train.double()
    assert torch.allclose(standard.mean(dim=(0, 2, 3)), torch.zeros(3, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(standard.std(dim=(0, 2, 3), correction=0), torch.ones(3, dtype=torch.float64), atol=1e-6)


def test_a_usable_layout_wins_over_a_started_one(tmp_path, write_cifar10, write_pickles):
    write_cifar10(tmp_path / "cifar-10-batches-bin")
    (tmp_path / "cifar-10-batches-bin" / "test_batch.bin").unlink()
    with pytest.raises(DataError, match=r"cifar-10-batches-bin: cifar10 is incomplete: no test_batch\.bin"):
        read(CIFAR10, tmp_path)
    write_pickles(tmp_path / "cifar-10-batches-py", ("data_batch_1", "test_batch"))
    assert "Python layout" in read(CIFAR10, tmp_path).source


def test_variable_names_the_folder(tmp_path, monkeypatch, write_cifar10, write_cifar100):
    write_cifar10(tmp_path / "d" / "cifar-10-batches-bin")
    write_cifar100(tmp_path / "d" / "cifar-100-binary")
    monkeypatch.setenv("ONSPHERE_DATA", str(tmp_path / "d"))
    assert load("cifar10").classes == 10 and load("cifar100").classes == 100


def test_empty_folder_and_packed_archive(tmp_path):
    with pytest.raises(DataError, match=r"holds no cifar10; it needs data_batch_1\.bin and test_batch\.bin"):
        load("cifar10", data_dir=tmp_path)
    (tmp_path / "cifar-100-python.tar.gz").touch()
    with pytest.raises(DataError, match=r"holds no cifar100; unpack cifar-100-python\.tar\.gz there first"):
        load("cifar100", data_dir=tmp_path)


@pytest.mark.parametrize("download", [True, False])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_nowhere_to_be_found_names_three_ways(name, download):
    with pytest.raises(DataError) as caught:
        load(name, download=download)
    message = str(caught.value)
    assert ("download failed" if download else "download=False") in message
    assert all(part in message for part in ("(1)", "data_dir", "(2)", "ONSPHERE_DATA", "(3)", "-python.tar.gz"))


RECORD = bytes([3]) + bytes(3072)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("data_batch_1.bin", b"", "0 bytes, which is no whole number of cifar10 records of 3073 bytes"),
        ("data_batch_2.bin", RECORD * 3 + b"\0", "9220 bytes, which is no whole number"),
        ("test_batch.bin", RECORD[:-1], "3072 bytes, which is no whole number"),
        ("data_batch_2.bin", RECORD + bytes([10]) + bytes(3072), "label 10 of image 1; allowed: 0 to 9"),
    ],
)
def test_damaged_binary_files(tmp_path, write_cifar10, file, content, message):
    write_cifar10(tmp_path, train_files=(1, 2))
    (tmp_path / file).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load("cifar10", data_dir=tmp_path)
    assert file in str(caught.value)


@pytest.mark.parametrize(("labels", "message"), [((20, 0), "label 20 of image 0"), ((0, 100), "label 100 of image 0")])
def test_wrong_labels_in_binary_cifar100(tmp_path, write_cifar100, labels, message):
    write_cifar100(tmp_path)
    (tmp_path / "train.bin").write_bytes(bytes(labels) + bytes(3072))
    with pytest.raises(DataError, match=message):
        load("cifar100", data_dir=tmp_path)


GOOD = np.zeros((4, 3072), np.uint8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list; a dict of arrays is needed"),
        ({"data": GOOD}, "has no 'labels', only: data"),
        ({"data": GOOD, "fine_labels": [0] * 4}, "has no 'labels', only: data, fine_labels; is it a file of cifar10"),
        ({}, "has no 'data', only: nothing"),
        ({"data": GOOD.astype(np.float32), "labels": [0] * 4}, r"'data' is float32 \[4, 3072\]"),
        ({"data": GOOD[:, :-1], "labels": [0] * 4}, r"'data' is uint8 \[4, 3071\]"),
        ({"data": GOOD[:0], "labels": []}, r"'data' is uint8 \[0, 3072\]"),
        ({"data": GOOD.tobytes(), "labels": [0] * 4}, "'data' is a bytes"),
        ({"data": GOOD, "labels": [0] * 3}, "3 labels for 4 images"),
        ({"data": GOOD, "labels": [0, 1, 2, 10]}, "label 10 of image 3; allowed: 0 to 9"),
        ({"data": GOOD, "labels": [0, -1, 2, 3]}, "label -1 of image 1"),
        ({"data": GOOD, "labels": [0, 1, 2, 2**70]}, "integers out of range"),
        ({"data": GOOD, "labels": [0, 1.0, 2, 3]}, "'labels' is not a list of integers"),
        ({"data": GOOD, "labels": "0123"}, "'labels' is not a list of integers"),
        ({"data": GOOD, "labels": np.zeros(4)}, "'labels' is not a list of integers"),
    ],
)
def test_wrong_pickles(tmp_path, write_pickles, content, message):
    import pickle

    write_pickles(tmp_path, ("data_batch_1", "test_batch"))
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match=message) as caught:
        load("cifar10", data_dir=tmp_path)
    assert "data_batch_1" in str(caught.value) and "\n" not in str(caught.value)


def test_downloads_are_unpacked_once(tmp_path, monkeypatch, write_pickles):
    import pooch

    files = (*CIFAR100.train_files, CIFAR100.test_file)
    write_pickles(tmp_path / "made" / "cifar-100-python", files, "fine_labels", 100, 2, examples=100)
    (tmp_path / "made" / "cifar-100-python" / "file.txt~").write_text("not ours")
    archive = tmp_path / "made" / "cifar-100-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "made" / "cifar-100-python", "cifar-100-python")
    asked = []

    def retrieve(**arguments):
        asked.append(arguments)
        return str(archive)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    md5 = tuple(hashlib.md5((tmp_path / "made/cifar-100-python" / file).read_bytes()).hexdigest() for file in files)
    monkeypatch.setattr(named, "CIFAR100", dataclasses.replace(cifar.CIFAR100, md5=md5))
    first, second = load("cifar100"), load("cifar100", download=False)
    assert first.fingerprint() == second.fingerprint() and len(first.x_train) == 100
    assert len(asked) == 1 and asked[0]["known_hash"] == f"sha256:{cifar.CIFAR100.sha256}"
    unpacked = tmp_path / "cache" / "onsphere" / "cifar-100-python"
    assert sorted(path.name for path in unpacked.iterdir()) == ["test", "train"]
    assert [path.name for path in unpacked.parent.iterdir()] == ["cifar-100-python"]


@pytest.mark.parametrize("download", [True, False])
@pytest.mark.parametrize(
    ("kind", "files", "label_key", "classes"),
    [
        (cifar.CIFAR10, ("data_batch_1", "test_batch"), "labels", 10),
        (cifar.CIFAR10, ("data_batch_3", "test_batch"), "labels", 10),
        (cifar.CIFAR100, ("train", "test"), "fine_labels", 100),
    ],
)
def test_files_in_the_cache_that_are_not_the_official_ones_are_refused(
    tmp_path, write_pickles, kind, files, label_key, classes, download
):
    write_pickles(tmp_path / "cache" / "onsphere" / kind.python_folder, files, label_key, classes, examples=classes)
    with pytest.raises(DataError, match=rf"{files[0]}: is not the official file \(its md5 is \w+, not "):
        load(kind.name, download=download)


def test_one_changed_byte_in_the_cache_is_noticed(tmp_path, write_pickles, monkeypatch):
    folder = tmp_path / "cache" / "onsphere" / "cifar-10-batches-py"
    files = (*cifar.CIFAR10.train_files, cifar.CIFAR10.test_file)
    write_pickles(folder, files)
    md5 = tuple(hashlib.md5((folder / file).read_bytes()).hexdigest() for file in files)
    monkeypatch.setattr(named, "CIFAR10", dataclasses.replace(cifar.CIFAR10, md5=md5))
    assert load("cifar10", download=False).source == "the official download (checksum verified)"
    content = bytearray((folder / "test_batch").read_bytes())
    content[500] ^= 1
    (folder / "test_batch").write_bytes(content)
    with pytest.raises(DataError, match="test_batch: is not the official file"):
        load("cifar10", download=False)
