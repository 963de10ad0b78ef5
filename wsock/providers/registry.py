"""Which platforms there are. Another one is a module with its :class:`IPushProvider`, and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from wsock.interfaces import IPushProvider, Posting
from wsock.providers.apns import HOSTS, Apns
from wsock.providers.fcm import URL, Fcm
from wsock.providers.h2agent import H2Agent
from wsock.providers.webpush import WebPush

__all__ = ["push_providers"]


def push_providers(
    reactor: Any,
    posting: Posting,
    now: Callable[[], float],
    random: Callable[[int], bytes],
    *,
    web_push_hosts: Sequence[str] = (),
    allows_loopback: bool = False,
    fcm_url: str = URL,
    apns_hosts: Mapping[str, str] = HOSTS,
    apns_trust_root: Any = None,
) -> dict[str, IPushProvider]:
    """A provider for each platform, by its name.

    ``web_push_hosts``, ``host`` or ``*.host``, are the only push services of browsers that are sent to, where there
    are any. The last three are for servers that stand in for Google's and Apple's.
    """
    providers: list[IPushProvider] = [
        WebPush(posting, now, random, hosts=web_push_hosts, allows_loopback=allows_loopback),
        Fcm(posting, now, url=fcm_url),
        Apns(lambda: H2Agent(reactor, trust_root=apns_trust_root), reactor, now, hosts=apns_hosts),
    ]
    return {provider.platform: provider for provider in providers}
