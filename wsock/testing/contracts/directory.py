"""What every :class:`wsock.interfaces.IDirectory` is held to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from zope.interface.verify import verifyObject

from wsock.errors import Conflict
from wsock.interfaces import Account, App, Endpoint, IDirectory, Key

if TYPE_CHECKING:
    from twisted.trial.unittest import TestCase
else:
    TestCase = object

__all__ = ["DirectoryContract"]

APP = App(
    id="shop",
    name="Sh\u00f6p",
    created_at=1_700_000_000,
    is_enabled=False,
    allowed_origins=("https://a", "*.b"),
)
KEY = Key(
    id="key-1",
    app="shop",
    name="Server",
    created_at=1_700_000_001,
    api_key_hash="ab" * 32,
    algorithm="HS256",
    secret="s\u00e9cret\n",
    issuer="https://issuer",
    audience="wsock",
    permissions={"orders:*": ["publish", "subscribe"], "*": []},
    client_ids="user-*",
    expires_at=1_800_000_000,
    is_revoked=True,
)
PLAIN_KEY = Key(id="key-2", app="shop", name="Browser", created_at=1)
ACCOUNT = Account(
    id="account-1", email="\u00c9mile@Example.org", password_hash="$argon2id$x", created_at=2, is_operator=True
)

ENDPOINT = Endpoint(
    id="endpoint-2",
    app="shop",
    url="https://h\u00f6oks.example.org/in?a=1",
    created_at=1_700_000_002,
    events=("presence.*", "message.published"),
    channels="orders:*",
    is_enabled=False,
)
PLAIN_ENDPOINT = Endpoint(id="endpoint-1", app="shop", url="https://example.org", created_at=1)


class DirectoryContract(TestCase):
    """Mix it in and provide ``make_directory``, which makes an empty directory."""

    make_directory: Callable[[], Awaitable[IDirectory]]
    directory: IDirectory

    async def setUp(self) -> None:  # type: ignore[override]  # trial awaits it
        """Makes a new one."""
        self.directory = await self.make_directory()

    async def test_provides_the_interface(self) -> None:
        """The directory has the methods of IDirectory, with their arguments."""
        verifyObject(IDirectory, self.directory)

    async def test_new_directory_is_empty(self) -> None:
        """Before the first app nothing is found."""
        self.assertTrue(await self.directory.is_empty())
        self.assertEqual(await self.directory.apps(), [])
        self.assertIsNone(await self.directory.app("shop"))
        self.assertIsNone(await self.directory.key("key-1"))
        self.assertIsNone(await self.directory.key_by_hash("ab" * 32))
        self.assertIsNone(await self.directory.account_by_email("a@example.org"))

    async def test_what_is_created_is_found(self) -> None:
        """App, keys and account come back with every field as it was."""
        await self.directory.create(APP, [KEY, PLAIN_KEY], ACCOUNT)

        self.assertFalse(await self.directory.is_empty())
        self.assertEqual(await self.directory.app("shop"), APP)
        self.assertEqual(await self.directory.key("key-1"), KEY)
        self.assertEqual(await self.directory.key("key-2"), PLAIN_KEY)
        self.assertEqual(await self.directory.key_by_hash("ab" * 32), KEY)
        self.assertEqual(await self.directory.account_by_email(ACCOUNT.email), ACCOUNT)

    async def test_apps_are_in_the_order_of_their_ids(self) -> None:
        """All apps are told, whatever the order in which they were created."""
        apps = {id: App(id=id, name=id, created_at=1) for id in ("b", "c", "B", "\u00e9", "a")}
        for id, app in apps.items():
            account = Account(id=id, email=f"{id.encode().hex()}@example.org", password_hash="x", created_at=1)
            await self.directory.create(app, [], account)

        self.assertEqual(await self.directory.apps(), [apps[id] for id in ("B", "a", "b", "c", "\u00e9")])

    async def test_email_is_compared_without_case(self) -> None:
        """Every way to write an address finds the one account."""
        await self.directory.create(APP, [], ACCOUNT)

        self.assertEqual(await self.directory.account_by_email("\u00e9MILE@example.ORG"), ACCOUNT)

    async def test_key_without_api_key_is_not_found_by_hash(self) -> None:
        """An empty hash finds nothing, and several keys may have none."""
        await self.directory.create(APP, [PLAIN_KEY, Key(id="key-3", app="shop", name="Third", created_at=1)], ACCOUNT)

        self.assertIsNone(await self.directory.key_by_hash(""))

    async def test_taken_is_refused_as_a_whole(self) -> None:
        """When an id, an API key or the e-mail is taken, nothing is stored."""
        await self.directory.create(APP, [KEY], ACCOUNT)
        other = App(id="other", name="Other", created_at=1)
        free = Account(id="account-2", email="free@example.org", password_hash="x", created_at=1)
        taken_email = Account(id="account-3", email=ACCOUNT.email.upper(), password_hash="x", created_at=1)
        taken_account = Account(id="account-1", email="free@example.org", password_hash="x", created_at=1)

        for app, keys, account in (
            (APP, [], free),
            (other, [_other_key("new", ""), _other_key("key-1", "")], free),
            (other, [_other_key("new", "ab" * 32)], free),
            (other, [_other_key("new", "cd"), _other_key("new-2", "cd")], free),
            (other, [_other_key("new", "")], taken_email),
            (other, [_other_key("new", "")], taken_account),
        ):
            with self.assertRaises(Conflict):
                await self.directory.create(app, keys, account)
            self.assertIsNone(await self.directory.app("other"))
            self.assertIsNone(await self.directory.key("new"))
            self.assertIsNone(await self.directory.account_by_email("free@example.org"))

    async def test_key_of_another_app_is_refused(self) -> None:
        """An app is created with its own keys only."""
        with self.assertRaises(Conflict):
            await self.directory.create(APP, [_other_key("new", "")], ACCOUNT)

        self.assertTrue(await self.directory.is_empty())

    async def test_endpoints_of_an_app(self) -> None:
        """They come back with every field as it was, in the order of their ids; those of other apps are apart."""
        await self.directory.create(APP, [], ACCOUNT)
        account = Account(id="account-2", email="b@example.org", password_hash="x", created_at=1)
        await self.directory.create(App(id="other", name="Other", created_at=1), [], account)
        theirs = Endpoint(id="endpoint-3", app="other", url="https://example.org", created_at=1)

        for endpoint in (ENDPOINT, theirs, PLAIN_ENDPOINT):
            await self.directory.add_endpoint(endpoint)

        self.assertEqual(await self.directory.endpoints("shop"), [PLAIN_ENDPOINT, ENDPOINT])
        self.assertEqual(await self.directory.endpoints("other"), [theirs])
        self.assertEqual(await self.directory.endpoints("nobody"), [])

    async def test_endpoint_that_does_not_fit_is_refused(self) -> None:
        """An id is taken once, whatever the app, and an endpoint belongs to an app that is there."""
        await self.directory.create(APP, [], ACCOUNT)
        await self.directory.add_endpoint(ENDPOINT)

        for id, app in (("endpoint-2", "shop"), ("endpoint-9", "other")):
            with self.assertRaises(Conflict):
                await self.directory.add_endpoint(Endpoint(id=id, app=app, url="https://b", created_at=1))

        self.assertEqual(await self.directory.endpoints("shop"), [ENDPOINT])
        self.assertEqual(await self.directory.endpoints("other"), [])


def _other_key(id: str, api_key_hash: str) -> Key:
    return Key(id=id, app="other", name="Key", created_at=1, api_key_hash=api_key_hash)
