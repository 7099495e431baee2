"""The commands by name, and `main`, which runs one."""

import importlib
import io
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import advjax
from advjax.cli import parser
from advjax.errors import AdvjaxError, AdvjaxWarning, UnknownName
from advjax.memory import keep_freed_memory


class Place(NamedTuple):
    """The place of a command, imported when it is called, and the first line of its help."""

    module: str
    name: str
    summary: str


COMMANDS = {
    "demo": Place("attack", "Demo", "Make a cat's photograph look like a cup of coffee."),
    "attack": Place("attack", "Attack", "Disguise one photograph as another, for a network."),
    "networks": Place("networks", "Networks", "List the networks, or the layers of one."),
    "weights list": Place("weights", "List", "List where weights come from, and which are here."),
    "weights fetch": Place("weights", "Fetch", "Download a network's official weights."),
    "weights convert": Place("weights", "Convert", "Convert weights to one safetensors file."),
    "run": Place("run", "Run", "Attack any number of pairs."),
    "run status": Place("run_status", "Status", "Say how far a run is."),
    "run verify": Place("run_status", "Verify", "Check the files of a run."),
    "report": Place("report", "Report", "Write a run as one HTML page."),
    "metrics": Place("metrics", "Metrics", "Measure adversarial images as the paper does."),
    "reproduce": Place("reproduce", "Reproduce", "Make the paper's figures and tables."),
    "bench": Place("bench", "Bench", "Measure how fast attacks are on this machine."),
    "completion": Place("completion", "Completion", "Print a shell's completion of commands."),
}
HELP = ("-h", "--help")


def command_class(name: str) -> Any:
    """Return the class of a command of `COMMANDS`."""
    place = COMMANDS[name]
    return getattr(importlib.import_module(f"advjax.cli.{place.module}"), place.name)


def parse(arguments: Sequence[str] | None = None) -> Any:
    """Return the command with its options; `sys.argv` is read when `arguments` is None.

    Raises:
        AdvjaxError: A command, an option or a choice that is not known.
        SystemExit: After the help or the version has been printed.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] in ([HELP[0]], [HELP[1]]):
        _print_and_exit(overview())
    if words[:1] == ["--version"]:
        _print_and_exit(f"advjax {advjax.__version__}\n")
    name, rest = _split(words)
    if set(rest) & set(HELP):
        _print_and_exit(parser.help_text(f"advjax {name}", command_class(name)))
    return parser.parse(f"advjax {name}", command_class(name), rest)


def _split(words: Sequence[str]) -> tuple[str, list[str]]:
    """Return the command's name, of one or two words, and the other words."""
    first, two = " ".join(words[:1]), " ".join(words[:2])
    if len(words) > 1 and two in COMMANDS:
        return two, list(words[2:])
    if first in COMMANDS:
        return first, list(words[1:])
    below = [name.split()[1] for name in COMMANDS if name.startswith(f"{first} ") and first]
    if below and words[1:2] in ([HELP[0]], [HELP[1]]):
        _print_and_exit(overview(first))
    known = below or list(dict.fromkeys(name.split()[0] for name in COMMANDS))
    what = f"command of {first!r}" if below else "command"
    word = next(iter(words[1:] if below else words), None)
    if word is None:
        see = f"see 'advjax{' ' + first if below else ''} --help'"
        raise AdvjaxError(f"{what} is not given (known: {', '.join(known)}); {see}")
    raise UnknownName(what, word, known)


def overview(first: str = "") -> str:
    """Return the help of all commands, or of those that begin with the word `first`."""
    prefix = f"{first} " if first else ""
    shown = {k: v for k, v in COMMANDS.items() if k.startswith(prefix)}
    lines = [
        f"usage: advjax {prefix}COMMAND ...",
        "",
        "Feature adversaries: images that a network takes for others.",
        "",
        "commands:",
        *(f"  {name:18}{place.summary}" for name, place in shown.items()),
        "",
        f"'advjax {prefix}COMMAND --help' says what a command takes.",
        "'advjax --version' says which version this is.",
    ]
    return "\n".join(lines) + "\n"


def _print_and_exit(text: str) -> None:
    print(text, end="")
    raise SystemExit(0)


def candidates(line: str) -> list[str]:
    """Return what may stand in the place of the last word of a command line.

    Example:
        >>> candidates("advjax we"), candidates("advjax attack a.png b.png --start s")
        (['weights'], ['source'])
    """
    *before, last = line.split(" ")[1:] or [""]
    before = [word for word in before if word]
    below = [n.split()[1] for n in COMMANDS if before and n.startswith(f"{before[0]} ")]
    name = next((n for n in (" ".join(before[:2]), *before[:1]) if n in COMMANDS), None)
    if not before:
        found = list(dict.fromkeys(name.split()[0] for name in COMMANDS))
    else:
        known = parser.options(command_class(name)) if name else ()
        options = {option.name: option for option in known if option.group}
        asked = options.get(before[-1])
        found = asked.choices if asked else (*options, *(below if len(before) == 1 else ()))
    return [word for word in found if word.startswith(last)]


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *more: Any
) -> None:
    """Print a warning of ours as one line, and others as Python does, all on standard error."""
    text = warnings.formatwarning(message, category, filename, lineno)
    print(
        f"advjax: {message}" if issubclass(category, AdvjaxWarning) else text.rstrip(),
        file=sys.stderr,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; a mistake of the user's is one line on standard error and exit status 2.

    Other exit statuses are those that the command's `run` returns.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # not every file's name can be encoded
        sys.stdout.reconfigure(errors="backslashreplace")
    if arguments is None and "COMP_LINE" in os.environ:  # the shell asks, see `completion`
        point = int(os.environ.get("COMP_POINT", len(os.environ["COMP_LINE"])))
        print("\n".join(candidates(os.environ["COMP_LINE"][:point])))
        return 0
    if arguments is None:  # the process is ours
        keep_freed_memory()
    try:
        with warnings.catch_warnings():  # threads show theirs in the same way
            warnings.showwarning = _show_warning
            warnings.simplefilter("default", AdvjaxWarning)  # each once
            try:
                status = parse(arguments).run()
            finally:
                sys.stdout.flush()  # while its errors can be caught
    except AdvjaxError as error:
        print(f"advjax: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("advjax: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as head, has had enough
        # Python writes what is left when it ends; and what it cannot write, it complains about.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13  # as a shell shows SIGPIPE
    except RuntimeError as error:
        if "Unable to initialize backend" not in str(error):
            raise
        reason = " ".join(str(error).split())
        asked = f"JAX_PLATFORMS is {os.environ.get('JAX_PLATFORMS', '')!r}"
        print(f"advjax: {asked}: {reason}; install that JAX, or unset it", file=sys.stderr)
        return 2
    return status or 0
