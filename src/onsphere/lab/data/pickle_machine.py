"""A small stack machine for the instructions of a pickle, which can neither import nor run away.

Python's own unpickler builds whatever a file asks for: ten bytes can ask for a memo of gigabytes, a hundred for a hash
of 2^50 steps, a nested key for a stack that no process has. Here everything is bounded by the file itself:

    instructions     at most 2,000,000 (the largest official file has some 200,000)
    strings, bytes   parts of the file, whose size is limited before it is read
    integers         at most 16 bytes; the memo is a dict, whatever its numbers
    keys of dicts    short strings, at most 1,000 a dict: nothing is hashed that is made of other things
    calls            of the functions given, and of nothing else; what they copy counts against the file's size

What an instruction carries is read by the standard library's :mod:`pickletools`, which builds nothing.
Nothing recurses. Instructions that make objects, sets or references to elsewhere are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from io import BytesIO
from pickletools import opcodes
from typing import Any

MOST_INSTRUCTIONS = 2_000_000
MOST_KEYS, LONGEST_KEY, LONGEST_NUMBER, LONGEST_NAME = 1000, 1000, 16, 200
_KNOWN = {one.code: one for one in opcodes}
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
        self.file, self.size, self.find = BytesIO(content), len(content), find
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        for _ in range(MOST_INSTRUCTIONS):
            code = self.file.read(1).decode("latin-1")
            if code == ".":
                return self.pop()
            if not code:
                raise ValueError("it ends too early")
            do = _INSTRUCTIONS.get(_KNOWN[code].name) if code in _KNOWN else None
            if do is None:
                raise ValueError(f"the instruction {ord(code):02x} is not allowed")
            do(self, self._argument(code))
        raise ValueError(f"more than {MOST_INSTRUCTIONS:,} instructions")

    def _argument(self, code: str) -> Any:
        """What an instruction carries; strings of Python 2 are bytes."""
        if code == "S":
            return self._quoted()
        kind = _KNOWN[code].arg
        found: Any = None if kind is None else kind.reader(self.file)
        if isinstance(found, int) and found.bit_length() > 8 * LONGEST_NUMBER:
            raise ValueError(f"an integer of {found.bit_length() // 8 + 1} bytes")
        return found.encode("latin-1") if code in "TU" else found

    def _quoted(self) -> bytes:
        """A string in quotes, which pickletools would take for ASCII."""
        line = self.file.readline()[:-1]
        if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1:] != line[:1]:
            raise ValueError("a string without quotes")
        return _ESCAPE.sub(_unescaped, line[1:-1])

    def push(self, item: Any) -> None:
        self.stack.append(item)

    def top(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise ValueError("an empty stack")
        return self.stack[-1]

    def pop(self) -> Any:
        self.top()
        return self.stack.pop()

    def since_mark(self) -> list[Any]:
        if not self.marks:
            raise ValueError("no mark")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def drop(self) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.pop()

    def extend(self, items: list[Any]) -> None:
        target = self.top()
        if type(target) is not list:
            raise ValueError("items for what is no list")
        target.extend(items)

    def set_item(self) -> None:
        value = self.pop()
        self.update([self.pop(), value])

    def update(self, items: list[Any]) -> None:
        target = self.top()
        if type(target) is not dict:
            raise ValueError("keys for what is no dict")
        _fill(target, items)

    def make_tuple(self, size: int) -> None:
        items = [self.pop() for _ in range(size)]
        self.push(tuple(reversed(items)))

    def put(self, number: int) -> None:
        self.memo[number] = self.top()

    def get(self, number: int) -> None:
        if number not in self.memo:
            raise ValueError("a memo that was never written")
        self.push(self.memo[number])

    def global_of_stack(self) -> None:
        name, module = self.pop(), self.pop()
        if type(name) is not str or type(module) is not str:
            raise ValueError("a global without a name")
        self.push_global(module, name)

    def push_global(self, module: str, name: str) -> None:
        if len(name) + len(module) > LONGEST_NAME:
            raise ValueError("a global of a long name")
        self.push(self.find(module, name))

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Function) or type(arguments) is not tuple:
            raise ValueError("a call of what is no function")
        self.push(function.call(*arguments))

    def build(self) -> None:
        state, target = self.pop(), self.top()
        if not isinstance(target, Stateful):
            raise ValueError("a state for what has none")
        target.set_state(state)

    def protocol(self, number: int) -> None:
        if number > 5:
            raise ValueError("a protocol that is not known")

    def frame(self, size: int) -> None:
        if size > self.size - self.file.tell():
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


_CARRIED = (
    *("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "BINFLOAT", "FLOAT"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
)
_INSTRUCTIONS: dict[str, Callable[[_Machine, Any], object]] = {
    **dict.fromkeys(_CARRIED, _Machine.push),
    "BYTEARRAY8": lambda m, carried: m.push(bytes(carried)),
    "PROTO": _Machine.protocol,
    "FRAME": _Machine.frame,
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "MARK": lambda m, _: m.marks.append(len(m.stack)),
    "POP": lambda m, _: m.drop(),
    "POP_MARK": lambda m, _: m.since_mark(),
    "DUP": lambda m, _: m.push(m.top()),
    "APPEND": lambda m, _: m.extend([m.pop()]),
    "APPENDS": lambda m, _: m.extend(m.since_mark()),
    "LIST": lambda m, _: m.push(m.since_mark()),
    "TUPLE": lambda m, _: m.push(tuple(m.since_mark())),
    "TUPLE1": lambda m, _: m.make_tuple(1),
    "TUPLE2": lambda m, _: m.make_tuple(2),
    "TUPLE3": lambda m, _: m.make_tuple(3),
    "DICT": lambda m, _: m.push(_fill({}, m.since_mark())),
    "SETITEM": lambda m, _: m.set_item(),
    "SETITEMS": lambda m, _: m.update(m.since_mark()),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    "MEMOIZE": lambda m, _: m.put(len(m.memo)),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    "GLOBAL": lambda m, carried: m.push_global(*carried.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.global_of_stack(),
    "REDUCE": lambda m, _: m.call(),
    "BUILD": lambda m, _: m.build(),
}
