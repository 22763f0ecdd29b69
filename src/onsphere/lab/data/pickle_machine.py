"""A small stack machine for the instructions of a pickle, which can neither import nor run away.

Python's own unpickler builds whatever a file asks for: ten bytes can ask for a memo of gigabytes, a hundred for a hash
of 2^50 steps, a nested key for a stack that no process has. Here everything is bounded by the file itself:

    instructions     at most 2,000,000 (the largest official file has some 200,000)
    strings, bytes   parts of the file, whose size is limited before it is read
    integers         at most 16 bytes; the memo is a dict, whatever its numbers
    keys of dicts    short strings, at most 1,000 a dict: nothing is hashed that is made of other things
    calls            of the functions given, and of nothing else; what they copy counts against the file's size

Nothing recurses. Instructions that make objects, sets or references to elsewhere are refused.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import Any

MOST_INSTRUCTIONS = 2_000_000
MOST_KEYS, LONGEST_KEY, LONGEST_NUMBER, LONGEST_NAME = 1000, 1000, 16, 200
_DIGITS = 40  # of a number that is written in text
_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(.?))", re.DOTALL)
_ESCAPED = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"\\": b"\\", b"'": b"'", b'"': b'"'}


class Function:
    """A call that the pickle may ask for.

    Args:
        call: What is called, with the arguments that the pickle gives.
    """

    def __init__(self, call: Callable[..., object]) -> None:
        self.call = call


class Stateful:
    """What the pickle may give a state to."""

    def set_state(self, state: Any) -> None:
        """Take the state, which may be anything."""
        raise NotImplementedError


def run_pickle(content: bytes, find: Callable[[str, str], Function]) -> Any:
    """What a pickle holds.

    Args:
        content: Bytes of the whole file.
        find: Called with the module and the name of each global; returns a :class:`Function`, or raises.

    Raises:
        ValueError: It is damaged, or asks for more than is allowed.
        Exception: Whatever ``find`` and the functions raise.
    """
    return _Machine(content, find).run()


class _Machine:
    def __init__(self, content: bytes, find: Callable[[str, str], Function]) -> None:
        self.content, self.find, self.position = content, find, 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        for _ in range(MOST_INSTRUCTIONS):
            code = self._bytes(1)
            if code == b".":
                return self._pop()
            do = _INSTRUCTIONS.get(code)
            if do is None:
                raise ValueError(f"the instruction {code.hex()} is not allowed")
            do(self)
        raise ValueError(f"more than {MOST_INSTRUCTIONS:,} instructions")

    # ---------------------------------------------------------------------------------------------- the file

    def _bytes(self, count: int) -> bytes:
        end = self.position + count
        if count < 0 or end > len(self.content):
            raise ValueError("it ends too early")
        part = self.content[self.position : end]
        self.position = end
        return part

    def _line(self, most: int | None = None) -> bytes:
        end = self.content.find(b"\n", self.position)
        if end < 0 or (most is not None and end - self.position > most):
            raise ValueError("a line without an end")
        part = self.content[self.position : end]
        self.position = end + 1
        return part

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._bytes(struct.calcsize(form)))[0]

    # ---------------------------------------------------------------------------------------------- the stack

    def _floor(self) -> int:
        return self.marks[-1] if self.marks else 0

    def _pop(self) -> Any:
        if len(self.stack) <= self._floor():
            raise ValueError("an empty stack")
        return self.stack.pop()

    def _top(self) -> Any:
        if len(self.stack) <= self._floor():
            raise ValueError("an empty stack")
        return self.stack[-1]

    def _since_mark(self) -> list[Any]:
        if not self.marks:
            raise ValueError("no mark")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    # --------------------------------------------------------------------------------------- the instructions

    def push_text_integer(self) -> None:
        line = self._line(_DIGITS).rstrip(b"L")
        self.stack.append({b"00": False, b"01": True}[line] if line in (b"00", b"01") else int(line))

    def push_long(self) -> None:
        count = self._number("<B")
        if count > LONGEST_NUMBER:
            raise ValueError(f"an integer of {count} bytes")
        self.stack.append(int.from_bytes(self._bytes(count), "little", signed=True))

    def push_quoted(self) -> None:
        line = self._line()
        if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1:] != line[:1]:
            raise ValueError("a string without quotes")
        self.stack.append(_ESCAPE.sub(_unescaped, line[1:-1]))

    def drop(self) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self._pop()

    def drop_to_mark(self) -> None:
        self._since_mark()

    def append(self) -> None:
        item = self._pop()
        self._extend([item])

    def appends(self) -> None:
        self._extend(self._since_mark())

    def _extend(self, items: list[Any]) -> None:
        target = self._top()
        if type(target) is not list:
            raise ValueError("items for what is no list")
        target.extend(items)

    def set_item(self) -> None:
        value = self._pop()
        self._update([self._pop(), value])

    def set_items(self) -> None:
        self._update(self._since_mark())

    def _update(self, items: list[Any]) -> None:
        target = self._top()
        if type(target) is not dict:
            raise ValueError("keys for what is no dict")
        _fill(target, items)

    def make_dict(self) -> None:
        self.stack.append(_fill({}, self._since_mark()))

    def make_tuple(self, size: int) -> None:
        items = [self._pop() for _ in range(size)]
        self.stack.append(tuple(reversed(items)))

    def put(self, number: int) -> None:
        self.memo[number] = self._top()

    def get(self, number: int) -> None:
        if number not in self.memo:
            raise ValueError("a memo that was never written")
        self.stack.append(self.memo[number])

    def global_of_lines(self) -> None:
        module, name = self._line(LONGEST_NAME).decode("utf-8"), self._line(LONGEST_NAME).decode("utf-8")
        self.stack.append(self.find(module, name))

    def global_of_stack(self) -> None:
        name, module = self._pop(), self._pop()
        if type(name) is not str or type(module) is not str or len(name) + len(module) > LONGEST_NAME:
            raise ValueError("a global without a name")
        self.stack.append(self.find(module, name))

    def call(self) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, Function) or type(arguments) is not tuple:
            raise ValueError("a call of what is no function")
        self.stack.append(function.call(*arguments))

    def build(self) -> None:
        state, target = self._pop(), self._top()
        if not isinstance(target, Stateful):
            raise ValueError("a state for what has none")
        target.set_state(state)

    def protocol(self) -> None:
        if self._number("<B") > 5:
            raise ValueError("a protocol that is not known")

    def frame(self) -> None:
        if self._number("<Q") > len(self.content) - self.position:
            raise ValueError("it ends too early")


def _fill(target: dict[Any, Any], items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2:
        raise ValueError("a key without a value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if type(key) not in (str, bytes) or len(key) > LONGEST_KEY:
            raise ValueError("a key that is no short string")
        target[key] = value
        if len(target) > MOST_KEYS:
            raise ValueError(f"more than {MOST_KEYS:,} keys")
    return target


def _unescaped(found: re.Match[bytes]) -> bytes:
    if found[1] is not None:
        return bytes.fromhex(found[1].decode("ascii"))
    if found[2] not in _ESCAPED:
        raise ValueError("an escape that is not known")
    return _ESCAPED[found[2]]


def _push(read: Callable[[_Machine], Any]) -> Callable[[_Machine], None]:
    def push(machine: _Machine) -> None:
        machine.stack.append(read(machine))

    return push


def _sized(form: str, kind: Callable[[bytes], Any]) -> Callable[[_Machine], None]:
    """Push what a length and as many bytes make."""
    return _push(lambda machine: kind(machine._bytes(machine._number(form))))


def _utf8(part: bytes) -> str:
    return part.decode("utf-8", "surrogatepass")


_INSTRUCTIONS: dict[bytes, Callable[[_Machine], None]] = {
    b"\x80": _Machine.protocol,
    b"\x95": _Machine.frame,
    b"N": _push(lambda m: None),
    b"\x88": _push(lambda m: True),
    b"\x89": _push(lambda m: False),
    b"K": _push(lambda m: m._number("<B")),
    b"M": _push(lambda m: m._number("<H")),
    b"J": _push(lambda m: m._number("<i")),
    b"\x8a": _Machine.push_long,
    b"I": _Machine.push_text_integer,
    b"L": _Machine.push_text_integer,
    b"G": _push(lambda m: m._number(">d")),
    b"F": _push(lambda m: float(m._line(_DIGITS))),
    b"S": _Machine.push_quoted,
    b"V": _push(lambda m: m._line().decode("raw-unicode-escape")),
    b"T": _sized("<i", bytes),
    b"U": _sized("<B", bytes),
    b"B": _sized("<I", bytes),
    b"C": _sized("<B", bytes),
    b"\x8e": _sized("<Q", bytes),
    b"\x96": _sized("<Q", bytes),
    b"X": _sized("<I", _utf8),
    b"\x8c": _sized("<B", _utf8),
    b"\x8d": _sized("<Q", _utf8),
    b"]": _push(lambda m: []),
    b"}": _push(lambda m: {}),
    b")": _push(lambda m: ()),
    b"(": lambda m: m.marks.append(len(m.stack)),
    b"0": _Machine.drop,
    b"1": _Machine.drop_to_mark,
    b"2": _push(_Machine._top),
    b"a": _Machine.append,
    b"e": _Machine.appends,
    b"l": _push(_Machine._since_mark),
    b"t": _push(lambda m: tuple(m._since_mark())),
    b"\x85": lambda m: m.make_tuple(1),
    b"\x86": lambda m: m.make_tuple(2),
    b"\x87": lambda m: m.make_tuple(3),
    b"d": _Machine.make_dict,
    b"s": _Machine.set_item,
    b"u": _Machine.set_items,
    b"p": lambda m: m.put(int(m._line(_DIGITS))),
    b"q": lambda m: m.put(m._number("<B")),
    b"r": lambda m: m.put(m._number("<I")),
    b"\x94": lambda m: m.put(len(m.memo)),
    b"g": lambda m: m.get(int(m._line(_DIGITS))),
    b"h": lambda m: m.get(m._number("<B")),
    b"j": lambda m: m.get(m._number("<I")),
    b"c": _Machine.global_of_lines,
    b"\x93": _Machine.global_of_stack,
    b"R": _Machine.call,
    b"b": _Machine.build,
}
