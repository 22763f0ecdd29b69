"""A TOML file as command-line options: ``--config FILE`` gives the same fields, options on the line win."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from onsphere.lab.options import InputError


def with_config(arguments: list[str]) -> list[str]:
    """Put the fields of the TOML file named by ``--config`` in front of the options given on the line.

    The file holds the fields at its top, or in a table with the command's name (``[regimes]``).

    Args:
        arguments: The command line without the program's name.

    Returns:
        The command line with the file's fields as options.

    Raises:
        InputError: The file cannot be read, is not TOML, or holds a value that is no field's.
    """
    path = _config_path(arguments)
    if path is None or not arguments:
        return arguments
    command, rest = arguments[0], arguments[1:]
    given = {a.split("=", 1)[0].removeprefix("--no-").removeprefix("--") for a in rest if a.startswith("--")}
    options: list[str] = []
    for key, value in _read(path, command).items():
        name = key.replace("_", "-")
        if name not in given:
            options += _option(path, name, value)
    return [command, *options, *rest]


def _config_path(arguments: list[str]) -> Path | None:
    for i, argument in enumerate(arguments):
        if argument == "--config" and i + 1 < len(arguments):
            return Path(arguments[i + 1])
        if argument.startswith("--config="):
            return Path(argument.removeprefix("--config="))
    return None


def _read(path: Path, command: str) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--config: {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"--config: {path} is not TOML: {error}") from error
    table = values.pop(command, {})
    if not isinstance(table, dict):
        raise InputError(f"--config: {path}: {command} must be a table of fields")
    return values | table


def _option(path: Path, name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, list):
        return [f"--{name}={','.join(map(str, value))}"]
    if isinstance(value, str | int | float):
        return [f"--{name}={value}"]
    raise InputError(
        f"--config: {path}: {name} is a {type(value).__name__}; allowed are strings, numbers, true, false, lists"
    )


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
