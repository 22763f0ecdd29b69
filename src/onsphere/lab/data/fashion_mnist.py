"""Fashion-MNIST (Xiao, Rasul, Vollgraf 2017): 60,000 + 10,000 grey 28x28 images of ten kinds of clothing.

The four IDX files are looked for in ``data_dir`` or ONSPHERE_DATA (in a subfolder ``fashion-mnist``,
``FashionMNIST/raw`` or ``FashionMNIST``, then in the folder itself), else in the Debian package dataset-fashion-mnist,
else downloaded. Whether they are compressed is told by their content; their names may be those of the official files or
have a dot before ``idx``, with or without ``.gz``, and each may lie in a folder of such a name.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onsphere.lab.data.checks import DataError
from onsphere.lab.data.fetch import cache_folder, fetch, verify
from onsphere.lab.data.idx import read_idx
from onsphere.lab.data.places import VARIABLE, Place
from onsphere.lab.data.transforms import RawImages

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
SUBFOLDERS = ("fashion-mnist", "FashionMNIST/raw", "FashionMNIST", "")

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
FILES = (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)

# SHA-256 of the official .gz files, whose MD5 sums are those of the official README.
SHA256 = {
    TRAIN_IMAGES: "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    TRAIN_LABELS: "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    TEST_IMAGES: "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    TEST_LABELS: "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}
ADDRESSES = (
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
)
INSTEAD = (
    "provide its four IDX files another way: (1) put them into a folder and give it as data_dir, (2) put "
    f"them into the folder that the environment variable {VARIABLE} names, or (3) on Debian and Ubuntu install "
    "the package dataset-fashion-mnist"
)


def read_fashion_mnist(place: Place | None, download: bool) -> RawImages:
    """Find and read the four files: in the folder somebody named, the Debian package, the cache, else by download.

    Returns:
        uint8 [N, 1, 28, 28] images, 0 .. 255, in the files' order.

    Raises:
        DataError: The files are nowhere, incomplete, damaged, or do not belong together.
        OSError: A file cannot be read.
    """
    if place is not None:
        files = next(filter(None, (_files_in(place.folder / subfolder) for subfolder in SUBFOLDERS)), {})
        if files:
            return _read(files, f"IDX files in {files[TRAIN_IMAGES].parent}")
        if place.binding:
            looked = ", ".join(subfolder or "the folder itself" for subfolder in SUBFOLDERS)
            raise DataError(
                f"{place.field}: {place.folder} holds no Fashion-MNIST; it needs {', '.join(FILES)} (plain "
                f"or .gz) in: {looked}"
            )
    files = _files_in(DEBIAN_FOLDER)
    if files:
        return _read(files, "the Debian package dataset-fashion-mnist")
    cached = {file: cache_folder() / f"{file}.gz" for file in FILES}
    if not download and all(path.is_file() for path in cached.values()):
        for file, path in cached.items():
            verify(path, "sha256", SHA256[file])
        return _read(cached, "an earlier download (checksums verified)")
    if not download:
        raise DataError(f"fashion-mnist: is not on this machine and download=False; allow the download, or {INSTEAD}")
    fetched = {
        file: fetch("fashion-mnist", [f"{address}{file}.gz" for address in ADDRESSES], SHA256[file], instead=INSTEAD)
        for file in FILES
    }
    return _read(fetched, "the official download (checksums verified)")


def _files_in(folder: Path) -> dict[str, Path]:
    """The four files in this folder; empty if there is none of them."""
    found = {file: _file(folder, file) for file in FILES}
    files = {file: path for file, path in found.items() if path is not None}
    missing = [file for file in FILES if file not in files]
    if files and missing:
        raise DataError(
            f"{folder}: Fashion-MNIST is incomplete: {', '.join(missing)} (plain or .gz) missing; add what is missing"
        )
    return files


def _file(folder: Path, file: str) -> Path | None:
    """One of the four, in this folder or in a folder of its own."""
    stems = (file, file.replace("-idx", ".idx"))
    names = [f"{stem}{end}" for stem in stems for end in ("", ".gz")]
    own = [folder / name / inner for name in names if (folder / name).is_dir() for inner in names]
    return next((path for path in (*(folder / name for name in names), *own) if path.is_file()), None)


def _read(files: dict[str, Path], source: str) -> RawImages:
    x_train, y_train = _read_part(files[TRAIN_IMAGES], files[TRAIN_LABELS])
    x_test, y_test = _read_part(files[TEST_IMAGES], files[TEST_LABELS])
    return RawImages(x_train, y_train, x_test, y_test, 10, 255, source)


def _read_part(images_path: Path, labels_path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    def check_sides(shape: tuple[int, ...]) -> None:
        if shape[1:] != (28, 28):
            raise DataError(
                f"{images_path}: images of {shape[1]}x{shape[2]}; Fashion-MNIST has 28x28; is it the right file?"
            )

    images = read_idx(images_path, 3, check_sides)
    labels = read_idx(labels_path, 1)
    if len(labels) != len(images):
        raise DataError(
            f"{labels_path}: {len(labels)} labels for the {len(images)} images of {images_path.name}; both "
            "must come from one set"
        )
    if labels.max() > 9:
        raise DataError(f"{labels_path}: label {labels.max()}; allowed: 0 to 9; fetch the file again")
    return images[:, np.newaxis], labels.astype(np.int64)
