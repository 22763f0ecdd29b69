"""A spec as text: from a TOML file into command-line options, and back into a TOML file or a command to copy."""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Collection, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

from onsphere.lab.options import InputError, Options

LARGEST = 1 << 20  # bytes of a file of fields
_BITS = 1024  # of an integer; a float has no more


def with_config(arguments: list[str], commands: Collection[str] = ()) -> list[str]:
    """Put the fields of the TOML file named by ``--config`` in front of the options given on the line.

    The file holds the fields at its top, or in a table with the command's name: ``[regimes]``, and ``[toy.regimes]``
    for ``onsphere toy regimes``. The deeper table wins; a table of another command is left alone, so that one file may
    serve several.

    Args:
        arguments: The command line without the program's name.
        commands: The names of all commands that take a file, such as "regimes" and "toy regimes".

    Returns:
        The command line with the file's fields as options.

    Raises:
        InputError: The file cannot be read, is not TOML, or holds a value that is no field's.
    """
    path = _config_path(arguments)
    known = {tuple(name.split()) for name in commands}
    command = _command(arguments, known)
    if path is None or not command:
        return arguments
    rest = arguments[len(command) :]
    given = {a.split("=", 1)[0].removeprefix("--no-").removeprefix("--") for a in rest if a.startswith("--")}
    options: list[str] = []
    for key, value in _read(path, command, known).items():
        name = key.replace("_", "-")
        if name not in given:
            options += _option(path, name, value)
    return [*command, *options, *rest]


def _command(arguments: list[str], known: Collection[tuple[str, ...]]) -> list[str]:
    """The words that name the command: those before the first option, without a positional argument after them."""
    words = list(takewhile(lambda word: not word.startswith("-"), arguments))
    for length in range(len(words), 0, -1):
        if tuple(words[:length]) in known:
            return words[:length]
    return words


def _config_path(arguments: list[str]) -> Path | None:
    for i, argument in enumerate(arguments):
        if argument == "--config" and i + 1 < len(arguments):
            return Path(arguments[i + 1])
        if argument.startswith("--config="):
            return Path(argument.removeprefix("--config="))
    return None


def _read(path: Path, command: list[str], commands: Collection[tuple[str, ...]]) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise InputError(f"--config: {path} cannot be read: {error.strerror}") from error
    if len(content) > LARGEST:
        raise InputError(f"--config: {path} is larger than {LARGEST:,} bytes; is it the right file?")
    try:
        values = tomllib.loads(content.decode("utf-8").replace("\r\n", "\n"))
    except RecursionError:
        raise InputError(f"--config: {path} is nested too deeply; allowed are fields at the top or in tables") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"--config: {path} is not TOML: {error}") from error
    except ValueError:  # Python reads no integer of more than 4,300 digits
        raise InputError(f"--config: {path} holds a number of too many digits") from None
    fields: dict[str, Any] = {}
    for depth in range(len(command) + 1):
        table: Any = values.pop(command[depth], {}) if depth < len(command) else {}
        if not isinstance(table, dict):
            name = ".".join(command[: depth + 1])
            raise InputError(f"--config: {path}: {name} must be a table of fields, [{name}]")
        others = {name[depth] for name in commands if len(name) > depth and name[:depth] == tuple(command[:depth])}
        fields |= {key: value for key, value in values.items() if not (key in others and isinstance(value, dict))}
        values = table
    return fields


def _option(path: Path, name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, int) and item.bit_length() > _BITS:
            raise InputError(f"--config: {path}: {name} is a number of too many digits")
    if isinstance(value, list) and all(isinstance(item, str | int | float) for item in value):
        return [f"--{name}={','.join(map(str, value))}"]
    if isinstance(value, str | int | float):
        return [f"--{name}={value}"]
    raise InputError(
        f"--config: {path}: {name} is a {type(value).__name__}; allowed are strings, numbers, true, false, lists"
    )


def to_command(
    command: str, spec: type[Options], fields: Mapping[str, Any], none: Mapping[str, str] | None = None
) -> str:
    """The shell command that gives these plain values of a spec's fields: those that differ from the defaults.

    The command is in words, such as "toy periods"; ``none`` says how a None is written that is not the default
    (``{"train": "all"}``).
    """
    words = ["onsphere", *command.split()]
    for name, value in fields.items():
        given = tuple(value) if isinstance(value, list) else value
        if given == spec.model_fields[name].default:
            continue
        option = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(option if value else option.replace("--", "--no-", 1))
        elif value is None:
            words += [option, none[name]] if none and name in none else []
        else:
            words += [option, ",".join(map(str, given)) if isinstance(given, tuple) else str(value)]
    return shlex.join(words)


def to_toml(fields: dict[str, Any]) -> str:
    """The fields as a TOML file that ``--config`` reads; fields that are None are left out."""
    return "".join(f"{key} = {_toml_value(value)}\n" for key, value in fields.items() if value is not None)


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)
