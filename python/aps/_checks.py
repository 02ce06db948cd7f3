"""Argument checks with one kind of message: the field, the value, what is allowed."""

from collections.abc import Callable, Collection
from numbers import Integral, Real

INT32_MAX = 2**31 - 1
TOKENS_MAX = 2**62


def number(field: str, value: object, allowed: str, test: Callable[[float], bool]) -> None:
    """A real number that passes `test` (NaN passes no comparison). TypeError for other types, ValueError otherwise."""
    if type(value) is not float and (not isinstance(value, Real) or isinstance(value, bool)):
        raise TypeError(_message(field, value, allowed))
    try:
        good = test(float(value))
    except OverflowError:  # an int or a fraction beyond every float
        good = False
    if not good:
        raise ValueError(_message(field, value, allowed))


def integer(field: str, value: object, low: int, high: int, *, optional: bool = False) -> None:
    """An int in low..high, or None if optional. TypeError for other types (bool too), ValueError otherwise."""
    if (type(value) is int and low <= value <= high) or (optional and value is None):
        return
    allowed = f"an int in {low}..{high}" + (" or None" if optional else "")
    if type(value) is not int and (not isinstance(value, Integral) or isinstance(value, bool)):
        raise TypeError(_message(field, value, allowed))
    if not low <= int(value) <= high:
        raise ValueError(_message(field, value, allowed))


def choice(field: str, value: object, options: Collection[str]) -> None:
    """One of a few strings, else ValueError."""
    if value not in options:
        raise ValueError(_message(field, value, " or ".join(repr(option) for option in options)))


def text(
    field: str, value: object, allowed: str = "a non-empty str", test: Callable[[str], bool] = lambda _: True
) -> None:
    """A string that is not empty and passes `test`. TypeError for other types, ValueError otherwise."""
    if not isinstance(value, str):
        raise TypeError(_message(field, value, allowed))
    if not value or not test(value):
        raise ValueError(_message(field, value, allowed))


def _message(field: str, value: object, allowed: str) -> str:
    return f"{field} must be {allowed}, got {value!r}"
