"""Who may do what: recognises tokens and slows down whoever guesses them. Runs on the event loop; knows no HTTP."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from slipstream.base.errors import (
    AccessDeniedError,
    AuthenticationError,
    StoreError,
    TooManyAttemptsError,
)
from slipstream.runtime.tokens import id_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from slipstream.runtime.tokens import Permission, TokenStore

_log = logging.getLogger(__name__)
MAX_FAILURES = 10
REFILL_S = 6.0
_MAX_KEYS = 4096
_MAKE_ONE = "`slipstream token create NAME` makes one"


class FailureLimit:
    """Counts failures by key in a bucket that empties by one every `refill_s`. O(1); forgets the longest unseen keys.

    Args:
        clock: Seconds that only grow.
        most: Failures a key may have at once.
        refill_s: Seconds after which one of them is forgiven.
    """

    def __init__(
        self, clock: Callable[[], float], most: int = MAX_FAILURES, refill_s: float = REFILL_S
    ) -> None:
        self._clock = clock
        self._most = most
        self._refill_s = refill_s
        self._empty_at_s: OrderedDict[tuple[str, str], float] = OrderedDict()

    def wait_s(self, key: tuple[str, str]) -> float:
        """Return the seconds until the next attempt is let through; 0 if it is now."""
        full_s = (self._most - 1) * self._refill_s
        return max(0.0, self._empty_at_s.get(key, 0.0) - self._clock() - full_s)

    def note(self, key: tuple[str, str]) -> None:
        """Count a failure."""
        now_s = self._clock()
        self._empty_at_s[key] = max(now_s, self._empty_at_s.get(key, 0.0)) + self._refill_s
        self._empty_at_s.move_to_end(key)
        if len(self._empty_at_s) > _MAX_KEYS:
            self._empty_at_s.popitem(last=False)


class Access:
    """Decides about each request.

    After ten failures in a row an address has to wait, six seconds for each attempt, and is not told whether its
    guess was right. Failures count by address and token id: who guesses locks out neither other addresses nor, on
    its own, the tokens that are not guessed at.

    Args:
        tokens: Those that were given out.
        run_key: A secret that opens everything while this server runs, for this user's own command line.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        tokens: TokenStore,
        run_key: str | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tokens = tokens
        self._run_key = run_key
        self._failures = FailureLimit(clock)
        self._told: str | None = None

    def check(self, secret: str | None, address: str, permission: Permission) -> None:
        """Let a request through or raise.

        Args:
            secret: What it brought as a token, None for nothing.
            address: Of the client.
            permission: What it needs.

        Raises:
            AuthenticationError: no token, or none that was given out.
            AccessDeniedError: a token without this permission.
            TooManyAttemptsError: too many wrong ones from there; `retry_after_s` says when to try again.
        """
        if secret is None:
            message = (
                "this server wants an API token, as `Authorization: Bearer sk-lm-…` or `x-api-key`; "
                + _MAKE_ONE
            )
            raise AuthenticationError(message)
        if self._run_key is not None and hmac.compare_digest(
            secret.encode("utf-8", "surrogatepass"), self._run_key.encode()
        ):
            return
        try:
            token_id = id_of(secret)
            known = token_id is not None and self._tokens.has(token_id)
            key = (_network_of(address), token_id if known and token_id else "")
            wait_s = self._failures.wait_s(key)
            if wait_s > 0:
                raise TooManyAttemptsError(wait_s)
            token = self._tokens.recognise(secret)
        except StoreError as error:
            self._tell(error)
            message = "the tokens of this server cannot be read; its log says why"
            raise AuthenticationError(message) from error
        if token is None:
            self._failures.note(key)
            message = f"this API token is not known here, or was revoked; {_MAKE_ONE}"
            raise AuthenticationError(message)
        if permission not in token.permissions:
            message = (
                f"the token {token.name!r} lacks the permission {permission!r}; it has: "
                f"{', '.join(token.permissions)} (`slipstream token edit` changes that)"
            )
            raise AccessDeniedError(message)

    def _tell(self, error: StoreError) -> None:
        """Log a damaged file once, not at every request."""
        if str(error) != self._told:
            self._told = str(error)
            _log.error("no token is accepted: %s", error)


def _network_of(address: str) -> str:
    """Return what one guesser has: an IPv4 address, or the /64 network of an IPv6 one."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)
