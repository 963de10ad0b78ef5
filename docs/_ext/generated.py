"""The reference, made from the code: replaces ``<!-- generated: NAME -->`` in a page by what the code says.

Nothing here knows more than the code does, but for one example of each frame: those are tables below, each example is
read or written by the server's own codec, and a frame without one fails the build.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Union

import msgspec
from msgspec import UNSET, Raw, UnsetType

from wsock import config, errors
from wsock.edges.http import HttpEdge, node_measures
from wsock.edges.http.admin.channels import AppChannelGroup
from wsock.edges.http.admin.connections import AppConnectionGroup
from wsock.edges.http.channels import ChannelGroup, ConnectionGroup
from wsock.edges.http.live import Members
from wsock.edges.http.operations import AppOr, Group, Right
from wsock.edges.http.posting import Accepted, AcceptedBatch, Outcome
from wsock.protocol import frames
from wsock.protocol.codec import Codec, encode
from wsock.protocol.frames import HistoryEntry, HistoryPage, Member, Resumed, Token
from wsock.protocol.position import Position
from wsock.records import PLANS, PlanLimits
from wsock.services.roles import PERMISSIONS, Permission
from wsock.testing import InMemoryServer
from wsock.verbs import REQUESTS, VERBS

if TYPE_CHECKING:
    from sphinx.application import Sphinx

__all__ = ["PAGES", "setup"]

_CHANNEL_GROUPS: tuple[type[Group], ...] = (ChannelGroup, ConnectionGroup, AppChannelGroup, AppConnectionGroup)
_REQUESTS: dict[str, dict[str, Any]] = {
    "subscribe": {"channel": "chat", "rewind": 10},
    "unsubscribe": {"channel": "chat"},
    "resume": {"positions": {"chat": {"epoch": "5b0a3c9f71d2", "sequence": 41}}},
    "publish": {"channel": "chat", "id": "7f1c2d3e", "data": {"text": "hello"}},
    "history": {"channel": "chat", "limit": 50, "before": 1767225600000, "direction": "backward"},
    "presence.enter": {"channel": "chat", "data": {"status": "here"}},
    "presence.update": {"channel": "chat", "data": {"status": "away"}},
    "presence.leave": {"channel": "chat"},
    "presence.get": {"channel": "chat"},
    "ping": {},
    "auth": {"token": "eyJhbGciOi..."},
}

_AT = 1767225600123
_MEMBER = Member("ana", Raw(b'{"status":"here"}'), _AT)
_ENTRY = HistoryEntry("7f1c2d3e", "chat", Raw(b'{"text":"hello"}'), "ana", _AT, 42)
_PRESENCE = ("chat", frames.spread_member(_MEMBER), "ana", _AT)
_EVENTS: dict[type[frames.Event], list[frames.Event]] = {
    frames.Subscribed: [frames.Subscribed("chat", "5b0a3c9f71d2", 41)],
    frames.Unsubscribed: [frames.Unsubscribed("chat")],
    frames.MessageEvent: [frames.MessageEvent("chat", "7f1c2d3e", Raw(b'{"text":"hello"}'), _AT, "ana", 42)],
    frames.Ack: [frames.Ack("7f1c2d3e", "chat", _AT, 42), frames.Ack("resume", data=Resumed(["chat"], ["news"]))],
    frames.PresenceEnter: [frames.PresenceEnter(*_PRESENCE)],
    frames.PresenceUpdate: [frames.PresenceUpdate(*_PRESENCE)],
    frames.PresenceLeave: [frames.PresenceLeave(*_PRESENCE, "left")],
    frames.PresenceMembers: [frames.PresenceMembers("chat", [_MEMBER], [_MEMBER])],
    frames.History: [frames.History("chat", HistoryPage("chat", [_ENTRY], False), [_ENTRY], False)],
    frames.ErrorEvent: [
        frames.ErrorEvent(
            "this credential lacks the permission 'publish' on 'chat'", "forbidden", "chat", "7f1c2d3e", UNSET
        )
    ],
    frames.Pong: [frames.Pong()],
    frames.Reconnect: [frames.Reconnect(0)],
}

_TYPES: dict[Any, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "true or false",
    Raw: "any JSON",
    list[str]: "list of strings",
    list[Member]: "list of members",
    list[HistoryEntry]: "list of messages",
    list[Outcome]: "list of outcomes",
    HistoryPage: "page of history",
    Resumed: "outcome of a resume",
    Token: "resume token",
    dict[str, Position]: "object: channel to position",
    **{part: "" for part in (type(None), UnsetType)},
}


# Frames.


def requests() -> str:
    """Every request: what it asks for, how it is answered, its fields, an example that the codec accepts."""
    codec = Codec(REQUESTS)
    return _joined(_request(codec, request, answer) for request, answer in VERBS.items())


def _request(codec: Codec, request: type[frames.Request], answer: Callable[..., Any]) -> Iterator[str]:
    tag = _tag(request)
    example = json.dumps({"action": tag, **_REQUESTS[tag]})
    if type(codec.decode(example.encode())) is not request:
        raise ValueError(f"the example of {tag} is another request")
    yield f"## `{tag}`"
    yield f"{_wire_prose(request)} {_prose(answer.__doc__)}"
    if not request.in_order:
        yield "Requests behind it do not wait for its answer."
    yield from _fields(request)
    yield _code(example)


def events() -> str:
    """Every event: what it says, its fields, and an example from the encoder."""
    return _joined(_event(event) for event in _event_types())


def _event(event: type[frames.Event]) -> Iterator[str]:
    yield f"## `{_tag(event)}`"
    yield _wire_prose(event)
    yield from _fields(event)
    for example in _EVENTS[event]:
        yield _code(encode(example).decode())


def _event_types() -> list[type[frames.Event]]:
    exported = [getattr(frames, name) for name in frames.__all__]
    types = [t for t in exported if isinstance(t, type) and issubclass(t, frames.Event) and t is not frames.Event]
    return sorted(types, key=lambda event: inspect.getsourcelines(event)[1])


def values() -> str:
    """What stands inside events."""
    return _joined(_value(value) for value in (Member, HistoryEntry, HistoryPage, Resumed, Token, Position))


def _value(value: type[msgspec.Struct]) -> Iterator[str]:
    names = {Resumed: "Outcome of a resume", HistoryEntry: "Message of history", HistoryPage: "Page of history"}
    yield f"### {names.get(value, value.__name__.capitalize() if value is not Token else 'Resume token')}"
    yield _wire_prose(value)
    yield from _fields(value)


def _fields(struct: type[msgspec.Struct]) -> Iterator[str]:
    rows = [(f"`{f.encode_name}`", _type(f.type), _presence(f)) for f in msgspec.structs.fields(struct)]
    if rows:
        yield _table(("field", "type", ""), rows)


def _type(annotation: Any) -> str:
    origin = getattr(annotation, "__origin__", None)
    if hasattr(annotation, "__metadata__"):
        return _type(origin)
    if annotation in _TYPES:
        return _TYPES[annotation]
    parts = [_type(part) for part in getattr(annotation, "__args__", ())]
    if not parts or origin not in (None, Union):
        raise ValueError(f"the reference has no words for the type {annotation}: add it to _TYPES")
    return " or ".join(part for part in parts if part)


def _presence(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return ""
    if field.default in (None, UNSET):
        return "may be absent"
    default = field.default
    text = bytes(default).decode() if isinstance(default, Raw) else json.dumps(default)
    return f"may be absent: `{text}`" if default is not False else "`false` if absent"


def _tag(struct: type[msgspec.Struct]) -> str:
    return str(struct.__struct_config__.tag)


# Codes.


def error_codes() -> str:
    """The error codes with their HTTP status."""
    rows = [(f"`{c.value}`", str(errors.HTTP_STATUS[c]), _prose(text)) for c, text in _documented(errors.Code)]
    return _table(("code", "HTTP", "what it says"), rows)


def close_codes() -> str:
    """The close codes."""
    return _table(("code", "what it says"), [(str(int(c)), _prose(t)) for c, t in _documented(errors.CloseCode)])


def _documented(enum: type[Enum]) -> Iterator[tuple[Any, str]]:
    """Each member with the text that follows it in the source."""
    [definition] = ast.parse(inspect.getsource(enum)).body
    assert isinstance(definition, ast.ClassDef)
    texts = {}
    for statement, following in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(statement, ast.Assign) and isinstance(following, ast.Expr):
            assert isinstance(statement.targets[0], ast.Name)
            assert isinstance(following.value, ast.Constant)
            texts[statement.targets[0].id] = str(following.value.value)
    return ((member, texts[member.name]) for member in enum)


# Roles and plans.


def permissions() -> str:
    """What each role may do."""
    rows = []
    for permission, text in _documented(Permission):
        least = PERMISSIONS[permission]
        rows.append((f"`{permission}`", f"`{least}`" if least else "operators only", _prose(text)))
    return _table(("permission", "least role", "what it is for"), rows)


def plans() -> str:
    """What the plans that there are at first allow."""
    rows = []
    for name in PlanLimits.__struct_fields__:
        limits = [getattr(plan.limits, name) for plan in PLANS]
        rows.append((f"`{name}`", *("no limit" if limit is None else f"{limit:,}" for limit in limits)))
    return _table(("", *(f"`{plan.id}`" for plan in PLANS)), rows)


# Settings.


def settings() -> str:
    """Every setting, by section."""
    sections: dict[str, list[config.Setting]] = {}
    for setting in config.describe():
        sections.setdefault(setting.key.rpartition(".")[0], []).append(setting)
    return _joined(_section(name, found) for name, found in sections.items())


def _section(name: str, found: list[config.Setting]) -> Iterator[str]:
    if name:
        yield f"## `[{name}]`"
        yield _prose(type(getattr(config.Config(), name)).__doc__)
    else:
        yield "## At the top of the file"
    for setting in found:
        yield f"`{setting.key}`\n: {_prose(setting.description)}"
        yield f"  Takes {setting.takes}; default {_default(setting)}; environment `{setting.env}`."


def _default(setting: config.Setting) -> str:
    value = setting.default
    return f"`{json.dumps(list(value) if isinstance(value, tuple) else value)}`"


# Metrics and HTTP.


def metrics() -> str:
    """Every metric."""
    # What a metric is can be told without a node to ask for its value.
    nobody: dict[str, Any] = dict.fromkeys(inspect.signature(node_measures).parameters)
    rows = []
    for measure in node_measures(**nobody):
        name = f"{measure.name}_total" if measure.kind == "counter" else measure.name
        rows.append((f"`{name}`", measure.kind, f"`{measure.label}`" if measure.label else "", measure.text))
    return _table(("metric", "kind", "label", "what it says"), rows)


def routes() -> str:
    """Every path, with its method and what it answers."""
    rows = []
    for rule in HttpEdge.app.url_map.iter_rules():
        path = re.sub(r"<(\w+)>", r"{\1}", rule.rule)
        methods = ", ".join(sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}))
        rows.append((methods, f"`{path}`", _prose(getattr(HttpEdge, rule.endpoint).__doc__)))
    return _table(("method", "path", "what it does"), rows)


def channel_operations() -> str:
    """The operations on channels and connections, with what each needs."""
    rows = []
    for operation in (operation for group in _CHANNEL_GROUPS for operation in group.operations()):
        needs = operation.needs
        right = (needs.name or "any") if isinstance(needs, Right) else needs.value
        rows.append((operation.method, f"`{operation.path}`", f"`{right}`", operation.summary))
    return _table(("method", "path", "needs", "what it does"), rows)


def operations() -> str:
    """The operations of administrators, by group, with what each needs."""
    groups = [type(group) for group in InMemoryServer().server.plane.groups]
    return _joined(_group(group) for group in groups if group not in _CHANNEL_GROUPS)


def _group(group: type[Group]) -> Iterator[str]:
    yield f"### {group.tag}"
    yield group.about
    rows = []
    for operation in group.operations():
        needs = operation.needs.permission if isinstance(operation.needs, AppOr) else operation.needs
        least = PERMISSIONS[needs] if isinstance(needs, Permission) else None
        role = "operators" if isinstance(needs, Permission) and least is None else least or needs.value
        rows.append((operation.method, f"`{operation.path}`", role, _prose(operation.summary)))
    yield _table(("method", "path", "least role", "what it does"), rows)


def answers() -> str:
    """The objects that the REST API answers with."""
    return _joined(_answer(answer) for answer in (Accepted, AcceptedBatch, Outcome, Members))


def _answer(answer: type[msgspec.Struct]) -> Iterator[str]:
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", answer.__name__).capitalize()
    yield f"### {words}"
    yield _wire_prose(answer)
    yield from _fields(answer)


# Markdown.


def _prose(docstring: str | None) -> str:
    """A docstring as Markdown, without what only readers of the code need."""
    if not docstring:
        raise ValueError("something in the reference has no docstring")
    text = inspect.cleandoc(docstring)
    text = re.sub(r"\s*\((?:see )?(?:protocol\.md|:func:)[^)]*\)", "", text)
    text = re.sub(r":\w+:`~?([\w.]+)`", lambda m: f"`{m[1].rpartition('.')[2]}`", text)
    return re.sub(r"``(.+?)``", r"`\1`", text.replace("\n", " ").replace("  ", "\n\n"))


def _wire_prose(struct: type[msgspec.Struct]) -> str:
    """The docstring of a struct, with its fields named as they are on the wire."""
    names = {field.name: field.encode_name for field in msgspec.structs.fields(struct)}
    return re.sub(r"`(\w+)`", lambda m: f"`{names.get(m[1], m[1])}`", _prose(struct.__doc__))


def _joined(parts: Iterator[Iterator[str]]) -> str:
    return "\n\n".join(text for part in parts for text in part)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _code(text: str) -> str:
    shown = text if len(text) <= 100 else json.dumps(json.loads(text), indent=2)
    return f"```json\n{shown}\n```"


PAGES: dict[str, Callable[[], str]] = {
    "requests": requests,
    "events": events,
    "values": values,
    "error codes": error_codes,
    "close codes": close_codes,
    "permissions": permissions,
    "plans": plans,
    "settings": settings,
    "metrics": metrics,
    "routes": routes,
    "channel operations": channel_operations,
    "operations": operations,
    "answers": answers,
}
"""What can stand in a page, by name."""

_place = re.compile(r"^<!-- generated: (.+) -->$", re.MULTILINE)


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx's hook."""
    app.connect("source-read", _fill)
    app.connect("env-get-outdated", _outdated)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _fill(app: Sphinx, page: str, source: list[str]) -> None:
    source[0] = _place.sub(lambda place: PAGES[place[1]](), source[0])


def _outdated(app: Sphinx, env: Any, added: set[str], changed: set[str], removed: set[str]) -> list[str]:
    """The pages that may have changed though their files did not."""
    return [page for page in env.found_docs if _place.search(env.doc2path(page).read_text("utf-8"))]
