"""Apps, keys and accounts in memory: for ``--dev`` and for tests."""

from __future__ import annotations

from zope.interface import implementer

from wsock.interfaces import Account, App, Endpoint, IDirectory, Key

__all__ = ["MemoryDirectory"]


@implementer(IDirectory)
class MemoryDirectory:
    """Keeps what was created for as long as the process lives."""

    def __init__(self) -> None:
        self._apps: dict[str, App] = {}
        self._keys: dict[str, Key] = {}
        self._accounts: dict[str, Account] = {}
        self._endpoints: dict[str, Endpoint] = {}

    async def app(self, id: str) -> App | None:
        """The app of this id."""
        return self._apps.get(id)

    async def apps(self) -> list[App]:
        """All apps, in the order of their ids."""
        return [self._apps[id] for id in sorted(self._apps)]

    async def key(self, id: str) -> Key | None:
        """The key of this id."""
        return self._keys.get(id)

    async def key_by_hash(self, api_key_hash: str) -> Key | None:
        """The key whose API key has this SHA-256 in hex; a key without an API key is never found."""
        return self._by_hash().get(api_key_hash)

    async def account_by_email(self, email: str) -> Account | None:
        """The account of this e-mail address, compared without case."""
        return self._accounts.get(email.casefold())

    async def endpoints(self, app: str) -> list[Endpoint]:
        """The endpoints of this app, in the order of their ids."""
        own = (endpoint for endpoint in self._endpoints.values() if endpoint.app == app)
        return sorted(own, key=lambda endpoint: endpoint.id)

    async def add_endpoint(self, endpoint: Endpoint) -> None:
        """Stores an endpoint. Raises ``ValueError`` when its id is taken or its app does not exist."""
        if endpoint.app not in self._apps:
            raise ValueError("there is no app with this id")
        if endpoint.id in self._endpoints:
            raise ValueError("an endpoint has this id already")
        self._endpoints[endpoint.id] = endpoint

    async def is_empty(self) -> bool:
        """Whether there is no app yet."""
        return not self._apps

    async def create(self, app: App, keys: list[Key], account: Account) -> None:
        """Stores them all or none. Raises ``ValueError`` when an id, an API key or the e-mail is taken."""
        self._check(app, keys, account)
        self._apps[app.id] = app
        self._keys.update((key.id, key) for key in keys)
        self._accounts[account.email.casefold()] = account

    def _check(self, app: App, keys: list[Key], account: Account) -> None:
        if app.id in self._apps:
            raise ValueError("an app has this id already")
        for place, key in enumerate(keys):
            self._check_key(app, key, keys[:place])
        if account.email.casefold() in self._accounts:
            raise ValueError("an account has this e-mail address already")
        if any(account.id == other.id for other in self._accounts.values()):
            raise ValueError("an account has this id already")

    def _check_key(self, app: App, key: Key, before: list[Key]) -> None:
        if key.app != app.id:
            raise ValueError(f"key {key.id} belongs to app {key.app}, not to {app.id}")
        if key.id in self._keys or any(key.id == other.id for other in before):
            raise ValueError("a key has this id already")
        hashes = {other.api_key_hash for other in before if other.api_key_hash}
        if key.api_key_hash in self._by_hash() or key.api_key_hash in hashes:
            raise ValueError("a key has this API key already")

    def _by_hash(self) -> dict[str, Key]:
        return {key.api_key_hash: key for key in self._keys.values() if key.api_key_hash}
