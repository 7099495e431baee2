"""The command line, one file a command; `advjax --help` names them."""

from advjax.cli.app import main, parse

__all__ = ["main", "parse"]
