import gzip
import hashlib
import tracemalloc

import numpy as np
import pytest
import torch

from onsphere.lab.data import DataError, fashion_mnist, load
from onsphere.lab.data.idx import read_idx

REAL_PACKAGE = fashion_mnist.DEBIAN_FOLDER  # read here, before a fixture hides it


def idx(array, magic=None):
    header = magic or bytes((0, 0, 8, array.ndim))
    return header + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.astype(np.uint8).tobytes()


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("subfolder", ["", "fashion-mnist", "FashionMNIST/raw"])
def test_reads_what_was_written(tmp_path, write_fashion, compressed, subfolder):
    x_train, y_train, x_test, y_test = write_fashion(tmp_path / "d" / subfolder, compressed)
    read = load("fashion-mnist", data_dir=tmp_path / "d", standardise=False)
    assert read.x_train.shape == (40, 1, 28, 28) and read.classes == 10
    for images, labels, x, y in (
        (x_train, y_train, read.x_train, read.y_train),
        (x_test, y_test, read.x_test, read.y_test),
    ):
        places = [np.flatnonzero((images == image).all(axis=(1, 2)))[0] for image in (x[:, 0] * 255).round().numpy()]
        assert sorted(places) == list(range(len(images)))  # every image once, in an order of our own
        assert places != sorted(places)
        assert (labels[places] == y.numpy()).all()


def test_pooling(tmp_path, write_fashion):
    write_fashion(tmp_path / "d")
    whole = load("fashion-mnist", data_dir=str(tmp_path / "d"), standardise=False)
    for factor, side in ((2, 14), (4, 7)):
        pooled = load("fashion-mnist", data_dir=tmp_path / "d", standardise=False, pool=factor)
        assert pooled.input_shape == (1, side, side)
        assert torch.allclose(pooled.x_train, torch.nn.functional.avg_pool2d(whole.x_train, factor), atol=1e-6)
    with pytest.raises(DataError, match="pool 3 does not divide 28; allowed: 1, 2, 4, 7, 14, 28"):
        load("fashion-mnist", data_dir=tmp_path / "d", pool=3)


def test_places_are_tried_in_turn(tmp_path, write_fashion, monkeypatch):
    write_fashion(tmp_path / "package", examples=10)
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "package")
    write_fashion(tmp_path / "variable", examples=20)
    write_fashion(tmp_path / "argument", examples=30)
    assert len(load("fashion-mnist", download=False).x_train) == 10
    monkeypatch.setenv("ONSPHERE_DATA", str(tmp_path / "variable"))
    assert len(load("fashion-mnist").x_train) == 20
    assert len(load("fashion-mnist", data_dir=tmp_path / "argument").x_train) == 30
    (tmp_path / "other").mkdir()
    monkeypatch.setenv("ONSPHERE_DATA", str(tmp_path / "other"))  # it may hold other sets only
    package = load("fashion-mnist")
    assert len(package.x_train) == 10 and package.source == "the Debian package dataset-fashion-mnist"


def test_an_earlier_download_needs_no_network_and_is_verified(tmp_path, write_fashion, monkeypatch):
    folder = tmp_path / "cache" / "onsphere"
    write_fashion(folder, examples=10)
    for file in fashion_mnist.FILES:
        with pytest.raises(DataError, match=rf"{file}.gz: is not the official file \(its sha256 is"):
            load("fashion-mnist", download=False)
        digest = hashlib.sha256((folder / f"{file}.gz").read_bytes()).hexdigest()
        monkeypatch.setitem(fashion_mnist.SHA256, file, digest)
    found = load("fashion-mnist", download=False)
    assert len(found.x_train) == 10 and found.source == "an earlier download (checksums verified)"


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize(
    "place",
    [
        "{dashed}",
        "{dotted}",
        "{dotted}.gz",
        "{dashed}/{dashed}",
        "{dotted}/{dotted}.gz",
        "{dashed}.gz/{dashed}",
        "{dashed}/{dotted}",
    ],
)
def test_names_do_not_matter_but_contents_do(tmp_path, write_fashion, place, compressed):
    """Dotted names, plain content named .gz and the other way round, a folder for each file."""
    x_train, *_ = write_fashion(tmp_path / "written", compressed)
    for file in fashion_mnist.FILES:
        to = tmp_path / "d" / place.format(dashed=file, dotted=file.replace("-idx", ".idx"))
        to.parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "written" / (f"{file}.gz" if compressed else file)).rename(to)
    found = load("fashion-mnist", data_dir=tmp_path / "d", standardise=False)
    assert sorted(found.x_train.sum((1, 2, 3)).tolist()) == pytest.approx(sorted((x_train / 255).sum((1, 2)).tolist()))


