"""Tiny data sets on disk in the official layouts, and no way to the real ones unless a test asks for it."""

import gzip
import pickle
import struct

import numpy as np
import pytest

from onsphere.lab.data import fashion_mnist


@pytest.fixture(autouse=True)
def _only_what_the_test_provides(monkeypatch, tmp_path):
    """No ONSPHERE_DATA, no Debian package, an empty cache, and no network."""
    import pooch

    def offline(*_, **__):
        raise ConnectionError("no network in tests")

    monkeypatch.delenv("ONSPHERE_DATA", raising=False)
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "no-such-package")
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    monkeypatch.setattr(pooch, "retrieve", offline)


def cifar_arrays(examples, classes, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (examples, 3, 32, 32), dtype=np.uint8)
    return images, np.arange(examples) % classes


def idx_bytes(array):
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture
def write_cifar10():
    """write(folder, train_files=(1, 2), examples=20) -> images and labels as they were written (binary layout)."""

    def write(folder, train_files=(1,), examples=20, test_examples=10):
        folder.mkdir(parents=True, exist_ok=True)
        parts = []
        for number in train_files:
            x, y = cifar_arrays(examples, 10, seed=number)
            np.column_stack([y, x.reshape(len(x), -1)]).astype("u1").tofile(folder / f"data_batch_{number}.bin")
            parts.append((x, y))
        x_test, y_test = cifar_arrays(test_examples, 10, seed=99)
        np.column_stack([y_test, x_test.reshape(len(x_test), -1)]).astype("u1").tofile(folder / "test_batch.bin")
        return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts]), x_test, y_test

    return write


@pytest.fixture
def write_cifar100():
    def write(folder, examples=200, test_examples=100):
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for name, count in (("train", examples), ("test", test_examples)):
            x, y = cifar_arrays(count, 100, seed=count)
            np.column_stack([y // 5, y, x.reshape(count, -1)]).astype("u1").tofile(folder / f"{name}.bin")
            written += [x, y]
        return written

    return write


@pytest.fixture
def write_pickles():
    """write(folder, files, label_key, classes, protocol) -> what was written, by file name (Python layout)."""

    def write(folder, files, label_key="labels", classes=10, protocol=4, examples=20):
        folder.mkdir(parents=True, exist_ok=True)
        written = {}
        for seed, file in enumerate(files):
            x, y = cifar_arrays(examples, classes, seed)
            content = {"data": x.reshape(examples, -1), label_key: y.tolist(), "batch_label": "one"}
            (folder / file).write_bytes(pickle.dumps(content, protocol=protocol))
            written[file] = (x, y)
        return written

    return write


@pytest.fixture
def write_fashion():
    """write(folder, compressed) -> x_train, y_train, x_test, y_test as they were written."""

    def write(folder, compressed=True, examples=40, test_examples=20):
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(0)
        arrays = []
        for part, count in (("train", examples), ("t10k", test_examples)):
            x = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
            y = np.arange(count) % 10
            for name, array in ((f"{part}-images-idx3-ubyte", x), (f"{part}-labels-idx1-ubyte", y)):
                content = idx_bytes(array)
                if compressed:
                    (folder / f"{name}.gz").write_bytes(gzip.compress(content))
                else:
                    (folder / name).write_bytes(content)
            arrays += [x, y]
        return arrays

    return write
