"""What is raised: one root, and a refusal that knows its response."""

from __future__ import annotations

from typing import Any

import pytest

from flask_phoenix import exceptions
from flask_phoenix.exceptions import PhoenixError, Refused


def test_one_root_for_all() -> None:
    errors = [each for each in vars(exceptions).values() if getattr(each, "__module__", None) == exceptions.__name__]
    assert len(errors) > 5
    assert all(issubclass(each, PhoenixError) for each in errors)


@pytest.mark.parametrize(
    ("refused", "response", "reason"),
    [
        (Refused(), {}, None),
        (Refused("banned"), {"reason": "banned"}, "banned"),
        (Refused(reason="banned"), {"reason": "banned"}, "banned"),
        (Refused("banned", until=7), {"reason": "banned", "until": 7}, "banned"),
        (Refused(retry=True), {"retry": True}, None),
        (Refused({"code": 4}), {"code": 4}, None),
        (Refused({}), {}, None),
        (Refused([1, 2]), [1, 2], [1, 2]),
        (Refused(b"\x01"), b"\x01", b"\x01"),
    ],
)
def test_a_refusal_has_a_response_and_a_reason(refused: Refused, response: Any, reason: Any) -> None:
    assert refused.response == response
    assert refused.reason == reason
    assert isinstance(refused, PhoenixError)


def test_a_refusal_is_readable() -> None:
    assert str(Refused("banned")) == "banned"
    assert str(Refused(reason="banned")) == "{'reason': 'banned'}"
