"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): 50,000 + 10,000 colour 32x32 photographs in 10 or 100 classes.

Both official layouts are read. The binary one is a row of records,

    CIFAR-10     label (1 byte), 3072 pixels: channel (RGB), row, column
    CIFAR-100    coarse label (1 byte), fine label (1 byte), 3072 pixels

the Python one is a pickled dict per file (``data`` uint8 [n, 3072], ``labels`` or ``fine_labels``), read
without running anything (:mod:`onsphere.lab.data.restricted_pickle`). CIFAR-100 always means the 100 fine
classes. A set may be partial: some of CIFAR-10's five training files, or files with fewer images than the
official ones, as long as each is whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onsphere.lab.data.checks import DataError
from onsphere.lab.data.fetch import cache_folder, fetch, unpack, verify
from onsphere.lab.data.places import VARIABLE, Place
from onsphere.lab.data.restricted_pickle import load_arrays
from onsphere.lab.data.transforms import RawImages

PIXELS = 3 * 32 * 32
_Part = tuple[NDArray[np.uint8], NDArray[np.int64]]


@dataclass(frozen=True)
class Kind:
    """What tells the two data sets apart.

    Attributes:
        name: Name of the data set.
        ranges: Allowed number of values of each label byte in a binary record; the last one is the class.
        label_key: Key of the labels in a pickled dict.
        binary_folder: Official folder of the binary layout.
        python_folder: Official folder of the Python layout.
        train_files: Training files of the Python layout; the binary ones end in ``.bin``.
        test_file: Test file of the Python layout.
        url: The official archive of the Python layout.
        sha256: Checksum of the archive.
        md5: The official checksums of the training files and of the test file, unpacked.
    """

    name: str
    ranges: tuple[int, ...]
    label_key: str
    binary_folder: str
    python_folder: str
    train_files: tuple[str, ...]
    test_file: str
    url: str
    sha256: str
    md5: tuple[str, ...]

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.ranges[-1]


CIFAR10 = Kind(
    "cifar10",
    (10,),
    "labels",
    "cifar-10-batches-bin",
    "cifar-10-batches-py",
    tuple(f"data_batch_{i}" for i in range(1, 6)),
    "test_batch",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    (
        "c99cafc152244af753f735de768cd75f",
        "d4bba439e000b95fd0a9bffe97cbabec",
        "54ebc095f3ab1f0389bbae665268c751",
        "634d18415352ddfa80567beed471001a",
        "482c414d41f54cd18b22e5b47cb7c3cb",
        "40351d587109b95175f43aff81a1287e",
    ),
)
CIFAR100 = Kind(
    "cifar100",
    (20, 100),
    "fine_labels",
    "cifar-100-binary",
    "cifar-100-python",
    ("train",),
    "test",
    "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    ("16019d7e3df5f24257cddd939b257f8d", "f0ef6b0ae62326f3e7ffdfab6717acfc"),
)


def read_cifar(kind: Kind, place: Place | None, download: bool) -> RawImages:
    """Find and read the files of one of both sets: in the folder somebody named, else in the cache, else by download.

    Returns:
        uint8 [N, 3, 32, 32] images, 0 .. 255, in the files' order.

    Raises:
        DataError: The files are nowhere, incomplete or damaged.
        OSError: A file cannot be read.
    """
    if place is not None:
        found = _find(kind, place.folder)
        if found is not None:
            return found.read(f"{found.describe()} in {found.folder}")
        if place.binding:
            raise DataError(f"{place.field}: {place.folder} holds no {kind.name}; {_needed(kind, place.folder)}")
    downloaded = _Files(kind, _downloaded(kind, download), "")
    return downloaded.read("the official download (checksum verified)")


@dataclass(frozen=True)
class _Files:
    """The files of one layout in one folder; ``suffix`` is ``.bin`` for the binary layout."""

    kind: Kind
    folder: Path
    suffix: str

    @property
    def train(self) -> list[Path]:
        paths = [self.folder / f"{file}{self.suffix}" for file in self.kind.train_files]
        return [path for path in paths if path.is_file()]

    @property
    def test(self) -> Path:
        return self.folder / f"{self.kind.test_file}{self.suffix}"

    def missing(self) -> str | None:
        """What a usable set lacks; None if nothing."""
        if not self.train:
            return f"{self.kind.train_files[0]}{self.suffix}"
        return None if self.test.is_file() else self.test.name

    def describe(self) -> str:
        layout = "binary" if self.suffix else "Python"
        whole = len(self.train) == len(self.kind.train_files)
        some = "" if whole else f", {len(self.train)} of {len(self.kind.train_files)} training files"
        return f"{self.kind.name} files ({layout} layout{some})"

    def read(self, source: str) -> RawImages:
        missing = self.missing()
        if missing:
            raise DataError(
                f"{self.folder}: {self.kind.name} is incomplete: no {missing}; add the file, or give a whole folder"
            )
        reader = _read_binary if self.suffix else _read_python
        parts = [reader(path, self.kind) for path in self.train]
        x_test, y_test = reader(self.test, self.kind)
        x_train = np.concatenate([x for x, _ in parts])
        y_train = np.concatenate([y for _, y in parts])
        return RawImages(x_train, y_train, x_test, y_test, self.kind.classes, 255, source)


