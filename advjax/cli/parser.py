"""A command is a frozen dataclass: its fields are the options, its docstring is the help.

argparse splits the words of a command line; what they mean is read from the types of the fields.
"""

import abc
import argparse
import dataclasses
import difflib
import inspect
import re
import shutil
import textwrap
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, NoReturn, Union, get_args, get_origin
from typing import get_type_hints as hints

from advjax.errors import AdvjaxError, UnknownName

SHORT = {"out": "-o", "quiet": "-q"}
NAMES = {int: "N", float: "X", Path: "PATH", str: "NAME"}  # of values, in the help
LISTED = 36  # characters of choices that stand beside the option; longer ones stand in its help


class Command(abc.ABC):
    """The parts of a command besides its fields, which are documented under "Attributes:".

    A field that is a dataclass itself is a group of options. Its own fields' names are the options,
    so that several commands share them.
    """

    arguments: ClassVar[Mapping[str, str]] = {}
    """The fields that are given without an option, each with its name in the help."""
    groups: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """The other fields, by the title of their group; the title alone of a group of shared options
    says where it stands."""
    examples: ClassVar[tuple[str, ...]] = ()

    @abc.abstractmethod
    def run(self) -> int | None:
        """Run the command and return the exit status; None is 0."""


class Option(NamedTuple):
    """One field as the command line has it."""

    path: tuple[str, ...]  # of fields, to the one that it sets
    group: str | None  # None: an argument without an option's name
    name: str  # "--max-evaluations", or an argument's name
    kind: Any  # its type
    default: Any  # dataclasses.MISSING where it must be given
    help: str

    @property
    def choices(self) -> tuple[str, ...]:
        """Return the names that it takes."""
        return tuple(str(n) for kind in _members(self.kind) for n in _literals(kind))

    @property
    def value(self) -> str:
        """Return the name of its value in the help; nothing for a flag."""
        if self.kind is bool or self.group is None:
            return ""
        named = [kind for kind in _members(self.kind) if not _literals(kind)]
        listed = "|".join(self.choices)
        if self.choices and len(listed) > LISTED:
            listed = "NAME"
        return "|".join(dict.fromkeys(filter(None, [listed, *map(_value, named)])))


def options(command: type) -> Iterator[Option]:
    """Yield the options of a command, group by group: those that `groups` names are the last."""
    found = list(_options(command, (), {}, None))
    last = list(getattr(command, "groups", ()))
    titles = [title for title in dict.fromkeys(o.group for o in found) if title not in last]
    order = [None, *titles, *last]
    yield from sorted(found, key=lambda option: order.index(option.group))


def _options(
    command: type, path: tuple[str, ...], defaults: Mapping[str, Any], group: str | None
) -> Iterator[Option]:
    arguments = getattr(command, "arguments", {})
    titles = {
        name: title for title, names in getattr(command, "groups", {}).items() for name in names
    }
    kinds, texts = hints(command), _texts(command)
    for field in dataclasses.fields(command):
        name, kind = field.name, kinds[field.name]
        default = defaults.get(name, field.default)
        if dataclasses.is_dataclass(kind):
            given = {each.name: getattr(default, each.name) for each in dataclasses.fields(kind)}
            yield from _options(kind, (*path, name), given, name)  # type: ignore[arg-type]
        elif name in arguments:
            yield Option((*path, name), None, arguments[name], kind, default, texts[name])
        else:
            title = group or titles.get(name, "options")
            flag = f"--{name.replace('_', '-')}"
            yield Option((*path, name), title, flag, kind, default, texts[name])


def _texts(command: type) -> dict[str, str]:
    """Return what the docstrings of a class and its bases say of each field."""
    texts = {}
    for base in reversed(command.__mro__):
        _, _, fields = (inspect.cleandoc(base.__doc__ or "")).partition("\nAttributes:\n")
        for name, text in re.findall(r"^    (\w+): (.*(?:\n     +.*)*)", fields, re.MULTILINE):
            texts[name] = " ".join(text.split())
    return texts


def parse(name: str, command: type, words: Sequence[str]) -> Any:
    """Return the command with what the words say.

    Args:
        name: The command as it is called, such as "advjax attack".
        command: Its class.
        words: The rest of the command line.

    Raises:
        AdvjaxError: A mistake, in one short line.
    """
    known = list(options(command))
    parser = _Parser(prog=name, add_help=False, allow_abbrev=False)
    for number, option in enumerate(known):
        more: dict[str, Any] = {"dest": str(number), "default": argparse.SUPPRESS}
        if option.kind is bool:
            more["action"] = "store_true"
        else:
            more["nargs"] = _count(option)
        if option.group is None:
            del more["dest"]
            parser.add_argument(str(number), metavar=option.name, **more)
        else:
            more["required"] = option.default is dataclasses.MISSING
            flags = filter(None, (SHORT.get(option.path[-1]), option.name))
            parser.add_argument(*flags, **more)
    given, rest = parser.parse_known_args(words)
    if rest:
        raise _left_over(name, rest, [option.name for option in known if option.group])
    values = {}
    for number, option in enumerate(known):
        if str(number) in given:
            value = getattr(given, str(number))
            values[option.path] = True if value is True else _convert(option, value)
    return _build(command, values, ())


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        message = message.removeprefix("argument ").replace("the following arguments are", "")
        raise AdvjaxError(f"{' '.join(message.split())}; see '{self.prog} --help'")


