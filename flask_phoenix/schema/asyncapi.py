"""An AsyncAPI document of version 3.0 of what an app declares."""

from __future__ import annotations

import re
from typing import Any

from .declarations import VARIABLE, Client, Family, Handled, Shape
from .schemas import Schemas

Document = dict[str, Any]

ABOUT = (
    "Phoenix Channels, version 2.0.0 of the wire format: a text frame is the JSON array"
    " [join_ref, ref, topic, event, payload]. The payloads here are the last of these; the event is the message's name,"
    " the topic the channel's address. A payload of bytes travels in a binary frame. Replies are the event phx_reply."
)
BINARY = "application/octet-stream"
#: What says that a channel handles other events, too.
OTHERS = "x-handles-other-events"
#: What says what a variable of a topic may be.
KIND = "x-kind"
REFUSAL = {
    "title": "Refusal",
    "description": "The payload of an error reply. Where a payload was of another type, errors tells where.",
    "type": "object",
    "properties": {
        "status": {"const": "error"},
        "response": {
            "type": "object",
            "properties": {
                "reason": {"type": "string"},
                "errors": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {"path": {"type": "string"}, "message": {"type": "string"}},
                        "required": ["path", "message"],
                    },
                },
            },
        },
    },
    "required": ["status", "response"],
}


def asyncapi(clients: list[Client], title: str, version: str) -> Document:
    """Write the document.

    :param version: of the app's interface.
    :raises InvalidOption: a type has no schema.
    """
    schemas = Schemas(shape for client in clients for shape in client.shapes)
    document: Document = {
        "asyncapi": "3.0.0",
        "info": {"title": title, "version": version, "description": ABOUT},
        "defaultContentType": "application/json",
        "servers": {},
        "channels": {},
        "operations": {},
        "components": {"schemas": schemas.named, "messages": {"phx_error_reply": _message("phx_reply", REFUSAL)}},
    }
    for client in clients:
        server = _key(client.path)
        document["servers"][server] = _server(client)
        for family in client.families:
            _Writer(document, schemas, client, family, server).write()
    return document


class _Writer:
    """Writes one family of topics into a document."""

    def __init__(self, document: Document, schemas: Schemas, client: Client, family: Family, server: str) -> None:
        self._document = document
        self._schemas = schemas
        self._client = client
        self._family = family
        self._key = _key(client.name, family.pattern.replace("*", "any"))
        while self._key in document["channels"]:  # of a pattern that differs in its punctuation
            self._key += "_"
        self._messages: Document = {}
        self._server = server

    def write(self) -> None:
        """Write the channel and its operations."""
        family, params = self._family, self._schemas.of(self._client.params)
        channel: Document = {
            "address": VARIABLE.sub(lambda match: f"{{{match['name'] or 'subtopic'}}}", family.pattern),
            "title": family.name,
            **_described(family.about),
            "servers": [{"$ref": f"#/servers/{self._server}"}],
            "messages": self._messages,
        }
        if family.takes_others:
            channel[OTHERS] = True
        if family.variables:
            channel["parameters"] = {name: {KIND: kind} for name, kind in family.variables.items()}
        if params and (query := self._schemas.followed(params)).get("type") == "object" and "properties" in query:
            channel["bindings"] = {"ws": {"method": "GET", "query": query}}
        self._document["channels"][self._key] = channel
        for handled in (family.join, *family.handled):
            self._write_handled(handled)
        for event, shape in family.sent.items():
            self._operate("send", f"sends_{event}", "", self._payloads(f"sends_{event}", event, shape))

    def _write_handled(self, handled: Handled) -> None:
        name = handled.event
        operation = self._operate("receive", name, handled.about, self._payloads(name, name, handled.payload))
        replies = self._payloads(f"{name}_reply", "phx_reply", handled.reply, reply=True)
        self._messages["phx_error_reply"] = {"$ref": "#/components/messages/phx_error_reply"}
        operation["reply"] = {
            "channel": {"$ref": f"#/channels/{self._key}"},
            "messages": [*replies, {"$ref": f"#/channels/{self._key}/messages/phx_error_reply"}],
        }

    def _operate(self, action: str, name: str, about: str, messages: list[Document]) -> Document:
        operation: Document = {
            "action": action,
            "channel": {"$ref": f"#/channels/{self._key}"},
            **_described(about),
            "messages": messages,
        }
        self._document["operations"][_key(self._key, name)] = operation
        return operation

    def _payloads(self, name: str, event: str, shape: Shape, reply: bool = False) -> list[Document]:
        """Write the messages that an event may be, and return the references to them."""
        found: dict[str, Document] = {}
        schema = self._schemas.of(shape)
        if schema is not None:
            found[_key(name)] = _message(event, _reply(schema) if reply else schema)
        if shape.binary:
            found[_key(name, "binary")] = _message(event, {"type": "string", "format": "binary"}, BINARY)
        self._messages.update(found)
        return [{"$ref": f"#/channels/{self._key}/messages/{key}"} for key in found]


def _server(client: Client) -> Document:
    names = re.findall(r"<(?:[^<>:]+:)?(\w+)>", client.path)
    path = re.sub(r"<(?:[^<>:]+:)?(\w+)>", r"{\1}", client.path).rstrip("/")
    server: Document = {
        "host": "localhost",
        "pathname": f"{path}/websocket",
        "protocol": "ws",
        **_described(client.about),
    }
    return {**server, "variables": {name: {} for name in names}} if names else server


def _reply(response: Document) -> Document:
    properties = {"status": {"const": "ok"}, "response": response}
    return {"type": "object", "properties": properties, "required": ["status", "response"]}


def _message(event: str, payload: Document, content_type: str = "application/json") -> Document:
    return {"name": event, "contentType": content_type, "payload": payload}


def _described(about: str) -> Document:
    return {"description": about} if about else {}


def _key(*names: str) -> str:
    """Make a key of a document of names."""
    return "_".join(re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or "all" for name in names)
