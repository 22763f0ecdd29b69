import os
import pickle
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onsphere.lab.data import DataError, load
from onsphere.lab.data.restricted_pickle import load_arrays

MAKE_ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\x01b\x87R"


def python2_pickle(images, labels):
    """What Python 2's cPickle wrote into the official files: protocol 2, byte strings, numpy's old module names."""

    def text(value):
        return b"U" + bytes([len(value)]) + value

    kind = b"cnumpy\ndtype\nU\x02u1K\0K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    raw = images.tobytes()
    shape = b"".join(b"J" + struct.pack("<i", n) for n in images.shape) + b"\x86"
    array = MAKE_ARRAY + b"(K\x01" + shape + kind + b"\x89T" + struct.pack("<i", len(raw)) + raw + b"tb"
    listed = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return (
        b"\x80\x02}(" + text(b"data") + array + text(b"labels") + listed + text(b"batch_label") + text(b"one") + b"u."
    )


def test_python_2(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (12, 3072), dtype=np.uint8)
    for file in ("data_batch_1", "test_batch"):
        (tmp_path / file).write_bytes(python2_pickle(images, np.arange(12) % 10))
    values = load_arrays(tmp_path / "test_batch")
    assert (values["data"] == images).all() and values["batch_label"] == b"one"
    loaded = load("cifar10", data_dir=tmp_path, standardise=False)
    assert sorted((loaded.x_train * 255).round().reshape(12, -1).tolist()) == sorted(images.tolist())


@given(
    st.integers(0, pickle.HIGHEST_PROTOCOL),
    hnp.arrays(
        st.sampled_from(["u1", "<i4", ">i4", "<f8", "?"]), hnp.array_shapes(max_dims=3, min_side=0), elements=st.just(1)
    ),
    st.sampled_from("CF"),
)
@settings(deadline=None)
def test_arrays_come_back_as_pickle_gives_them(tmp_path_factory, protocol, array, order):
    path = tmp_path_factory.mktemp("p") / "file"
    array = np.asarray(np.cumsum(array).reshape(array.shape).astype(array.dtype), order=order)
    path.write_bytes(pickle.dumps({b"a": array, "b": [1, 2.5, None, b"\xff"]}, protocol=protocol))
    values = load_arrays(path)
    assert values["a"].dtype == array.dtype and np.array_equal(values["a"], array)
    assert values["b"] == [1, 2.5, None, b"\xff"]


class Evil:
    """Pickles to a call of anything."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def evil_pickles(target):
    """Calls that would leave a file behind if anything ran them, and other things no array needs."""
    touch = f"open({str(target)!r}, 'w')"
    return [
        (pickle.dumps({"data": Evil(os.system, f"touch {target}")}), "(posix|nt).system"),
        (pickle.dumps({"data": Evil(eval, touch)}), "builtins.eval"),
        (pickle.dumps({"data": Evil(exec, touch)}, protocol=0), "(__builtin__|builtins).exec"),
        (pickle.dumps({"data": Evil(np.fromfile, str(target))}), "numpy.fromfile"),
        (pickle.dumps({"data": np.array([Evil(eval, touch)], dtype=object)}), "an array of type 'O8'"),
        (pickle.dumps({"data": np.zeros(2, dtype=[("a", "i4")])}), "an array of type 'V4'"),
        (pickle.dumps({"data": np.float64(1)}), "numpy._?core.multiarray.scalar"),
        (pickle.dumps({"data": {1, 2}}, protocol=2), "__builtin__.set|builtins.set"),
        (b"cnumpy\nndarray.__class__\n.", "numpy.ndarray.__class__"),
        (b"\x80\x04\x8c\x05numpy\x8c\x14ndarray.__subclasses\x93.", "numpy.ndarray"),
        (b"cnumpy.testing._private.utils\nrunstring\n.", "numpy.testing._private.utils.runstring"),
    ]


@pytest.mark.parametrize("index", range(11))
def test_anything_but_arrays_is_refused_by_name(tmp_path, index):
    target = tmp_path / "ran"
    content, name = evil_pickles(target)[index]
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(DataError, match=f"this pickle asks for ({name})") as caught:
        load_arrays(tmp_path / "file")
    assert not target.exists()
    assert "do not trust the file" in str(caught.value)


def test_evil_cifar_batch(tmp_path, write_pickles):
    write_pickles(tmp_path, ("data_batch_1", "test_batch"))
    (tmp_path / "test_batch").write_bytes(pickle.dumps(Evil(os.system, f"touch {tmp_path / 'ran'}")))
    with pytest.raises(DataError, match=r"test_batch: this pickle asks for \w+\.system"):
        load("cifar10", data_dir=tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"plain text, no pickle",
        b"cnumpy\nndarray\n)R.",  # the stand-in is not callable
        b"ccodecs\n",
        b"c_codecs\nencode\n}X\1\0\0\0aK\1sb.",  # state for a function
        b"c_codecs\nencode\nN}X\1\0\0\0aK\1s\x86b.",  # slot state for a function
        b"c_codecs\nencode\n)\x81.",  # an instance of a function
        MAKE_ARRAY + b"K\1b.",  # an array whose state is no tuple
        MAKE_ARRAY + b"(K\1K\5\x85cnumpy\ndtype\nU\2u1\x85R\x89U\2abtb.",  # 2 bytes for 5 elements
        MAKE_ARRAY + b"(K\1J\xff\xff\xff\xff\x85cnumpy\ndtype\nU\2u1\x85R\x89U\1atb.",  # a negative shape
        MAKE_ARRAY + b"(K\1K\1\x85cnumpy\nndarray\n\x89U\1atb.",  # a type that is none
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f}.",  # a frame longer than memory
    ],
)
def test_damaged_pickles(tmp_path, content):
    (tmp_path / "file").write_bytes(b"\x80\x02" + content if content and content[:1] != b"\x80" else content)
    with pytest.raises(DataError, match=r"file: (is not a whole pickle|this pickle asks for codecs\.)") as caught:
        load_arrays(tmp_path / "file")
    assert "\n" not in str(caught.value)


def test_an_array_that_was_never_filled(tmp_path):
    (tmp_path / "file").write_bytes(b"\x80\x02}U\4data" + MAKE_ARRAY + b"s.")
    with pytest.raises(DataError, match="file: is not a whole pickle"):
        load_arrays(tmp_path / "file")


def test_every_truncation_is_noticed(tmp_path):
    content = pickle.dumps({"data": np.arange(20, dtype=np.uint8), "labels": [1, 2, 300]})
    for length in range(len(content)):
        (tmp_path / "file").write_bytes(content[:length])
        with pytest.raises(DataError, match="file"):
            load_arrays(tmp_path / "file")
