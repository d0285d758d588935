"""Names of model files, quantizations and keys: takes them apart and refuses hostile ones. Opens no file."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

from slipstream.base.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MAX_NAME_CHARS = 512
_QUANT = re.compile(
    r"(?:^|[-._])((?:UD-)?(?:I?Q\d(?:_[0-9KSMLXN]+)*|TQ\d_\d|MXFP4(?:_MOE)?|NVFP4|BF16|F(?:P)?16|F(?:P)?32))(?=$|[-._])",
    re.IGNORECASE,
)
_PART = re.compile(r"(?P<prefix>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})")
_SAFE_PART = re.compile(r"(?!\.)[\w.+ ()\[\]=,~@-]{1,200}")
# What is picked where nobody says: quality for its size first; the rest by size.
_PREFERRED = ("Q4_K_M", "MXFP4", "MXFP4_MOE", "UD-Q4_K_XL", "Q4_K_S", "IQ4_XS", "Q4_1", "Q4_0")
_Item = TypeVar("_Item")


def quant_of(stem: str) -> str:
    """Return the quantization a file name tells ("Q4_K_M"), the last one it names, or ""."""
    found = _QUANT.findall(stem)
    return found[-1].upper() if found else ""


def without_quant(stem: str) -> str:
    """Return a file's stem without the last quantization in it: what variants of a model share."""
    found = list(_QUANT.finditer(stem))
    if not found:
        return stem
    return (stem[: found[-1].start()] + stem[found[-1].end() :]).strip("-._") or stem


def split_part(stem: str) -> tuple[str, int, int]:
    """Return (stem of the whole model, number of the part, number of parts); one part when it is not split."""
    found = _PART.fullmatch(stem)
    return (found["prefix"], int(found["number"]), int(found["count"])) if found else (stem, 1, 1)


def is_projector(filename: str) -> bool:
    """Tell whether a file name is that of a projector (mmproj), which is part of another model."""
    return "mmproj" in filename.lower()


def key_part(name: str) -> str:
    """Make a piece of a key out of a folder or file name: lower case, without "-GGUF"."""
    short = re.sub(r"[-._]gguf$", "", name, flags=re.IGNORECASE) or name
    return re.sub(r"[^\w.+=~-]", "-", short).lower()


def check_file_part(part: str) -> str:
    """Return a name that shall become a folder or file, if it is harmless.

    Raises:
        InvalidRequestError: it is empty, hidden, too long, or has characters that lead elsewhere.
    """
    if _SAFE_PART.fullmatch(part) is None or part.strip(" .") != part:
        message = (
            f"{part[:80]!r} cannot be the name of a folder or file here: it must be 1 to 200 letters, digits "
            "or any of .+-_=~@,()[] and spaces, not starting or ending with a dot or space"
        )
        raise InvalidRequestError(message, param="model")
    return part


def preferred(
    items: Iterable[_Item],
    quant: Callable[[_Item], str],
    size_bytes: Callable[[_Item], int],
    budget_bytes: int | None = None,
) -> _Item:
    """Choose the variant to take where nobody says which.

    Args:
        items: One or more variants.
        quant: Gives the quantization of one.
        size_bytes: Gives the size of one.
        budget_bytes: Memory there is; None does not care.

    Returns:
        The best known compromise that fits, else the largest that fits, else the smallest.
    """
    choices = sorted(items, key=size_bytes)
    fitting = [item for item in choices if budget_bytes is None or size_bytes(item) <= budget_bytes]
    for name in _PREFERRED:
        for item in fitting:
            if quant(item).upper() == name:
                return item
    return fitting[-1] if fitting else choices[0]