def _left_over(name: str, rest: Sequence[str], known: Sequence[str]) -> AdvjaxError:
    word = next((word for word in rest if word.startswith("-")), None)
    if word is None:
        return AdvjaxError(f"{rest[0]!r} is one word too many; see '{name} --help'")
    word = word.partition("=")[0]
    within = [option for option in known if word.strip("-") in option.split("-")]
    near = within or difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"see '{name} --help'"
    return AdvjaxError(f"option {word!r} is not known; {hint}")


def _members(kind: Any) -> tuple[Any, ...]:
    """Return the types that a value may have, without None's."""
    if get_origin(kind) in (Union, types.UnionType):
        return tuple(member for member in get_args(kind) if member is not type(None))
    return (kind,)


def _literals(kind: Any) -> tuple[Any, ...]:
    if get_origin(kind) is tuple and get_args(kind)[-1] is Ellipsis:
        kind = get_args(kind)[0]
    return get_args(kind) if get_origin(kind) is Literal else ()


def _value(kind: Any) -> str:
    if get_origin(kind) is tuple:
        first, *others = get_args(kind)
        return f"{NAMES[first]} ..." if others == [...] else " ".join(map(_value, (first, *others)))
    return NAMES[kind]


def _count(option: Option) -> Any:
    kinds = [kind for kind in _members(option.kind) if get_origin(kind) is tuple]
    if not kinds:
        return "?" if option.group is None and option.default is not dataclasses.MISSING else None
    if get_args(kinds[0])[-1] is not Ellipsis:
        return len(get_args(kinds[0])) if len(_members(option.kind)) == 1 else "+"
    return "*" if option.default is not dataclasses.MISSING else "+"


def _convert(option: Option, value: Any) -> Any:
    words = value if isinstance(value, list) else [value]
    errors = []
    for kind in _members(option.kind):
        try:
            return _read(option, kind, words)
        except AdvjaxError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    given = " ".join(words)
    raise AdvjaxError(f"{option.path[-1]} ({option.name}) is {given!r}; give {option.value}")


def _read(option: Option, kind: Any, words: Sequence[str]) -> Any:
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        kinds = kinds[:1] * len(words) if kinds[-1] is Ellipsis else kinds
        if len(kinds) != len(words):
            raise AdvjaxError(f"{option.name} takes {len(kinds)} values; give {_value(kind)}")
        return tuple(_read(option, each, [word]) for each, word in zip(kinds, words, strict=True))
    if len(words) != 1:
        raise AdvjaxError(f"{option.name} is {' '.join(words)!r}; give one value")
    (word,) = words
    if choices := _literals(kind):
        if word not in choices:
            raise UnknownName(option.path[-1], word, choices)
        return word
    try:
        return kind(word)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise AdvjaxError(f"{option.name} is {word!r}; give {wanted}") from None


def _build(command: Any, values: Mapping[tuple[str, ...], Any], path: tuple[str, ...]) -> Any:
    kinds, given = hints(command), {}
    for field in dataclasses.fields(command):
        here = (*path, field.name)
        if dataclasses.is_dataclass(kinds[field.name]):
            inner = {k: v for k, v in values.items() if k[: len(here)] == here}
            if inner:
                changes = {k[-1]: v for k, v in inner.items()}
                given[field.name] = dataclasses.replace(field.default, **changes)  # type: ignore
        elif here in values:
            given[field.name] = values[here]
    return command(**given)


def help_text(name: str, command: type) -> str:
    """Return a command's help: usage, what it does, its options in groups, and examples.

    Args:
        name: The command as it is called.
        command: Its class.
    """
    width = min(100, max(60, shutil.get_terminal_size().columns))
    known = list(options(command))
    arguments = [
        f"[{o.name}]" if o.default is not dataclasses.MISSING else o.name
        for o in known
        if o.group is None
    ]
    about, _, _ = inspect.cleandoc(command.__doc__ or "").partition("\nAttributes:\n")
    parts = [" ".join(["usage:", name, *arguments, "[options]"])]
    parts += [textwrap.fill(" ".join(p.split()), width) for p in about.strip().split("\n\n")]
    for title in dict.fromkeys(option.group for option in known):
        rows = [_row(option, width) for option in known if option.group == title]
        parts.append("\n".join([f"{title or 'arguments'}:", *rows]))
    if examples := getattr(command, "examples", ()):
        parts.append("\n".join(["examples:", *(f"  {example}" for example in examples)]))
    return "\n\n".join(parts) + "\n"


def _row(option: Option, width: int) -> str:
    flag = ", ".join(filter(None, (SHORT.get(option.path[-1]), option.name)))
    head = f"  {option.name if option.group is None else flag} {option.value}".rstrip()
    text = option.help
    if option.choices and not set(option.choices) <= set(option.value.split("|")):
        text += f" One of {', '.join(option.choices)}."
    if option.group and option.default is dataclasses.MISSING:
        text += " Must be given."
    elif option.default not in (None, False, (), dataclasses.MISSING):
        text += f" (default: {_shown(option.default)})"
    lines = textwrap.wrap(text, width - 28, break_on_hyphens=False)
    if len(head) > 26:
        return "\n".join([head, *(" " * 28 + line for line in lines)])
    return "\n".join([f"{head:28}{lines[0]}", *(" " * 28 + line for line in lines[1:])])


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
