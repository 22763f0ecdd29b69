"""Files made to crash, hang or fill the reader: each is refused in one line, at a cost that its size bounds."""

import gc
import pickle
import random
import struct
import tracemalloc

import numpy as np
import pytest

from onsphere.lab.data import DataError, load
from onsphere.lab.data import pickle_machine as machine
from onsphere.lab.data import restricted_pickle as reader
from onsphere.lab.data.restricted_pickle import load_arrays

PROTOCOL = b"\x80\x02"
MAKE_ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\x01b\x87R"
MEGABYTE = 1 << 20


def long_of(size, count):
    """An integer of so many bytes, as LONG4 writes it."""
    return b"\x8b" + struct.pack("<i", size) + b"\xff" * count


def doubled(depth):
    """A tuple of 2^depth leaves in some 7 bytes a level: t = (t, t), again and again."""
    return b")" + b"".join(b"q" + bytes([i]) + b"0h" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(depth))


def colliding(count):
    """Integers of one hash as keys of one dict."""
    keys = b"".join(b"\x8a\x0a" + ((i + 1) * (2**61 - 1)).to_bytes(10, "little") + b"N" for i in range(count))
    return b"}(" + keys + b"u."


def many_keys(count):
    return b"}(" + b"".join(b"U\x04" + struct.pack("<I", i) + b"N" for i in range(count)) + b"u."


HOSTILE = {
    # crashes
    "a nested tuple as a key": b"}" + b")" + b"\x85" * 20_000 + b"Ns.",
    "a nested tuple in a state": MAKE_ARRAY + b")" + b"\x85" * 20_000 + b"b.",
    "a tuple that holds a list that holds it, as a key": b"](h\0q\0tq\1aN0}h\1Ns.",
    "a frozen set as a key": b"\x80\x04}(\x91Ns.",
    # hangs
    "2^60 leaves as a key": b"}" + doubled(60) + b"Ns.",
    "2^60 leaves as keys of DICT": b"(" + doubled(60) + b"Nd.",
    "keys of one hash": colliding(5000),
    "a shape of a million sizes": MAKE_ARRAY
    + b"(K\1("
    + (b"\x8a\x08" + b"\x7f" * 8) * 20_000
    + b"tcnumpy\ndtype\nU\2u1\x85R\x89U\0tb.",
    "one string encoded again and again": b"X"
    + struct.pack("<I", 20_000)
    + b"a" * 20_000
    + b"q\0"
    + b"c_codecs\nencode\nq\1h\0\x85R"
    + b"h\1h\0\x85R" * 20_000
    + b".",
    "a long encoding": b"c_codecs\nencode\nX\1\0\0\0aX" + struct.pack("<I", 30_000) + b"l" * 30_000 + b"\x86R.",
    # gigabytes
    "a memo of four thousand million": b"Nr\xff\xff\xff\xff.",
    "a memo of 10^39": b"Np" + b"9" * 39 + b"\n.",
    "bytes of 2^63": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fa.",
    "bytes of 4 GB": b"\x80\x03B\xff\xff\xff\xffa.",
    "a bytearray of 8 GB": b"\x80\x05\x96\0\0\0\0\2\0\0\0a.",
    "text of 4 GB": b"X\xff\xff\xff\xffa.",
    "text of 2^62": b"\x80\x04\x8d\0\0\0\0\0\0\0\x40a.",
    "a string of minus one": b"T\xff\xff\xff\xffa.",
    "a frame of 2^63": b"\x80\x04\x95\0\0\0\0\0\0\0\x80N.",
    "an integer of 2 GB": long_of(2**31 - 1, 3),
    "an integer of 5,000 bytes": long_of(5000, 5000) + b".",
    "5,000 digits": b"I" + b"9" * 5000 + b"\n.",
    "5,000 digits, long": b"L" + b"9" * 5000 + b"L\n.",
    "5,000 digits, floating": b"F" + b"9" * 5000 + b"\n.",
    "an array of 2^60": MAKE_ARRAY + b"(K\1\x8a\x08\0\0\0\0\0\0\0\x10\x85cnumpy\ndtype\nU\2u1\x85R\x89U\1atb.",
    "sizes whose product is 2^64 and none": MAKE_ARRAY
    + b"(K\1\x8a\x05\0\0\0\0\1\x8a\x05\0\0\0\0\1\x86cnumpy\ndtype\nU\2u1\x85R\x89U\0tb.",
    "out of band": b"\x80\x05\x97.",
    # other ways to run something
    "an old instance": b"(i__main__\nA\n.",
    "an old object": b"(c__main__\nA\no.",
    "an extension": b"\x82\1.",
    "a persistent one": b"Phere\n.",
    "a set": b"\x80\x04\x8f(K\1\x90.",
    # damage
    "two thousand keys": many_keys(2000),
    "a long key": b"}X" + struct.pack("<I", 5000) + b"k" * 5000 + b"Ns.",
    "a key without a value": b"}(U\1au.",
    "items for an integer": b"K\1(K\2e.",
    "a mark that is not there": b"K\1e.",
    "below the mark": b"N(0" + b"0" * 5 + b".",
    "nothing at all": b".",
    "an escape": b"S'\\q'\n.",
    "half a string": b"S'\n.",
    "protocol 77": b"\x80\x4d.",
    "no escape sequence reaches a terminal": b"c\x1b[31mred\n\x1b]0;title\7\n.",
}


