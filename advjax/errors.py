"""The errors a user can cause: each message names the argument, the value seen and the remedy."""

import difflib
import operator
from collections.abc import Iterable
from typing import Any


class AdvjaxError(ValueError):
    """A mistake in what was given to advjax; the command line prints it and exits with 2."""


class ImageError(AdvjaxError):
    """An image file or array that cannot be used."""


class WeightsError(AdvjaxError):
    """A weights file that cannot be read, or that does not fit the network."""


class AdvjaxWarning(UserWarning):
    """Something that a user should know of; the command line prints it in one line."""


class UnknownName(AdvjaxError):
    """A name that is not in a known set; the message offers the nearest one, and ends in `note`."""

    def __init__(self, what: str, name: str, known: Iterable[str], note: str = ""):
        known = list(known)
        spelled = {str(each).lower(): each for each in known}
        near = difflib.get_close_matches(str(name).lower(), spelled, n=1, cutoff=0.5)
        hint = f"; did you mean {spelled[near[0]]!r}?" if near else ""
        end = f"; {note}" if note else ""
        super().__init__(f"{what} {name!r} is not known{hint} (known: {', '.join(known)}){end}")


def whole(value: Any, minimum: int) -> int | None:
    """Return a whole number of Python or NumPy as an int; None if it is none, or too small.

    Example:
        >>> import numpy as np
        >>> whole(np.int64(8), 1), whole(0, 1), whole(8.0, 1), whole(True, 1)
        (8, None, None, None)
    """
    try:
        number = operator.index(value)
    except TypeError:
        return None
    return None if isinstance(value, bool) or number < minimum else number
