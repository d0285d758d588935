"""Images in requests, whatever a route calls them: one form for all. Knows limits, no model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slipstream.base.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_IMAGES = 32
MAX_IMAGE_BYTES = 20 << 20
_MAX_DATA_CHARS = MAX_IMAGE_BYTES * 4 // 3 + 4
_IMAGE_PREFIX = "data:image/"


def only_text(content: str | list[dict[str, Any]], path: str) -> str:
    """Return content that must have no images.

    Raises:
        InvalidRequestError: it has some.
    """
    if not isinstance(content, str):
        message = f"{path}: images can be read in messages only; send text"
        raise InvalidRequestError(message, param=path)
    return content


def is_remote(url: str) -> bool:
    """Whether a URL is one to fetch; see image_fetch."""
    return url[:8].lower().startswith(("http://", "https://"))


def image_part(url: str | None, path: str, *, may_be_remote: bool = True) -> dict[str, Any]:
    """Return an image as a part of a message's content.

    Args:
        url: A base64 data URL of an image, or an http(s) URL.
        path: Of the field that holds it.
        may_be_remote: Take http(s) URLs, which `fetch_images` has to replace.

    Raises:
        InvalidRequestError: none, another kind of URL, or a larger image than is taken.
    """
    if url is None:
        message = f"{path} is required in an image part"
        raise InvalidRequestError(message, param=path)
    if may_be_remote and is_remote(url):
        return {"type": "image_url", "image_url": {"url": url}}
    head, comma, data = url.partition(",")
    if not (comma and head.startswith(_IMAGE_PREFIX) and head.endswith(";base64")):
        message = f"{path} must be a base64 data URL, as in data:image/png;base64,…"
        raise InvalidRequestError(message, param=path)
    if len(data) > _MAX_DATA_CHARS:
        message = f"{path} is larger than the {MAX_IMAGE_BYTES >> 20} MiB an image may have"
        raise InvalidRequestError(message, param=path)
    return {"type": "image_url", "image_url": {"url": url}}


def content_of(parts: Sequence[str | dict[str, Any]], path: str) -> str | list[dict[str, Any]]:
    """Return the content of a message: its texts joined by newlines, or where there are images a list of parts.

    Args:
        parts: Texts, and images from `image_part`, in order.
        path: Of the field that holds them.

    Raises:
        InvalidRequestError: more images than a message may have.
    """
    texts = [part for part in parts if isinstance(part, str)]
    if len(texts) == len(parts):
        return "\n".join(texts)
    if len(parts) - len(texts) > MAX_IMAGES:
        message = f"{path} has {len(parts) - len(texts)} images; at most {MAX_IMAGES} are taken"
        raise InvalidRequestError(message, param=path)
    return [{"type": "text", "text": p} if isinstance(p, str) else p for p in parts]