def content_of(kind):
    content = HOSTILE[kind]
    return content if content[:1] == b"\x80" else PROTOCOL + content


def refused(path, allowed=MEGABYTE):
    """The one line that refuses a file, which took little more memory than the file has bytes."""
    gc.collect()
    tracemalloc.start()
    try:
        with pytest.raises(DataError) as caught:
            load_arrays(path)
        assert tracemalloc.get_traced_memory()[1] < allowed + 40 * path.stat().st_size
    finally:
        tracemalloc.stop()
    message = str(caught.value).replace(str(path), "file")
    assert message.isprintable() and message.isascii() and len(message) < 500
    return message


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_was_made_to_harm_is_refused_in_one_line(kind, tmp_path, capfd):
    (tmp_path / "file").write_bytes(content_of(kind))
    assert refused(tmp_path / "file").startswith("file: ")
    assert capfd.readouterr() == ("", "")


def test_instructions_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "MOST_INSTRUCTIONS", 1000)
    (tmp_path / "file").write_bytes(PROTOCOL + b"]" * 1001 + b".")
    assert "more than 1,000 instructions" in refused(tmp_path / "file")
    (tmp_path / "file").write_bytes(PROTOCOL + b"}" + b"N0" * 400 + b".")
    assert load_arrays(tmp_path / "file") == {}


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with (tmp_path / "file").open("wb") as file:
        file.truncate(reader.LARGEST + 1)  # no block of it lies on a disk
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"has 536,870,913 bytes; allowed: 536,870,912"):
            load_arrays(tmp_path / "file")
        assert tracemalloc.get_traced_memory()[1] < MEGABYTE
    finally:
        tracemalloc.stop()


def test_a_name_of_a_key_reaches_the_message_without_its_escapes(tmp_path, write_pickles):
    write_pickles(tmp_path, ("data_batch_1", "test_batch"))
    (tmp_path / "test_batch").write_bytes(pickle.dumps({"\x1b[31m" + "k" * 200: 1}))
    with pytest.raises(DataError, match="test_batch: has no 'data'") as caught:
        load("cifar10", data_dir=tmp_path)
    assert "\x1b" not in str(caught.value) and "k" * 50 not in str(caught.value)


@pytest.mark.parametrize("protocol", range(6))
def test_a_batch_of_the_official_number_of_labels_and_names_is_read(tmp_path, protocol):
    count = 50_000 if protocol == 2 else 2_000  # the official files are of protocol 2
    content = {
        "data": np.zeros((count, 3), np.uint8),
        "fine_labels": list(range(100)) * (count // 100),
        "coarse_labels": list(range(20)) * (count // 20),
        "filenames": [f"image_s_{i:06d}.png" for i in range(count)],
    }
    (tmp_path / "file").write_bytes(pickle.dumps(content, protocol=protocol))
    found = load_arrays(tmp_path / "file")
    assert found.keys() == content.keys() and found["data"].shape == (count, 3)
    assert found["filenames"] == content["filenames"] and found["fine_labels"] == content["fine_labels"]


PIECES = (b"(", b")", b"\x86", b"R", b"b", b"2", b"r\xff\xff\xff\x7f", b"e", b"0", b".")


def mutated(content, dice):
    """Some bytes changed, removed, repeated or made of instructions."""
    changed = bytearray(content)
    for _ in range(dice.randint(1, 6)):
        at = dice.randrange(len(changed))
        what = dice.randrange(4)
        if what == 0:
            changed[at] = dice.randrange(256)
        elif what == 1:
            del changed[at : at + dice.randint(1, 4)]
        elif what == 2:
            changed[at:at] = changed[at : at + dice.randint(1, 20)]
        else:
            changed[at:at] = dice.choice(
                [b"(", b")", b"\x86", b"R", b"b", b"2", b"r\xff\xff\xff\x7f", b"e", b"0", b"."]
            )
    return bytes(changed)


@pytest.mark.parametrize("protocol", range(6))
def test_mutations_are_read_or_refused(tmp_path, protocol, capfd):
    dice = random.Random(protocol)
    value = {
        "data": np.arange(30, dtype=np.uint8).reshape(3, 10),
        b"labels": [1, 2, 300],
        "batch_label": "one",
        "f": 0.5,
    }
    content, path = pickle.dumps(value, protocol=protocol), tmp_path / "file"
    path.write_bytes(content)
    assert load_arrays(path).keys() == {"data", "labels", "batch_label", "f"}
    for _ in range(100):
        path.write_bytes(mutated(content, dice))
        try:
            assert isinstance(load_arrays(path), dict)
        except DataError as error:
            assert str(error).isprintable() and len(str(error)) < 500 + len(str(path))
    assert capfd.readouterr() == ("", "")
