"""Images in the messages of a chat: taken out of the content, a marker left in their place. Knows no model."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

from slipstream.base.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    Message = dict[str, Any]


def has_images(messages: Sequence[Message] | None) -> bool:
    """Tell whether a chat holds an image."""
    return any(
        part.get("type") == "image_url"
        for message in messages or ()
        if isinstance(message.get("content"), list)
        for part in message["content"]
    )


def take_images(messages: Sequence[Message], marker: str) -> tuple[list[Message], list[bytes]]:
    """Return the messages with text for content, and the images in order.

    Texts are joined by newlines, as templates want it, but not around an image.

    Args:
        messages: See GenerationSpec.
        marker: Stands for an image.

    Raises:
        InvalidRequestError: a URL that is no base64 data URL.
    """
    flat: list[Message] = []
    images: list[bytes] = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            message = {**message, "content": _flatten(content, marker, images)}
        flat.append(message)
    return flat, images


def _flatten(parts: Sequence[dict[str, Any]], marker: str, images: list[bytes]) -> str:
    text, is_behind_image = "", False
    for part in parts:
        if part.get("type") == "image_url":
            images.append(_decode(part["image_url"]["url"]))
            text += marker
            is_behind_image = True
        else:
            text += ("\n" if text and not is_behind_image else "") + part.get("text", "")
            is_behind_image = False
    return text


def _decode(url: str) -> bytes:
    head, comma, data = url.partition(",")
    if not (comma and head.startswith("data:") and head.endswith(";base64")):
        message = "an image must be a base64 data URL: data:image/png;base64,…"
        raise InvalidRequestError(message, param="messages")
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        message = f"the base64 text of an image is damaged: {error}"
        raise InvalidRequestError(message, param="messages") from error
