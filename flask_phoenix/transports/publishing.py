"""A way in over HTTP for publishers that are not Python: signed requests, answered with receipts."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from typing import Any

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from .. import clock
from ..exceptions import InvalidMessage, InvalidOption, InvalidPayload, NotPublished
from ..protocol.json import Json
from ..protocol.messages import INTERNAL
from .endpoint import NAME

#: The header that signs a request: ``t=<seconds since 1970>,v1=<signature>``.
SIGNATURE = "X-Phoenix-Signature"
#: Seconds by which a signature may be older, or newer, than the server's clock.
TOLERANCE = 300
#: Bytes of a request, and messages in it.
BODY_LIMIT = 1_000_000
MESSAGE_LIMIT = 100

#: Publishes a message, given a topic, an event, a payload and perhaps an ``idempotency_key``.
Publish = Callable[..., Any]
#: What publishers and the server share.
Secret = str | bytes


class Publishing:
    """The views of the blueprint.

    :param secrets: with one of which a request is signed.
    """

    def __init__(self, secrets: Secret | Sequence[Secret], publish: Publish, json: Json) -> None:
        several = [secrets] if isinstance(secrets, str | bytes) else secrets
        self._secrets = [each.encode() if isinstance(each, str) else each for each in several]
        if not self._secrets or any(len(each) < 16 for each in self._secrets):
            raise InvalidOption("publish_blueprint needs a secret of 16 bytes or more, as secrets.token_hex() makes")
        self._publish = publish
        self._json = json

    def blueprint(self, name: str) -> Blueprint:
        """Make the blueprint."""
        blueprint = Blueprint(f"{NAME}{name}", __name__)
        blueprint.post("/publish")(self.publish)
        return blueprint

    def publish(self) -> ResponseReturnValue:
        """Publish one message, or a list of them, in order; answer with a receipt for each."""
        body = request.stream.read(BODY_LIMIT + 1) or request.get_data()  # if a hook of the app has read it
        if len(body) > BODY_LIMIT:
            return {"error": f"a request has at most {BODY_LIMIT} bytes"}, 413
        if not self._is_signed(body):
            return {"error": f"sign the request: see {SIGNATURE} in docs/howto/recovery.md"}, 401
        try:
            messages = self._read(body)
        except InvalidMessage as error:
            return {"error": str(error)}, 400
        receipts: list[Any] = []
        for message in messages:
            try:
                position = self._publish(**message)
            except (InvalidPayload, InvalidOption) as error:
                return {"error": str(error), "receipts": receipts}, 422
            except NotPublished as error:
                return {"error": str(error), "receipts": receipts}, 503
            receipts.append(position and {**position._asdict(), "ref": str(position)})
        return {"receipts": receipts}

    def _is_signed(self, body: bytes) -> bool:
        fields = dict(part.partition("=")[::2] for part in request.headers.get(SIGNATURE, "").split(","))
        at = fields.get("t", "")
        if not (at.isascii() and at.isdigit() and len(at) < 12) or abs(clock.time() - int(at)) > TOLERANCE:
            return False
        signed, signature = at.encode() + b"." + body, fields.get("v1", "").encode()
        expected = (hmac.digest(secret, signed, "sha256").hex() for secret in self._secrets)
        return any(hmac.compare_digest(each.encode(), signature) for each in expected)

    def _read(self, body: bytes) -> list[dict[str, Any]]:
        """Read the messages of a request.

        :raises InvalidMessage: these are none.
        """
        value = self._json.loads(body)
        messages = value if isinstance(value, list) else [value]
        if len(messages) > MESSAGE_LIMIT:
            raise InvalidMessage(f"a request has at most {MESSAGE_LIMIT} messages")
        for message in messages:
            fields = message if isinstance(message, dict) else {}
            texts = [fields.get(name) for name in ("topic", "event")] + [fields.get("idempotency_key", "")]
            known = fields.keys() <= {"topic", "event", "payload", "idempotency_key"}
            strings = all(isinstance(text, str) for text in texts)
            if not known or not strings or not isinstance(fields.get("payload"), dict):
                raise InvalidMessage("a message has a topic, an event, a payload, and perhaps an idempotency_key")
            if fields["topic"].startswith(INTERNAL):
                raise InvalidMessage(f"topics that begin with {INTERNAL!r} are those of the nodes themselves")
        return messages
