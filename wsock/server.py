"""The composition root: all parts of one server, put together, started and ended in order.

The one place that names concrete classes. Ports are bound first, so that a busy one ends the process before anything
was created; until the stores are open, ``/ready`` and upgrades answer 503.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import IResource

from wsock.config import Config, endpoints
from wsock.edges.doorway import DoorFactory
from wsock.edges.gate import WebSocketGate
from wsock.edges.http import HttpEdge, build_registry, build_site, node_measures
from wsock.edges.listening import tune_listener
from wsock.edges.websocket import ConnectionLimits
from wsock.errors import ConfigError
from wsock.interfaces import IDirectory, IMailSender, IPushProvider
from wsock.plane import ControlPlane, PlaneSettings
from wsock.protocol.rates import Rate, Rates
from wsock.protocol.session import SessionLimits
from wsock.providers.registry import push_providers
from wsock.records import Plan
from wsock.services.addresses import Guard, Resolve
from wsock.services.app_settings import Bounds
from wsock.services.auth import Auth
from wsock.services.backlog import Backlog
from wsock.services.census import Census
from wsock.services.control import Control
from wsock.services.delivery import Delivering, Terms
from wsock.services.events import Events, Overheard
from wsock.services.fetching import Fetcher
from wsock.services.housekeeping import Housekeeping
from wsock.services.hub import Hub
from wsock.services.jwks import KeySets
from wsock.services.key_use import KeyUse
from wsock.services.limits import Limits, Tally
from wsock.services.mail import LogMailSender
from wsock.services.messages import Messages
from wsock.services.meters import Kept, Meters
from wsock.services.outbox import Outbox
from wsock.services.outgoing import Outgoing
from wsock.services.persister import Persister
from wsock.services.presence import Presence
from wsock.services.probe import ReactorProbe
from wsock.services.provisioning import Provisioned, add_plans, dev_records, provision, write_credentials
from wsock.services.pushing import Pushing
from wsock.services.quotas import Quotas
from wsock.services.rates import RateLimiter
from wsock.services.rules import Defaults
from wsock.services.sealed import SealedDirectory
from wsock.services.tenants import Tenants
from wsock.services.turn import Turn
from wsock.services.vault import Vault, keep_master_keys
from wsock.services.watch import Watch
from wsock.stores import Stores, build_stores
from wsock.verbs.peer import Services

__all__ = ["Server"]

_CREDENTIALS = "credentials.txt"
_MASTER_KEY = "master.key"
_SWEPT_AT_ONCE = 1000
_DAY_SECONDS = 86_400
_GATHER_SECONDS = 0.1
"""What is to be stored gathers for so long under load. Nobody waits for it: history is read from Redis as well."""


def _stores(config: Config, reactor: Any, now: Callable[[], float], new_name: Callable[[], str]) -> Stores:
    if not config.redis.urls:
        return build_stores(config, reactor, now, new_name)
    from wsock.cluster import build_cluster  # costly, and not needed by a single node

    return build_cluster(config, reactor, now, new_name)


def _rate(events: float, burst: int) -> Rate | None:
    return Rate(events, burst=burst) if events else None


def _to_terminal(text: str) -> None:
    # Under systemd the terminal is the journal, which others may read: there, the file has to do.
    if "JOURNAL_STREAM" not in os.environ:
        print(text, file=sys.__stderr__, flush=True)


class Server(Service):
    """A whole wsock server as one service.

    ``reactor`` is Twisted's, ``now`` the wall clock in seconds, ``random`` gives unpredictable bytes, and ``show``
    shows the credentials of a first start to whoever started it. By ``monotonic``, a clock that nobody sets, and
    ``cpu``, the CPU seconds of the calling thread, the reactor is watched. Embed it with ``setServiceParent``;
    ``started()`` tells when it serves. In process, :attr:`messages` publishes and reads history and :attr:`presence`
    tells who is there; :attr:`tally` counts what was beyond a rate. ``mail`` sends what people are told by mail, by
    default to the log; ``push`` what goes to phones and browsers, by platform; ``resolve`` looks up the hosts that
    webhooks and others are sent to.
    """

    _log = Logger()

    def __init__(
        self,
        config: Config,
        *,
        reactor: Any,
        now: Callable[[], float] = time.time,
        random: Callable[[int], bytes] = os.urandom,
        monotonic: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.thread_time,
        show: Callable[[str], None] = _to_terminal,
        mail: IMailSender | None = None,
        push: Mapping[str, IPushProvider] | None = None,
        resolve: Resolve | None = None,
    ) -> None:
        self.config = config
        self._reactor = reactor
        self._now = now
        self._random = random
        self._monotonic = monotonic
        self._cpu = cpu
        self._show = show
        self._mail = mail or LogMailSender()
        self._resolve = resolve
        self._endpoints = endpoints(config, reactor)
        self._listening: list[Deferred[IListeningPort]] = []
        self._ports: list[IListeningPort] = []
        self._starting: Deferred[None] | None = None
        self._outcome: Failure | None = None
        self._state = "starting"
        self.stores = _stores(config, reactor, now, lambda: random(6).hex())
        self._provisioned: Provisioned | None = None
        self._sealed = SealedDirectory(self.stores.directory, Vault(random))
        self.directory: IDirectory = self.stores.directory if config.dev else self._sealed
        self._build_accounts()
        self._build_meters()
        self._build_push(push)
        self._build_services()
        self._build_edges()

    # Building.

    def _build_accounts(self) -> None:
        """What the control plane is made of."""
        settings = self.config.accounts
        self.plane = plane = ControlPlane(
            self.directory,
            self.stores.audit,
            self.stores.counters,
            self._mail,
            self._reactor,
            self._now,
            self._random,
            PlaneSettings(
                open_sign_up=settings.open_sign_up,
                default_plan=settings.default_plan,
                url=settings.url,
                session_token_seconds=settings.session_token_seconds,
                session_days=settings.session_days,
                logins_per_minute=settings.logins_per_minute,
                sign_ups_per_minute=settings.sign_ups_per_minute,
                resets_per_minute=settings.resets_per_minute,
                requests_per_minute=settings.requests_per_minute,
                cluster_requests_per_minute=self.config.limits.cluster_requests_per_minute,
            ),
        )
        config = self.config
        self.outgoing = Outgoing(
            self._reactor,
            Guard(
                "webhooks.allowed_hosts",
                config.webhooks.allowed_hosts,
                allows_http=True,
                allows_loopback=config.dev,
            ),
            resolve=self._resolve,
        )
        key_guard = Guard("keys.jwks_allowed_hosts", config.keys.jwks_allowed_hosts, allows_loopback=config.dev)
        self._fetcher = Fetcher(self.outgoing, key_guard)
        self._key_sets = KeySets(self._fetcher.fetch, self._now)
        plane.administer(self._bounds(), self._fetcher.check_url)
        self.access, self.audit, self.teams = plane.access, plane.audit, plane.teams
        self.logins, self.accounts, self.access_tokens = plane.logins, plane.accounts, plane.access_tokens

    def _bounds(self) -> Bounds:
        """What the settings of apps may be."""
        config, limits = self.config, self.config.limits
        return Bounds(
            message_bytes=limits.message_bytes,
            history=config.history.enabled,
            history_ttl_seconds=config.history.ttl_seconds,
            recovery_seconds=config.recovery.seconds,
            app_rate=_rate(limits.app_publish_rate, limits.app_publish_burst),
            channel_rate=_rate(limits.channel_publish_rate, limits.channel_publish_burst),
            user_rate=_rate(limits.user_publish_rate, limits.user_publish_burst),
            connection_rate=_rate(limits.connection_rate, int(limits.connection_burst)),
        )

    def _build_meters(self) -> None:
        """What counts for each app, and holds it to its plan."""
        stores, kept = self.stores, self.config.analytics
        self.meters = Meters(
            stores.meters,
            self._reactor,
            self._now,
            # Embedded, the node has the same name at each start; a flush's number must not be taken for an earlier one.
            f"{stores.node}-{self._random(4).hex()}",
            is_alone=not stores.shares_meters,
            kept=Kept(minutes=kept.minute_days, hours=kept.hour_days, days=kept.day_days),
        )
        self.quotas = Quotas(
            self.meters,
            stores.meters,
            self._plan_of,
            warn=lambda *quota: self.events.quota_warning(*quota),
            exceeded=lambda *quota: self.events.quota_exceeded(*quota),
            broker=stores.broker if stores.shares_meters else None,
        )
        self.plane.measure(self.meters, stores.meters, stores.broker, self.quotas)

    def _plan_of(self, app: str) -> Plan | None:
        tenant = self.tenants.get(app)
        return None if tenant is None else tenant.facts.plan

    def _build_push(self, providers: Mapping[str, IPushProvider] | None) -> None:
        """What goes to phones and browsers."""
        stores, settings = self.stores, self.config.push
        self.pushing = Pushing(
            self.directory,
            self.audit,
            self._now,
            self._random,
            self._reactor,
            devices=stores.devices,
            jobs=stores.push_jobs,
            providers=self._push_providers() if providers is None else providers,
            meters=self.meters,
            meter_store=stores.meters,
            quotas=self.quotas,
            present=self._present,
            failed=lambda app, data: self.events.push_failed(app, data),
            node=stores.node,
            contact=settings.contact,
            per_member=settings.devices_per_member,
            kept_seconds=settings.kept_days * _DAY_SECONDS,
        )
        self.plane.push(self.pushing)

    def _push_providers(self) -> Mapping[str, IPushProvider]:
        config = self.config
        return push_providers(
            self._reactor,
            self.outgoing,
            self._now,
            self._random,
            web_push_hosts=config.push.web_hosts,
            allows_loopback=config.dev,
        )

    async def _present(self, app: str, channel: str) -> set[str]:
        return {member.client_id for member in await self.presence.members(app, channel)}

    def _build_services(self) -> None:
        config = self.config
        turn = Turn(self._reactor)
        stores = self.stores
        self.hub = Hub(stores.broker, turn, self.meters)
        self.tally = Tally(is_enforced=config.limits.rate_mode == "enforce")
        self._key_use = KeyUse(self.directory, self._now, self._reactor)
        self.watch = Watch(stores.directory.revision, self._reactor)
        self.tenants = Tenants(stores.directory, self._now, self._defaults())
        self.auth = Auth(
            self.directory,
            self._now,
            accepted=self._key_use.note,
            tenants=self.tenants,
            key_sets=self._key_sets,
        )
        self.messages = Messages(
            stores.broker,
            stores.history,
            self._new_id,
            max_bytes=config.limits.message_bytes,
            keeps_history=config.history.enabled,
            limiter=RateLimiter(stores.counters, self._now, self.tenants.rates, self.tally),
            tenants=self.tenants,
            now=self._now,
            meters=self.meters,
            triggers=self.pushing.triggers,
        )
        # Endpoints without their secrets do for this, and a lost master key must not hold up messages.
        self._outbox = Outbox(stores.directory, stores.outbox, self._now)
        self.events = Events(
            self._outbox, self._reactor, self._now, self._new_id, quiet_seconds=config.webhooks.quiet_seconds
        )
        stores.hear(self.events)
        self.delivering = Delivering(
            stores.outbox,
            self.directory,
            self.outgoing,
            self._reactor,
            self._now,
            # A node that starts again must not be taken for the one that it was.
            f"{stores.node}-{self._random(4).hex()}",
            self._random,
            self._terms(),
            is_alone=stores.is_embedded,
        )
        self._outbox.added = self.delivering.wake
        self.plane.tell(stores.outbox, self.outgoing.check_url, self.delivering.wake)
        stores.presence.listen(Overheard(self.hub, self.events.presence) if stores.is_embedded else self.hub)
        self.presence = Presence(
            stores.presence,
            self._reactor,
            self._now,
            grace_seconds=config.presence.grace_seconds,
            max_data_bytes=config.limits.presence_bytes,
            tenants=self.tenants,
        )
        self._limits = Limits(stores.counters, self._now, self.tally)
        self._housekeeping = Housekeeping(
            self.directory,
            stores.history,
            stores.trim,
            self._reactor,
            self._now,
            ttl_seconds=self.tenants.history_seconds,
            transient_seconds=config.recovery.seconds,
            chores=(
                self.plane.keys.sweep_sometimes,
                self._sweep_records,
                self._expire_audit,
                self.meters.expire,
                self.pushing.sweep,
                self.delivering.expire,
            ),
        )
        self._persisters = [
            Persister(
                queue,
                stores.history,
                self._outbox.record,
                self._reactor,
                is_ordered=self._outbox.is_ordered,
                gather_seconds=_GATHER_SECONDS,
            )
            for queue in stores.queues
        ]
        self.backlog = Backlog(stores.queues, config.redis.backlog, self._reactor)
        self._probe = ReactorProbe(self._reactor, self._monotonic, self._cpu)
        self._services = Services(
            auth=self.auth,
            broker=stores.broker,
            hub=self.hub,
            messages=self.messages,
            presence=self.presence,
            turn=turn,
            clock=self._reactor,
            now=self._now,
            max_channels=config.limits.channels_per_connection,
            meters=self.meters,
            quotas=self.quotas,
            tenants=self.tenants,
            events=self.events,
        )

    def _terms(self) -> Terms:
        """How webhooks are sent."""
        settings = self.config.webhooks
        return Terms(
            retry_seconds=settings.retry_seconds,
            timeout_seconds=settings.timeout_seconds,
            per_endpoint=settings.per_endpoint,
            at_once=settings.at_once,
            kept_seconds=settings.kept_days * _DAY_SECONDS,
        )

    def _defaults(self) -> Defaults:
        """What holds for apps without settings of their own."""
        config = self.config
        return Defaults(
            message_bytes=config.limits.message_bytes,
            history=config.history.enabled,
            history_ttl_seconds=config.history.ttl_seconds,
            presence_grace_seconds=config.presence.grace_seconds,
            rates=self._rates(),
        )

    def _rates(self) -> Rates | None:
        """``None`` where no publish is limited: then none pays for it."""
        limits = self.config.limits
        channel = _rate(limits.channel_publish_rate, limits.channel_publish_burst)
        rates = Rates(
            app=_rate(limits.app_publish_rate, limits.app_publish_burst),
            user=_rate(limits.user_publish_rate, limits.user_publish_burst),
            channels=() if channel is None else (("*", channel),),
        )
        return None if rates == Rates() else rates

    def _build_edges(self) -> None:
        limits = self.config.limits
        self.gate = WebSocketGate(
            self._services,
            self._limits,
            self._new_id,
            lambda: self._state == "ready",
            session_limits=SessionLimits(
                rate=limits.connection_rate,
                burst=max(limits.connection_burst, limits.connection_rate),
                exceeded=lambda: self.tally.exceeded("connection"),
                malformed=limits.malformed_per_minute,
                heartbeat_seconds=self.config.heartbeat.seconds,
            ),
            connection_limits=ConnectionLimits(
                frame_bytes=limits.frame_bytes,
                output_bytes=limits.output_bytes,
                in_flight_requests=limits.in_flight_requests,
                in_flight_bytes=limits.in_flight_bytes,
            ),
            connect_rate=limits.connect_rate_per_ip,
            max_connections=limits.connections,
            compresses=self.config.websocket.compression,
            tally=self.tally,
        )
        self._key_use.live = lambda: (connection.peer.credential for connection in self.gate.connections())
        # In this order: nobody is let in again by what was remembered, then who is in is looked at.
        for heard in (
            self.auth.forget,
            self.plane.changed,
            self.tenants.reload,
            self.quotas.reload,
            self.pushing.accesses.forget,
            self._outbox.forget,
            self.delivering.forget,
            self.gate.crowds.recheck,
        ):
            self.watch.listen(heard)
        self.census = Census(
            Control(self.stores.control),
            self.hub,
            self.gate,
            self.stores.broker,
            self.messages,
            self.presence,
            node=self.stores.node,
        )
        self.plane.oversee(self.census, self.messages, self.presence)
        measures = node_measures(
            gate=self.gate,
            hub=self.hub,
            turn=self._services.turn,
            messages=self.messages,
            batching=self.stores.batching,
            persisters=self._persisters,
            backlog=self.backlog,
            outbox=self._outbox,
            delivering=self.delivering,
            probe=self._probe,
            tally=self.tally,
        )
        self._http = HttpEdge(
            auth=self.auth,
            gate=self.gate,
            state=self._state_now,
            registry=build_registry(measures),
            cors_origins=self.config.http.cors_origins,
            trusted_proxies=self.config.http.trusted_proxies,
            max_body_bytes=limits.http_body_bytes,
            groups=self.plane.groups,
            callers=self.plane.callers(self.auth),
            changed=self.watch.poke,
        )
        self._site = site = build_site(self._http.resource(), self._reactor, max_body_bytes=limits.http_body_bytes)
        self.doors = DoorFactory(
            self.gate,
            site.buildProtocol,
            self._reactor,
            max_head_bytes=limits.head_bytes,
            handshake_seconds=limits.handshake_seconds,
            trusted_proxies=self.config.http.trusted_proxies,
        )
        self._sweeping = LoopingCall(self.doors.sweep)
        self._sweeping.clock = self._reactor

    def _state_now(self) -> str:
        """The state, for balancers: a server without its stores is not to be given new clients."""
        return "unavailable" if self._state == "ready" and not self.stores.is_up() else self._state

    def resource(self) -> IResource:
        """The server as a resource for somebody else's site: REST below it, and WebSocket upgrades on any path."""
        return self._http.resource()

    def _new_id(self) -> str:
        return self._random(8).hex()

    # Starting.

    def privilegedStartService(self) -> None:
        """Binds the ports, while the process may still bind low ones."""
        super().privilegedStartService()
        self._listen()

    def startService(self) -> None:
        """Opens the stores and begins to serve; see :meth:`started`."""
        super().startService()
        self._listen()
        self._starting = Deferred.fromCoroutine(self._start())

    def started(self) -> Deferred[None]:
        """Fires when the server serves; fails when it can't, with what an operator must know."""
        waiting: Deferred[None] = Deferred()

        def tell(outcome: None | Failure) -> None:
            self._outcome = self._outcome or outcome
            waiting.callback(self._outcome)

        assert self._starting is not None, "the service was not started"
        self._starting.addBoth(tell)
        return waiting

    def _listen(self) -> None:
        if not self._listening:
            self._listening = [endpoint.listen(self.doors) for endpoint in self._endpoints]

    async def _start(self) -> None:
        for listening in self._listening:
            port = await listening
            self._ports.append(port)
            tune_listener(port)
        await self.stores.start()
        if self.config.dev:
            await self.directory.add(dev_records().records)
            self.plane.unlock([self._random(32)])
        else:
            keys = self._master_keys()
            await self._sealed.unlock(keys)
            self.plane.unlock(keys)
            self._provisioned = await provision(
                self.directory, self._now, self._random, self._in_thread, self._keep_credentials
            )
        await add_plans(self.directory)
        await self._check_default_plan()
        for service in self._running():
            service.startService()
        self._sweeping.start(1.0, now=False)
        self._announce()
        self._state = "ready"

    async def _check_default_plan(self) -> None:
        plan = self.config.accounts.default_plan
        if await self.directory.find(Plan, plan) is None:
            text = f"accounts.default_plan: there is no plan '{plan}'; it takes the id of a plan that is there, such as"
            raise ConfigError(f"{text} 'unlimited': start without the setting to make another one")

    def _master_keys(self) -> list[bytes]:
        config = self.config
        # What a node makes for itself, no other one has.
        beside = None if config.redis.urls else Path(config.data) / _MASTER_KEY
        return keep_master_keys(config.vault.keys, config.vault.key_file, beside, self._random)

    async def _sweep_records(self) -> None:
        await self.directory.sweep(int(self._now() * 1000), _SWEPT_AT_ONCE)

    async def _expire_audit(self) -> None:
        await self.audit.expire(self.config.accounts.audit_days * _DAY_SECONDS)

    def _in_thread(self, function: Callable[[str], str], argument: str) -> Deferred[str]:
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), function, argument)

    def _keep_credentials(self, made: Provisioned) -> None:
        try:
            Path(self.config.data).mkdir(mode=0o700, parents=True, exist_ok=True)
            write_credentials(Path(self.config.data) / _CREDENTIALS, made)
        except OSError as e:
            raise ConfigError(f"data: the credentials can't be written to {e.filename}: {e.strerror}") from e

    def _announce(self) -> None:
        """Says where the server is, and shows the credentials of a first start: to people, never to the log."""
        made = self._provisioned
        if made is not None:
            path = Path(self.config.data) / _CREDENTIALS
            self._log.info("first start: the credentials are in {path}", path=str(path))
            self._show(f"\nThis is the first start. These credentials are shown once:\n\n{made.text}\n")
        for port in self._ports:
            self._log.info("wsock serves on {address}", address=_address(port))
        if self.config.dev:
            self._log.info("development mode: in memory, API key 'demo'; never expose it")

    # Ending.

    def stopService(self) -> Deferred[None]:
        """Ends in phases: no new connections, then the connections, the services, the stores."""
        super().stopService()
        self._state = "draining"
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
        self.gate.stop_admitting()
        seconds = self.config.shutdown.seconds
        for phase in (self._end_connections, self._stop_listening, self._stop_services, self._close_stores):
            ending = Deferred.fromCoroutine(phase()).addTimeout(seconds, self._reactor)
            try:
                await ending
            except Exception:
                # The phases behind it must come all the same; what was left undone stands in the log.
                self._log.failure("ending: {phase} did not end in time or failed", phase=phase.__name__)

    async def _end_connections(self) -> None:
        if self._resets():
            await self.gate.drain(self.config.shutdown.batch)
        else:
            await self.gate.close(self.config.shutdown.batch)

    def _resets(self) -> bool:
        """Whether clients will find a server when they come back at once: one that shares or inherits the socket."""
        mode = self.config.shutdown.mode
        if mode == "auto":
            inherited = any(text.startswith(("systemd:", "adopt")) for text in self.config.listen)
            return inherited or self.config.reuse_port
        return mode == "reset"

    async def _stop_listening(self) -> None:
        if self._sweeping.running:
            self._sweeping.stop()
        self._site.end_connections()
        await gatherResults([maybeDeferred(port.stopListening) for port in self._ports], consumeErrors=True)

    async def _stop_services(self) -> None:
        await self._http.stop()
        await self.logins.stop()
        await self._key_sets.stop()
        for service in reversed(self._running()):
            if service.running:
                await maybeDeferred(service.stopService)
        await self.outgoing.stop()
        await self.pushing.stop()

    def _running(self) -> list[Service]:
        """The services that run while the server serves; the last one needs the others."""
        return [
            self._probe,
            self._key_use,
            self.meters,
            self.events,
            *self._persisters,
            self.backlog,
            self.delivering,
            self.pushing.worker,
            self.presence,
            self._housekeeping,
            self.watch,
            self.gate,
        ]

    async def _close_stores(self) -> None:
        await self.stores.stop()


def _address(port: IListeningPort) -> str:
    """Where the port listens, as people write it."""
    match port.getHost():
        case IPv4Address(host=host, port=number):
            return f"{host}:{number}"
        case IPv6Address(host=host, port=number):
            return f"[{host}]:{number}"
        case other:
            return str(other)
