"""`j2o export --config`: a TOML file with a table for each model.

The keys of a table are the options of the command line without their dashes, from the parser itself.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from j2o.cli.parser import PRINTED, Json, NameValue, ObjectName, Parser
from j2o.errors import SpecError, meant, shown

NO_KEYS = ("help", "config", "only", "json", "quiet", "traceback")  # of the whole call
FUNCTION = "function"  # the key of what has no option
PYPROJECT = "pyproject.toml"
JSON_IN_TOML = (str, list, dict)  # what a value that is JSON may be in the file
SHAPE_ALONE = (
    "each entry is the spec of one argument, and a shape is a list of its own, as in "
    '[["B", 8]]'
)

AddArguments = Callable[[argparse.ArgumentParser], None]


class ConfigTable(NamedTuple):
    """What a file says of one model; `where` is file and table, as an error names them."""

    name: str
    where: str
    values: Mapping[str, Any]


# ------------------------------------------------------------------------------------ tables


def read(file: Path, only: Sequence[str], keys: Mapping[str, Any]) -> list[ConfigTable]:
    """The tables of a file, each with what the file says of all models; those of `only` where it has names.

    SpecError where the file cannot be read, has no tables, or none of such a name.
    """
    place, top = _top(file)
    shared: dict[str, Any] = {}
    models: dict[str, Any] = {}
    for key, value in top.items():
        if key in keys:
            shared[key] = value
        elif isinstance(value, dict):
            models[key] = value
        else:
            raise _unknown(f"{file}: [{place}]", key, keys)
    if not models:
        what = f"there is no table [{place}.NAME], one for each model"
        tables = [key for key, value in shared.items() if isinstance(value, dict)]
        for key in tables[:1]:
            what += f"; {key!r} is a key, and no name of a table"
        raise SpecError(f"{file}: {what}")
    for name in only:
        if name not in models:
            there = ", ".join(models)
            what = f"there is no such table; there are {there}{meant(name, models)}"
            raise SpecError(f"--only {name}: {what}")
    found = []
    for name, values in models.items():
        if not only or name in only:
            where = f"{file}: [{place}.{name}]"
            found.append(ConfigTable(name, where, {**shared, **values}))
    return found


def _top(file: Path) -> tuple[str, dict[str, Any]]:
    """The table that has all tables: its name and its contents."""
    try:
        found: Any = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"--config {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SpecError(f"--config {file}: it is no text, and TOML is needed") from None
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"--config {file}: it is no TOML: {error}") from None
    place = "tool.j2o.export" if file.name == PYPROJECT else "export"
    for part in place.split("."):
        found = found.get(part, {})
        if not isinstance(found, dict):
            needed = f"tables are needed, [{place}.NAME] for each model"
            raise SpecError(f"{file}: {part} = {shown(found)}: {needed}")
    return place, found


def _unknown(where: str, key: str, keys: Mapping[str, Any]) -> SpecError:
    """The error for a key that there is not."""
    there = meant(key, keys) or f"; there are {', '.join(keys)}"
    return SpecError(f"{where} {key}: there is no such key{there}")


# ------------------------------------------------------------------------------------ keys


def keys_of(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """The keys that a table may have, and the argument that each stands for."""
    found: dict[str, argparse.Action] = {}
    for action in parser._actions:
        if action.dest in NO_KEYS:
            continue
        key = FUNCTION
        for text in reversed(action.option_strings):
            if text.startswith("--"):
                key = text.removeprefix("--")
        found[key] = action
    return found


def arguments_of(
    table: ConfigTable,
    folder: Path,
    parser: Parser,
    keys: Mapping[str, argparse.Action],
) -> argparse.Namespace:
    """What a table says, as the command line would; SpecError names file, table and key."""
    args = parser.parse_args([])
    for key, value in table.values.items():
        if key not in keys:
            raise _unknown(table.where, key, keys)
        action = keys[key]
        try:
            converted = _converted(action, value, folder)
        except (ValueError, argparse.ArgumentTypeError) as error:
            what = f"{key} = {shown(value)}"
            raise SpecError(f"{table.where} {what}: {error}") from None
        setattr(args, action.dest, converted)
    return args


def given(words: Sequence[str], arguments: AddArguments) -> dict[str, Any]:
    """The options that stand on the command line itself, without any default."""
    parser = Parser()
    arguments(parser)
    options = [action for action in parser._actions if action.option_strings]
    for action in options:
        action.default = argparse.SUPPRESS
    found, _ = parser.parse_known_args(words)
    names = {action.dest for action in options}
    return {name: one for name, one in vars(found).items() if name in names}


def _converted(action: argparse.Action, value: Any, folder: Path) -> Any:
    """The value of an argument; ValueError says what is needed."""
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        if not isinstance(value, bool):
            raise ValueError("true or false is needed")
        return value
    if not isinstance(action, argparse._AppendAction):
        return _one(action, value, folder)
    found = []
    for one in _entries(action.type, value):
        found.append(_one(action, one, folder))
    return found


def _entries(kind: Any, value: Any) -> list[Any]:
    """The values of an option that may stand several times."""
    if isinstance(value, list):
        if kind is Json and not all(isinstance(one, JSON_IN_TOML) for one in value):
            raise ValueError(SHAPE_ALONE)
        return value
    if kind is NameValue and isinstance(value, dict):
        return [f"{name}={one}" for name, one in value.items()]
    return [value]


def _one(action: argparse.Action, value: Any, folder: Path) -> Any:
    """A single value."""
    if isinstance(value, bool):
        raise ValueError("a text is needed, or a number")
    text = _text(action.type, value)
    if action.type is Path:
        return PRINTED if text == str(PRINTED) else folder / text
    if action.type is ObjectName:
        return _named_from(folder, text)
    if action.type is None:
        found: Any = text
    else:
        found = _called(action.type, text)
    if action.choices is not None and found not in action.choices:
        choices = ", ".join(map(str, action.choices))
        raise ValueError(f"one of {choices} is needed")
    return found


def _called(convert: Any, text: str) -> Any:
    """What the `type` of an argument makes of a text."""
    try:
        return convert(text)
    except argparse.ArgumentTypeError:
        raise
    except ValueError:
        raise ValueError("a number is needed") from None


def _text(kind: Any, value: Any) -> str:
    """The text that stands for a value on the command line."""
    if isinstance(value, str):
        return value
    if kind is Json and isinstance(value, list | dict):
        return _as_json(value)
    takes_numbers = kind not in (None, Path, Json, ObjectName, NameValue)
    if takes_numbers and isinstance(value, int | float):
        return str(value)
    raise ValueError("a number is needed" if takes_numbers else "a text is needed")


def _as_json(value: Any) -> str:
    """A list or table as JSON; ValueError for dates and times, which only TOML has."""
    try:
        return json.dumps(value)
    except TypeError:
        needed = "texts, numbers, true and false, lists and tables are needed"
        raise ValueError(needed) from None


def _named_from(folder: Path, text: str) -> ObjectName:
    """The name of an object; of a file, from the folder of the tables."""
    module, colon, name = text.partition(":")
    if module.endswith(".py"):
        module = str(folder / module)
    return ObjectName(f"{module}{colon}{name}")
