"""The page of the API for people: one document without scripts, made of the same description as for programs."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from html import escape
from typing import Any

import msgspec
from msgspec import Raw

import wsock
from wsock.edges.http.openapi import Description
from wsock.edges.http.operations import ANYONE, Call, Document, Group, NoBody, NoQuery, operation

__all__ = ["DocsPage", "page"]

_STYLE = """
:root{color-scheme:light dark;--line:#8884;--dim:#8888}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:60rem;padding:1rem;overflow-wrap:anywhere}
nav ul{columns:12rem;padding-left:1.2rem}
h2{border-top:1px solid var(--line);margin-top:2.5rem;padding-top:1rem}
details{border:1px solid var(--line);border-radius:.4rem;margin:.5rem 0;padding:.4rem .8rem}
summary{cursor:pointer}
summary b{display:inline-block;min-width:4.5rem}
pre,.wide{overflow-x:auto}
pre{background:#8881;padding:.6rem}
table{border-collapse:collapse;width:100%}
td,th{border-bottom:1px solid var(--line);padding:.2rem .6rem .2rem 0;text-align:left;vertical-align:top}
code,pre{font:.9em ui-monospace,monospace}
small{opacity:.75}
"""
_DIGEST = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_DIGEST}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}

Json = dict[str, Any]


class DocsPage(Group):
    """The API about itself."""

    tag = "API"
    about = "The description of this API, for programs and for people."

    def __init__(self, groups: Sequence[Group]) -> None:
        self._description = Description([*dict.fromkeys(map(type, groups)), DocsPage], wsock.__version__)

    @operation("GET", "/api/openapi.json", needs=ANYONE, gives=dict[str, Any])
    async def openapi(self, call: Call[NoBody, NoQuery]) -> Raw:
        """Describes the API in OpenAPI 3.1."""
        return Raw(self._description.text)

    @operation("GET", "/api/docs", needs=ANYONE)
    async def docs(self, call: Call[NoBody, NoQuery]) -> Document:
        """Shows the API as a page."""
        return Document(kind="text/html; charset=utf-8", content=self._page, headers=_HEADERS)

    @cached_property
    def _page(self) -> bytes:
        return page(self._description.document).encode()


def page(document: Json) -> str:
    """The description as a page of HTML. Everything in it is escaped."""
    return "".join(_page(document))


def _page(document: Json) -> Iterator[str]:
    title = f"{document['info']['title']} API"
    yield '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width,initial-scale=1">'
    yield f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>"
    yield f"<h1>{escape(title)}</h1>{_text(document['info']['description'])}"
    yield '<p><a href="openapi.json">openapi.json</a></p><nav><ul>'
    for tag in document["tags"]:
        yield f'<li><a href="#{_anchor(tag["name"])}">{escape(tag["name"])}</a></li>'
    yield '<li><a href="#schemas">Objects</a></li></ul></nav><main>'
    for tag in document["tags"]:
        yield f'<section id="{_anchor(tag["name"])}"><h2>{escape(tag["name"])}</h2>{_text(tag["description"])}'
        for path, methods in document["paths"].items():
            for method, described in methods.items():
                if tag["name"] in described["tags"]:
                    yield from _operation(method, path, described)
        yield "</section>"
    yield '<section id="schemas"><h2>Objects</h2>'
    for name, schema in sorted(document["components"]["schemas"].items()):
        yield from _object(name, schema)
    yield "</section></main></body></html>"


def _operation(method: str, path: str, described: Json) -> Iterator[str]:
    yield f'<details id="{_anchor(described["operationId"])}"><summary><b>{method.upper()}</b> '
    yield f"<code>{escape(path)}</code><br>{_inline(described['summary'])}</summary>"
    yield _text(described.get("description", ""))
    yield f"<p><small>{_needs(described)}</small></p>"
    if "parameters" in described:
        yield "<h4>Parameters</h4>"
        yield from _table(_parameter(parameter) for parameter in described["parameters"])
    if "requestBody" in described:
        content = described["requestBody"]["content"]["application/json"]
        yield f"<h4>Body</h4><p>{_type(content['schema'])}</p>"
        if "example" in content:
            yield f"<pre>{escape(msgspec.json.format(msgspec.json.encode(content['example'])).decode())}</pre>"
    yield "<h4>Answers</h4>"
    yield from _table(_answer(status, answer) for status, answer in described["responses"].items())
    yield "</details>"


def _needs(described: Json) -> str:
    if "x-permission" in described:
        permission, role = described["x-permission"], described["x-required-role"]
        return f"Needs <code>{escape(permission)}</code>: role {escape(role)}"
    if "x-required-right" in described:
        right = described["x-required-right"]
        return f"Needs an API key or a JWT of the app (right: {escape(right)})"
    return "Needs a login" if described["security"] else "Needs nothing"


def _parameter(parameter: Json) -> tuple[str, ...]:
    name = f"<code>{escape(parameter['name'])}</code>"
    if parameter["required"]:
        name += " <small>required</small>"
    return name, _type(parameter["schema"]), _inline(parameter.get("description", ""))


def _answer(status: str, answer: Json) -> tuple[str, ...]:
    if "$ref" in answer:
        return f"<code>{escape(status)}</code>", _type({"$ref": "#/components/schemas/Error"})
    schema = next((content["schema"] for content in answer.get("content", {}).values()), None)
    return f"<code>{escape(status)}</code>", "nothing" if schema is None else _type(schema)


def _object(name: str, schema: Json) -> Iterator[str]:
    yield f'<details id="{_anchor(name)}"><summary><code>{escape(schema.get("title", name))}</code></summary>'
    yield _text(schema.get("description", ""))
    if "enum" in schema:
        yield f"<p>{_type(schema)}</p>"
    required = schema.get("required", ())
    yield from _table(
        (
            f"<code>{escape(field)}</code>" + (" <small>required</small>" if field in required else ""),
            _type(described),
            _inline(described.get("description", "")),
        )
        for field, described in schema.get("properties", {}).items()
    )
    yield "</details>"


def _type(schema: Json) -> str:
    """What values a schema takes, in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#{_anchor(name)}">{escape(name)}</a>'
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items') or {})}"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'])}"
    words = [str(schema.get("type", "any JSON"))]
    limits = (("minimum", "from"), ("maximum", "to"), ("maxLength", "at most"))
    words += [f"{word} {schema[name]}" for name, word in limits if name in schema]
    return escape(" ".join(words))


def _table(rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    yield '<div class="wide"><table>'
    for row in rows:
        yield f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>"
    yield "</table></div>"


def _anchor(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "-", name)


def _inline(text: str) -> str:
    """Markdown as far as it is used: code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _text(text: str) -> str:
    return "".join(f"<p>{_inline(part)}</p>" for part in text.split("\n\n") if part.strip())
