"""Images in prompts: placeholders in the token ids, positions of what follows, embeddings. Knows no scheduling.

A picture takes as many token ids as cells. They are negative and made of a hash of the image, so that the prefix cache
finds the same image and tells different ones apart; they never reach the native core. A picture is computed as a
whole, and with M-RoPE it takes fewer positions than cells, so what follows it lies before its index::

    token_ids  | 5  17  9 | -8412 -771 -90210 -3344 | 12  40 |       3 tokens, a picture of 4 cells, 2 tokens
    positions  | 0   1  2 |  3     3    3      3    |  5   6 |       it takes 2 positions
"""

from __future__ import annotations

import array
import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

_MAX_KEPT_BYTES = 128 << 20


class NativePicture(Protocol):
    """An image, or a slice of one, as _core.Picture has it."""

    @property
    def image(self) -> int:
        """Index of its image."""

    @property
    def n_tokens(self) -> int:
        """Cells it takes."""

    @property
    def n_positions(self) -> int:
        """Positions it takes."""

    @property
    def n_bytes(self) -> int:
        """Size of its embeddings."""


class Projector(Protocol):
    """What _core.Projector does."""

    def tokenize(
        self, text: str, images: list[bytes], add_special: bool
    ) -> Sequence[list[int] | NativePicture]:
        """Split a text into runs of tokens and pictures."""

    def encode(self, picture: Any) -> None:
        """Compute a picture's embeddings."""

    def decode(self, context: Any, seq_id: int, position: int, picture: Any) -> None:
        """Compute an encoded picture."""

    def close(self) -> None:
        """Let go of it."""


@dataclass(slots=True, frozen=True, eq=False)
class PromptPicture:
    """A picture in a prompt.

    Attributes:
        start: Index of its first token id.
        num_tokens: How many it has.
        num_positions: Positions it takes, at most `num_tokens`.
        key: Tells it apart from other pictures.
        native: What the runner computes.
    """

    start: int
    num_tokens: int
    num_positions: int
    key: bytes
    native: NativePicture

    @property
    def end(self) -> int:
        """Index behind its last token id."""
        return self.start + self.num_tokens


def picture_at(pictures: Sequence[PromptPicture], index: int) -> PromptPicture | None:
    """Return the picture that begins at `index` or is the first one behind it."""
    return next((picture for picture in pictures if picture.start >= index), None)


def position_of(pictures: Sequence[PromptPicture], index: int) -> int | None:
    """Return the position of the token at `index`; None within a picture, where a sequence cannot be cut."""
    position = index
    for picture in pictures:
        if index <= picture.start:
            break
        if index < picture.end:
            return None
        position -= picture.num_tokens - picture.num_positions
    return position


class SequencePictures:
    """Which pictures each sequence holds, for whoever has to turn indices into positions.

    A sequence keeps them as long as it keeps cells: while its request runs, while that is preempted, and as a
    cached prefix.
    """

    def __init__(self) -> None:
        self._pictures: dict[int, tuple[PromptPicture, ...]] = {}
        self._open: set[int] = set()

    def open(self, seq_id: int, pictures: tuple[PromptPicture, ...]) -> None:
        """Note what the prompt of a sequence holds."""
        self._open.add(seq_id)
        if pictures:
            self._pictures[seq_id] = pictures
        else:
            self._pictures.pop(seq_id, None)

    def close(self, seq_id: int) -> None:
        """Note that no request has the sequence any more."""
        self._open.discard(seq_id)

    def position(self, seq_id: int, index: int) -> int | None:
        """Return the position of the token at `index`; None within a picture."""
        pictures = self._pictures.get(seq_id)
        return position_of(pictures, index) if pictures else index

    def clear(self, seq_id: int) -> None:
        """Note that a sequence has lost its cells."""
        if seq_id not in self._open:
            self._pictures.pop(seq_id, None)


class PictureReader:
    """Makes prompts with images for one model. Any thread.

    Args:
        projector: Loaded; belongs to the reader from here.
        marker: What it was loaded with: stands for an image in a text.
    """

    def __init__(self, projector: Projector, marker: str) -> None:
        self._projector = projector
        self.marker = marker
        self._lock = threading.Lock()
        self._kept: OrderedDict[bytes, NativePicture] = OrderedDict()  # least recently used first
        self._num_kept_bytes = 0

    def tokenize(
        self, text: str, images: Sequence[bytes], *, add_special: bool
    ) -> tuple[list[int], tuple[PromptPicture, ...]]:
        """Return the token ids of a text with a marker for each image, and its pictures.

        Args:
            text: With special tokens by name.
            images: Files: JPEG, PNG, GIF or BMP.
            add_special: Add BOS and EOS where the model wants them.

        Raises:
            InvalidRequestError: an image that cannot be read, or is too large.
        """
        digests = [hashlib.sha256(image).digest() for image in images]
        token_ids: list[int] = []
        pictures: list[PromptPicture] = []
        num_slices = dict.fromkeys(range(len(images)), 0)
        for part in self._projector.tokenize(text, list(images), add_special):
            if isinstance(part, list):
                token_ids += part
                continue
            key = digests[part.image] + num_slices[part.image].to_bytes(4, "little")
            num_slices[part.image] += 1
            picture = PromptPicture(len(token_ids), part.n_tokens, part.n_positions, key, part)
            pictures.append(picture)
            token_ids += placeholders(key, part.n_tokens)
        return token_ids, tuple(pictures)

    def encode(self, pictures: Sequence[PromptPicture]) -> tuple[PromptPicture, ...]:
        """Return the pictures with their embeddings, of earlier requests where there are some.

        Takes as long as a prompt of their size for each that is new.

        Raises:
            ComputeError: the backend failed.
        """
        return tuple(
            PromptPicture(p.start, p.num_tokens, p.num_positions, p.key, self._encoded(p))
            for p in pictures
        )

    def _encoded(self, picture: PromptPicture) -> NativePicture:
        with self._lock:
            kept = self._kept.get(picture.key)
            if kept is not None:
                self._kept.move_to_end(picture.key)
                return kept
        native = picture.native
        self._projector.encode(native)
        with self._lock:
            if picture.key not in self._kept:
                self._kept[picture.key] = native
                self._num_kept_bytes += native.n_bytes
            while self._num_kept_bytes > _MAX_KEPT_BYTES and len(self._kept) > 1:
                self._num_kept_bytes -= self._kept.popitem(last=False)[1].n_bytes
        return native

    def decode(self, context: Any, seq_id: int, position: int, picture: PromptPicture) -> None:
        """Compute an encoded picture in a _core.Context. Raises what a step does."""
        self._projector.decode(context, seq_id, position, picture.native)

    def close(self) -> None:
        """Let go of the projector; an `encode` on another thread goes on to its end."""
        self._projector.close()


def placeholders(key: bytes, num_tokens: int) -> list[int]:
    """Return negative ids of 31 bits that stand for a picture; together they are as hard to forge as the hash."""
    words = array.array("I", hashlib.shake_128(key).digest(4 * num_tokens))
    return [-1 - (word >> 1) for word in words]