def header(*shape):
    return bytes((0, 0, 8, len(shape))) + b"".join(n.to_bytes(4, "big") for n in shape)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(header(2_000_000, 28, 28) + bytes(1 << 23)), "announces 1568000000 bytes .*allowed: 1073741824"),
        (gzip.compress(header(9, 40_000, 40_000) + bytes(1 << 23)), "images of 40000x40000; Fashion-MNIST has 28x28"),
        (gzip.compress(header(60_000, 28, 28)), "it holds only 0"),
        (gzip.compress(header(1, 28, 28) + bytes(1 << 23)), "it holds more"),
        (header(2**32 - 1, 28, 28) + bytes(784), "it holds only 784"),
        (header(1, 28, 28) + bytes(1 << 23), "it holds more"),
    ],
    # Names of their own: gzip writes the time into its header, and both workers of a run must name a test alike.
    ids=["announced", "of another size", "empty", "too long", "plain, announced", "plain, too long"],
)
def test_sizes_are_checked_before_anything_is_unpacked(tmp_path, write_fashion, content, message):
    write_fashion(tmp_path)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=message):
            load("fashion-mnist", data_dir=tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("download", [True, False])
def test_nowhere_to_be_found_names_three_ways(download):
    with pytest.raises(DataError) as caught:
        load("fashion-mnist", download=download)
    message = str(caught.value)
    assert ("download failed" if download else "download=False") in message
    assert all(part in message for part in ("(1)", "data_dir", "(2)", "ONSPHERE_DATA", "(3)", "dataset-fashion-mnist"))
    assert "\n" not in message


def test_wrong_folders(tmp_path, monkeypatch, write_fashion):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"data_dir: .*empty holds no Fashion-MNIST; it needs train-images-idx3-ubyte"):
        load("fashion-mnist", data_dir=tmp_path / "empty")
    with pytest.raises(DataError, match=r"data_dir: .*nowhere does not exist; give the folder"):
        load("fashion-mnist", data_dir=tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"data_dir: .*file is a file; give the folder"):
        load("fashion-mnist", data_dir=tmp_path / "file")
    with pytest.raises(DataError, match=r"data_dir: 3 is not a path"):
        load("fashion-mnist", data_dir=3)
    monkeypatch.setenv("ONSPHERE_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"ONSPHERE_DATA: .*nowhere does not exist"):
        load("fashion-mnist")
    write_fashion(tmp_path / "part")
    (tmp_path / "part" / "t10k-labels-idx1-ubyte.gz").unlink()
    monkeypatch.setenv("ONSPHERE_DATA", str(tmp_path / "part"))
    with pytest.raises(DataError, match="incomplete: t10k-labels-idx1-ubyte"):
        load("fashion-mnist")


def test_unreadable_file(tmp_path, write_fashion, monkeypatch):
    write_fashion(tmp_path, compressed=False)

    def refuse(self, *_, **__):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte: cannot be read \(Permission denied\)"):
        load("fashion-mnist", data_dir=tmp_path)


IMAGES = np.zeros((6, 28, 28), np.uint8)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train-images-idx3-ubyte", b"", r"starts with the bytes \(none\)"),
        ("train-images-idx3-ubyte", b"<html>not found</html>", "starts with the bytes 3c 68 74 6d"),
        ("train-images-idx3-ubyte", idx(IMAGES, b"\0\0\x0d\3"), "starts with the bytes 00 00 0d 03"),
        ("train-images-idx3-ubyte", idx(IMAGES[0]), "with 3 dimensions starts with 00 00 08 03"),
        ("train-images-idx3-ubyte", idx(IMAGES)[:10], "ends inside its header"),
        ("train-images-idx3-ubyte", idx(IMAGES)[:-1], "announces 4704 bytes .* it holds only 4703"),
        ("train-images-idx3-ubyte", idx(IMAGES) + b"\0", "announces 4704 bytes .* it holds more"),
        ("train-images-idx3-ubyte", bytes((0, 0, 8, 3)) + b"\xff" * 12, "it holds only 0"),
        ("train-images-idx3-ubyte", idx(IMAGES[:0]), "announces the shape .*every dimension must be at least 1"),
        ("train-images-idx3-ubyte", idx(np.zeros((6, 28, 27))), "images of 28x27; Fashion-MNIST has 28x28"),
        ("train-labels-idx1-ubyte", idx(np.zeros(39)), "39 labels for the 40 images"),
        ("train-labels-idx1-ubyte", idx(np.full(40, 10)), "label 10; allowed: 0 to 9"),
        ("t10k-labels-idx1-ubyte", idx(np.full(20, 200)), "label 200; allowed: 0 to 9"),
    ],
)
@pytest.mark.parametrize("compressed", [True, False])
def test_damaged_files(tmp_path, write_fashion, name, content, message, compressed):
    write_fashion(tmp_path, compressed)
    path = tmp_path / (f"{name}.gz" if compressed else name)
    path.write_bytes(gzip.compress(content) if compressed else content)
    with pytest.raises(DataError, match=message) as caught:
        load("fashion-mnist", data_dir=tmp_path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_every_truncation_of_a_gz_is_noticed(tmp_path):
    content = gzip.compress(idx(np.arange(30)))
    for length in range(len(content)):
        (tmp_path / "labels.gz").write_bytes(content[:length])
        with pytest.raises(DataError, match=r"labels\.gz"):
            read_idx(tmp_path / "labels.gz", 1)
    (tmp_path / "labels.gz").write_bytes(content)
    assert read_idx(tmp_path / "labels.gz", 1).tolist() == list(range(30))


def test_flipped_and_trailing_bytes_in_a_gz_are_noticed(tmp_path):
    content = bytearray(gzip.compress(idx(np.arange(200) % 7)))
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "labels.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"labels\.gz"):
        read_idx(tmp_path / "labels.gz", 1)
    (tmp_path / "labels.gz").write_bytes(b"plain text")  # the name alone makes nothing a gz
    with pytest.raises(DataError, match="starts with the bytes 70 6c 61 69"):
        read_idx(tmp_path / "labels.gz", 1)


@pytest.mark.skipif(not REAL_PACKAGE.is_dir(), reason="the Debian package dataset-fashion-mnist is not installed")
def test_the_real_thing(monkeypatch):
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", REAL_PACKAGE)
    real = load("fashion-mnist", standardise=False, download=False)
    assert real.x_train.shape == (60000, 1, 28, 28) and real.x_test.shape == (10000, 1, 28, 28)
    assert torch.bincount(real.y_train).tolist() == [6000] * 10 and torch.bincount(real.y_test).tolist() == [1000] * 10
    # The published moments of the training images.
    assert abs(real.x_train.double().mean() - 0.2860) < 5e-5 and abs(real.x_train.double().std() - 0.3530) < 5e-5