def _find(kind: Kind, root: Path) -> _Files | None:
    """The first usable layout; failing that one that has some of its files (``read`` says what it lacks); else None."""
    folders = (root / kind.binary_folder, root / kind.python_folder, root)
    layouts = [_Files(kind, folder, suffix) for folder in folders for suffix in (".bin", "")]
    usable = (layout for layout in layouts if layout.missing() is None)
    started = (layout for layout in layouts if layout.train or layout.test.is_file())
    return next(usable, None) or next(started, None)


def _needed(kind: Kind, root: Path) -> str:
    archives = sorted(path.name for path in root.glob("cifar-10*.tar.gz"))
    if archives:
        return f"unpack {archives[0]} there first"
    first, last = kind.train_files[0], kind.test_file
    return (
        f"it needs {first}.bin and {last}.bin (binary layout) or {first} and {last} (Python layout), in the "
        f"folder itself, in {kind.binary_folder} or in {kind.python_folder}"
    )


def _read_binary(path: Path, kind: Kind) -> _Part:
    content = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    record = len(kind.ranges) + PIXELS
    if content.size == 0 or content.size % record:
        raise DataError(
            f"{path}: {content.size} bytes, which is no whole number of {kind.name} records of {record} "
            "bytes; fetch the file again"
        )
    records = content.reshape(-1, record)
    for column, allowed in enumerate(kind.ranges):
        _check_labels(path, records[:, column], allowed)
    images = records[:, len(kind.ranges) :].reshape(-1, 3, 32, 32)
    return images, records[:, len(kind.ranges) - 1].astype(np.int64)


def _read_python(path: Path, kind: Kind) -> _Part:
    values = load_arrays(path)
    for key in ("data", kind.label_key):
        if key not in values:
            held = ", ".join(ascii(name)[1:-1][:40] for name in sorted(values)[:10]) or "nothing"
            raise DataError(f"{path}: has no {key!r}, only: {held}; is it a file of {kind.name}?")
    data = values["data"]
    if (
        not isinstance(data, np.ndarray)
        or data.dtype != np.uint8
        or data.ndim != 2
        or data.shape[1] != PIXELS
        or not len(data)
    ):
        found = f"{data.dtype} {list(data.shape)}" if isinstance(data, np.ndarray) else f"a {type(data).__name__}"
        raise DataError(
            f"{path}: 'data' is {found}; a uint8 array [n, {PIXELS}] is needed; is it a file of {kind.name}?"
        )
    labels = _labels(path, kind, values[kind.label_key])
    if len(labels) != len(data):
        raise DataError(f"{path}: {len(labels)} labels for {len(data)} images; fetch the file again")
    _check_labels(path, labels, kind.classes)
    return np.ascontiguousarray(data).reshape(-1, 3, 32, 32), labels


def _labels(path: Path, kind: Kind, given: Any) -> NDArray[np.int64]:
    whole = isinstance(given, np.ndarray) and given.ndim == 1 and given.dtype.kind in "iu"
    if not whole and not (isinstance(given, list) and all(type(label) is int for label in given)):
        raise DataError(f"{path}: {kind.label_key!r} is not a list of integers; is it a file of {kind.name}?")
    try:
        return np.asarray(given).astype(np.int64)
    except (OverflowError, TypeError):
        raise DataError(f"{path}: {kind.label_key!r} holds integers out of range; fetch the file again") from None


def _check_labels(path: Path, labels: NDArray[Any], allowed: int) -> None:
    wrong = np.flatnonzero((labels < 0) | (labels >= allowed))
    if wrong.size:
        raise DataError(
            f"{path}: label {labels[wrong[0]]} of image {wrong[0]}; allowed: 0 to {allowed - 1}; fetch the file again"
        )


def _downloaded(kind: Kind, download: bool) -> Path:
    """The unpacked official archive in the cache folder, downloaded if need be."""
    cache = cache_folder()
    folder = cache / kind.python_folder
    if folder.is_dir():
        for file, md5 in zip((*kind.train_files, kind.test_file), kind.md5, strict=True):
            if (folder / file).is_file():  # what is missing is said when the set is read
                verify(folder / file, "md5", md5)
        return folder
    archive = kind.url.rsplit("/", 1)[1]
    instead = (
        "provide it another way: (1) put its official files (binary or Python layout) into a folder and "
        f"give it as data_dir, (2) put them into the folder that the environment variable {VARIABLE} names, "
        f"or (3) unpack {archive} in {cache}"
    )
    if not download:
        raise DataError(f"{kind.name}: is not on this machine and download=False; allow the download, or {instead}")
    fetched = fetch(kind.name, [kind.url], kind.sha256, instead=instead)
    unpack(fetched, [f"{kind.python_folder}/{file}" for file in (*kind.train_files, kind.test_file)], folder)
    return folder
