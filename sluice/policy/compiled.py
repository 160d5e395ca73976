"""Loops over workers that a placement runs, compiled to machine code: numbers and columns in, numbers and columns out.

An operation on a column costs half a microsecond however few workers there are, and a placement needs a
hundred; a compiled loop does them all in five. A compiled function calls nothing of another file and reads no
constant of one: what it was compiled from is kept beside its own file, and only that is looked at for changes.
Next: `worth.py`.
"""

from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar, cast

import numba

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")

_AS_COLUMNS: Final = "numpy"  # dividing by zero gives infinity, as it does in columns


def compiled(function: Callable[_Given, _Result]) -> Callable[_Given, _Result]:
    """The same function, compiled when it is first called and remembered on disk where there is a place for it."""
    try:
        made = numba.njit(function, error_model=_AS_COLUMNS, cache=True)
    except RuntimeError:  # neither the package's folder nor the user's can be written
        made = numba.njit(function, error_model=_AS_COLUMNS)
    return cast("Callable[_Given, _Result]", made)
