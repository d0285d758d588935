"""API tokens: made, listed, edited, revoked and recognised. Only their hashes are kept; knows no HTTP.

A token is `sk-lm-` + 8 letters or digits + `:` + 20 of them (LM Studio's form, which its SDKs check). The first part
is its id and no secret; the second has 119 bits of randomness, so a plain SHA-256 of the whole is a safe way to keep
it: a slow hash only pays for what people make up.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
import time
from typing import TYPE_CHECKING, Literal, get_args

import msgspec

from slipstream.base.config import home
from slipstream.base.errors import InvalidRequestError, StoreError, TokenNotFoundError
from slipstream.base.files import WatchedFile, locked, replace_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

PREFIX = "sk-lm-"
Permission = Literal["inference", "models", "logs", "metrics"]
PERMISSIONS: tuple[Permission, ...] = get_args(Permission)
DEFAULT_PERMISSIONS: tuple[Permission, ...] = ("inference", "models")
_FORM = re.compile(r"sk-lm-([A-Za-z0-9]{8}):[A-Za-z0-9]{20}")
_ALPHABET = string.ascii_letters + string.digits
_MAX_NAME_CHARS = 100
_NO_HASH = "0" * 64


class ApiToken(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a token.

    Attributes:
        id: Its first part, by which it is told apart.
        name: Given by the user; no two are the same.
        sha256: Of the whole token, in hexadecimal digits.
        permissions: What it opens; see docs/api.md.
        created_s: Unix time.
    """

    id: str
    name: str
    sha256: str
    permissions: tuple[Permission, ...] = DEFAULT_PERMISSIONS
    created_s: float = 0.0


def new_secret() -> str:
    """Return a token nobody has had."""
    first, second = ("".join(secrets.choice(_ALPHABET) for _ in range(n)) for n in (8, 20))
    return f"{PREFIX}{first}:{second}"


def id_of(secret: str) -> str | None:
    """Return the id part of what may be a token."""
    found = _FORM.fullmatch(secret)
    return found[1] if found else None


class TokenStore:
    """The tokens of one file, which several processes may use at once. Blocks on the disk only to change them.

    Args:
        path: Of the file; `tokens.json` in SLIPSTREAM_HOME if not given. Made with the first token.
        clock: Unix time in seconds.
    """

    def __init__(self, path: Path | None = None, clock: Callable[[], float] = time.time) -> None:
        self._path = path or home() / "tokens.json"
        self._clock = clock
        self._file = WatchedFile(self._path, self._parse)

    def list(self) -> list[ApiToken]:
        """Return every token, the oldest first.

        Raises:
            StoreError: the file cannot be read or is damaged.
        """
        return list(self._tokens().values())

    def recognise(self, secret: str) -> ApiToken | None:
        """Return the token with this secret; takes as long for a wrong one as for one that nearly fits.

        Raises:
            StoreError: the file cannot be read or is damaged: then no token is known.
        """
        token = self._tokens().get(id_of(secret) or "")
        digest = hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
        fits = hmac.compare_digest(digest, token.sha256 if token else _NO_HASH)
        return token if fits else None

    def has(self, token_id: str) -> bool:
        """Whether there is a token of this id."""
        return token_id in self._tokens()

    def create(
        self, name: str, permissions: Iterable[str] = DEFAULT_PERMISSIONS
    ) -> tuple[ApiToken, str]:
        """Make a token.

        Returns:
            What is kept of it, and its secret, which cannot be had again.

        Raises:
            InvalidRequestError: the name is taken or empty, or there is no such permission.
            StoreError: it cannot be kept.
        """
        secret = new_secret()
        token = ApiToken(
            id=id_of(secret) or "",
            name=name,
            sha256=hashlib.sha256(secret.encode()).hexdigest(),
            permissions=_checked(permissions),
            created_s=self._clock(),
        )
        self._change(lambda tokens: _put(tokens, token))
        return token, secret

    def edit(
        self, name: str, *, new_name: str | None = None, permissions: Iterable[str] | None = None
    ) -> ApiToken:
        """Change the name or the permissions of a token.

        Args:
            name: Its name or id.
            new_name: None leaves it.
            permissions: Replace those it has; None leaves them.

        Raises:
            TokenNotFoundError: there is none of that name.
            InvalidRequestError: as `create`.
            StoreError: it cannot be kept.
        """
        allowed = None if permissions is None else _checked(permissions)

        def change(tokens: dict[str, ApiToken]) -> ApiToken:
            old = _find(tokens, name)
            new = msgspec.structs.replace(
                old, name=new_name or old.name, permissions=allowed or old.permissions
            )
            return _put(tokens, new)

        return self._change(change)

    def revoke(self, name: str) -> ApiToken:
        """Forget a token; from the next request on it opens nothing.

        Raises:
            TokenNotFoundError: there is none of that name.
            StoreError: the file cannot be written.
        """
        return self._change(lambda tokens: tokens.pop(_find(tokens, name).id))

    def _change(self, work: Callable[[dict[str, ApiToken]], ApiToken]) -> ApiToken:
        with locked(self._path.with_suffix(".lock")):
            tokens = dict(self._tokens())
            changed = work(tokens)
            data = msgspec.json.encode({"tokens": list(tokens.values())})
            replace_file(self._path, msgspec.json.format(data, indent=2) + b"\n")
        return changed

    def _tokens(self) -> dict[str, ApiToken]:
        try:
            return self._file.read()
        except OSError as error:
            message = f"{self._path} cannot be read: {error.strerror or error}"
            raise StoreError(message) from error

    def _parse(self, data: bytes | None) -> dict[str, ApiToken]:
        if data is None:
            return {}
        try:
            found = msgspec.json.decode(data, type=dict[str, list[ApiToken]])["tokens"]
        except (msgspec.MsgspecError, KeyError) as error:
            message = (
                f"{self._path} is damaged ({error}); mend it, or delete it and make new tokens"
            )
            raise StoreError(message) from error
        return {token.id: token for token in found}


def _find(tokens: dict[str, ApiToken], name: str) -> ApiToken:
    for token in tokens.values():
        if name in (token.id, token.name):
            return token
    known = ", ".join(token.name for token in tokens.values()) or "none"
    message = f"there is no token {name[:_MAX_NAME_CHARS]!r}; there are: {known}"
    raise TokenNotFoundError(message)


def _put(tokens: dict[str, ApiToken], token: ApiToken) -> ApiToken:
    name = token.name
    if not name.strip() or len(name) > _MAX_NAME_CHARS or not name.isprintable():
        message = (
            f"{name[:_MAX_NAME_CHARS]!r} is no name; it must be 1 to {_MAX_NAME_CHARS} characters"
        )
        raise InvalidRequestError(message, param="name")
    if any(name in (other.id, other.name) for other in tokens.values() if other.id != token.id):
        message = f"there is a token {name!r} already; take another name, or revoke that one"
        raise InvalidRequestError(message, param="name")
    tokens[token.id] = token
    return token


def _checked(permissions: Iterable[str]) -> tuple[Permission, ...]:
    given = set(permissions)
    unknown = sorted(given.difference(PERMISSIONS))
    if unknown or not given:
        what = f"{', '.join(unknown)} is no permission" if unknown else "a token needs a permission"
        message = f"{what}; there are: {', '.join(PERMISSIONS)}"
        raise InvalidRequestError(message, param="permissions")
    return tuple(name for name in PERMISSIONS if name in given)
