"""The one check that a number is in its range, and the one sentence that says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn, cast

from slipstream.base.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


def check_ranges(
    owner: object,
    ranges: Mapping[str, tuple[float, float]],
    types: type | tuple[type, ...] = int,
    optional: Collection[str] = (),
) -> None:
    """Check numeric attributes.

    Args:
        owner: Has an attribute of each name.
        ranges: Name to (lowest, highest), both allowed.
        types: What the values must be; a bool is no number.
        optional: Names that may be None.

    Raises:
        InvalidRequestError: a value is out of its range, NaN or of another type; `param` names it.
    """
    for name, (low, high) in ranges.items():
        value = getattr(owner, name)
        if value is None and name in optional:
            continue
        # NaN compares false.
        is_number = isinstance(value, types) and not isinstance(value, bool)
        if not is_number or not low <= cast("float", value) <= high:
            out_of_range(name, value, low, high)


def out_of_range(name: str, value: object, low: float, high: float) -> NoReturn:
    """Raise InvalidRequestError that names the parameter, its value and what is allowed."""
    message = f"{name} is {value!r}; it must be between {low} and {high}"
    raise InvalidRequestError(message, param=name)
