"""The sets of public keys that issuers of tokens publish (JWKS, RFC 7517 §5): fetched now and then, and remembered.

Theory of operation. A set is fetched when a token first needs it, again when it is an hour old, and when a token names
a key that is not in it: so an issuer may change its keys whenever it likes. Anybody can bring that last one about, so
it happens every 30 seconds at most, whatever comes. Fetches of a set that are wanted at once are one. A fetch that
fails changes nothing: the set that is known stays good.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import msgspec
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.logger import Logger
from twisted.python.failure import Failure

from wsock.errors import Unavailable
from wsock.services.directory_cache import Recent
from wsock.services.fetching import FetchFailed
from wsock.services.jwts import Jwk, public_jwk

__all__ = ["KeySets"]

REFRESH_SECONDS = 3600.0
UNKNOWN_SECONDS = 30.0
RETRY_SECONDS = 5.0
_MAX_KEYS = 100
_MAX_SETS = 1000

_Keys = dict[tuple[str, str], Jwk]


class _Set(msgspec.Struct):
    keys: list[dict[str, Any]]


@dataclass(slots=True)
class _Source:
    """What is known of one URL; ``keys`` are ``None`` until a fetch has gone well."""

    keys: _Keys | None = None
    fetched_at: float = 0.0
    tried_at: float | None = None
    waiting: list[Deferred[None]] = field(default_factory=list)


class KeySets:
    """Finds keys in sets by their URL. ``fetch`` gives what is at a URL, or raises :class:`FetchFailed`."""

    _log = Logger()

    def __init__(self, fetch: Callable[[str], Awaitable[bytes]], now: Callable[[], float]) -> None:
        self._fetch = fetch
        self._now = now
        self._sources: Recent[str, _Source] = Recent(_MAX_SETS)
        self._fetching: set[Deferred[None]] = set()

    async def find(self, url: str, kid: str, algorithm: str) -> Jwk | None:
        """The key of this id for this algorithm, or ``None`` when the set has none.

        Raises :class:`Unavailable` when no fetch of the set has gone well so far.
        """
        source = self._sources.get(url)
        if source is None:
            source = _Source()
            self._sources.put(url, source)
        if self._is_wanted(source, (kid, algorithm)) and (source.waiting or self._may_try(source)):
            await self._refreshed(url, source)
        if source.keys is None:
            raise Unavailable("the issuer's public keys can't be fetched now: try again; the server's log tells why")
        return source.keys.get((kid, algorithm))

    async def stop(self) -> None:
        """Gives up the fetches that are under way."""
        fetching = list(self._fetching)
        for one in fetching:
            one.cancel()
        await gatherResults(fetching, consumeErrors=True)

    def _is_wanted(self, source: _Source, key: tuple[str, str]) -> bool:
        if source.keys is None or key not in source.keys:
            return True
        return not 0 <= self._now() - source.fetched_at < REFRESH_SECONDS

    def _may_try(self, source: _Source) -> bool:
        pause = RETRY_SECONDS if source.keys is None else UNKNOWN_SECONDS
        return source.tried_at is None or not 0 <= self._now() - source.tried_at < pause

    def _refreshed(self, url: str, source: _Source) -> Deferred[None]:
        """Fires when the fetch that is under way, or a new one, has ended, well or not."""
        result: Deferred[None] = Deferred()
        source.waiting.append(result)
        if len(source.waiting) == 1:
            fetching = Deferred.fromCoroutine(self._refresh(url, source))
            self._fetching.add(fetching)
            fetching.addBoth(self._ended, fetching, source)
        return result

    def _ended(self, outcome: None | Failure, fetching: Deferred[None], source: _Source) -> None:
        self._fetching.discard(fetching)
        waiting, source.waiting = source.waiting, []
        for one in waiting:
            one.callback(None)

    async def _refresh(self, url: str, source: _Source) -> None:
        source.tried_at = self._now()
        try:
            keys = _keys(await self._fetch(url))
        except CancelledError:
            return
        except FetchFailed as e:
            host = urlsplit(url).netloc
            self._log.warn("the keys that {host} publishes can't be fetched: {reason}", host=host, reason=e.reason)
            return
        except Exception:
            self._log.failure("the keys of an issuer could not be fetched")
            return
        source.keys, source.fetched_at = keys, self._now()


def _keys(text: bytes) -> _Keys:
    """The keys of a set that are of use, each for its algorithm."""
    try:
        found = msgspec.json.decode(text, type=_Set).keys
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise FetchFailed("what is there is no JSON Web Key Set: an object with a list of 'keys'") from e
    if len(found) > _MAX_KEYS:
        raise FetchFailed(f"the set has more than {_MAX_KEYS} keys")
    usable = [jwk for jwk in map(public_jwk, found) if jwk is not None]
    return {(jwk.kid, jwk.algorithm): jwk for jwk in usable}
