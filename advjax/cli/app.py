"""The parser of all commands, and `main`, which runs one."""

import contextlib
import io
import itertools
import os
import re
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import tyro
from tyro.conf import subcommand

from advjax.cli.attack import Attack, Demo
from advjax.cli.bench import Bench
from advjax.cli.metrics import Metrics
from advjax.cli.report import Report
from advjax.cli.reproduce import Reproduce
from advjax.cli.run import Run
from advjax.cli.weights import WeightsCommand
from advjax.errors import AdvjaxError, AdvjaxWarning, UnknownName

Command = (
    Annotated[Demo, subcommand("demo")]
    | Annotated[Attack, subcommand("attack")]
    | Annotated[WeightsCommand, subcommand("weights")]
    | Annotated[Run, subcommand("run")]
    | Annotated[Report, subcommand("report")]
    | Annotated[Reproduce, subcommand("reproduce")]
    | Annotated[Metrics, subcommand("metrics")]
    | Annotated[Bench, subcommand("bench")]
)


def parse(arguments: Sequence[str] | None = None) -> Any:
    """Return the command with its options; `sys.argv` is read when `arguments` is None.

    Raises:
        AdvjaxError: A command, an option or a choice that is not known.
    """
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            return tyro.cli(
                Command,  # pyright: ignore[reportArgumentType]  # a union of annotated types
                prog="advjax",
                description="Feature adversaries: images that a network takes for others.",
                args=arguments,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
            )
    except SystemExit as error:
        if error.code in (0, None):  # --help
            raise
        raise _mistake(message.getvalue()) from None


def _mistake(box: str) -> AdvjaxError:
    """Return tyro's message, a box of a title and paragraphs between rules, as a one-line error."""
    rows = [row.strip(" │") for row in box.splitlines()]
    groups = itertools.groupby(filter(None, rows[1:]), lambda row: not row.strip("-─╭╮╰╯"))
    paragraphs = [" ".join(group) for rule, group in groups if not rule]
    usage = re.search(r"advjax[a-z ]* --help", box)
    choice = re.match(r"invalid choice '(.*)' for argument '--(.*)'.*\((.*)\)", paragraphs[0])
    if choice:
        option, value, choices = choice[2].replace("-", "_"), choice[1], choice[3]
        return UnknownName(option, value, re.findall(r"'(.*?)'", choices))
    facts = [paragraph.rstrip(".") for paragraph in paragraphs[:-1]]
    return AdvjaxError("; ".join([*facts, f"see '{usage[0] if usage else 'advjax --help'}'"]))


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
