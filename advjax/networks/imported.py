"""Objects of the user's own by the name of a function that returns one: MODULE:FUNCTION."""

import dataclasses
import hashlib
import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from advjax.errors import AdvjaxError, UnknownName
from advjax.networks.network import Network

T = TypeVar("T")


def is_imported(name: str | None) -> bool:
    """Return True if a name is MODULE:FUNCTION or FILE.py:FUNCTION."""
    return name is not None and ":" in name


def short_name(name: str) -> str:
    """Return such a name as a folder may be called.

    Example:
        >>> short_name("work/nets.py:clip"), short_name("package.nets:clip")
        ('nets-clip', 'package.nets-clip')
    """
    where, _, function = name.rpartition(":")
    return f"{Path(where).stem if where.endswith('.py') else where}-{function}"


def import_network(name: str) -> Network:
    """Return the network of `import_made`; without a name of its own it gets the function's."""
    net = import_made(name, "network", Network)
    function = name.rpartition(":")[2]
    return dataclasses.replace(net, name=function) if net.name == Network.name else net


def import_made(name: str, what: str, kind: type[T]) -> T:
    """Import a function, call it, and return what it returns.

    Modules are found as by `python -m`, the working directory first; a file's own folder is
    searched for what it imports.

    Args:
        name: MODULE:FUNCTION or FILE.py:FUNCTION.
        what: What it returns, for messages: "network".
        kind: The class of that.

    Raises:
        AdvjaxError: The module cannot be imported, or the function returns something else.
        UnknownName: The module has no such function.
    """
    where, _, function = name.rpartition(":")
    module = _module(where, f"{what} {name!r}")
    if not hasattr(module, function):
        known = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
        raise UnknownName(f"function of {where!r}", function, known)
    try:
        made: Any = getattr(module, function)()
    except Exception as error:
        raise AdvjaxError(f"{what} {name!r} cannot be made ({_line(error)}); mend it") from error
    if not isinstance(made, kind):
        raise AdvjaxError(
            f"{what} {name!r} returned a {type(made).__name__}; return an advjax.{kind.__name__}"
        )
    return made


def _module(where: str, what: str) -> ModuleType:
    file = Path(where).absolute() if where.endswith(".py") else None
    if file is not None and not file.is_file():
        raise AdvjaxError(f"{what} names {where!r}, which is no file; give FILE.py:FUNCTION")
    folder = os.getcwd() if file is None else str(file.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        if file is None:
            return importlib.import_module(where)
        # A name that hides no module of this name, and is the same at each call.
        unique = f"{file.stem}_{hashlib.sha256(os.fsencode(file)).hexdigest()[:8]}"
        if unique not in sys.modules:
            spec = importlib.util.spec_from_file_location(unique, file)
            assert spec is not None
            assert spec.loader is not None
            module = sys.modules[unique] = importlib.util.module_from_spec(spec)
            try:
                spec.loader.exec_module(module)
            except BaseException:
                del sys.modules[unique]
                raise
        return sys.modules[unique]
    except Exception as error:
        raise AdvjaxError(
            f"{what} cannot be imported ({_line(error)}); give MODULE:FUNCTION or "
            "FILE.py:FUNCTION that Python can import"
        ) from error


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
