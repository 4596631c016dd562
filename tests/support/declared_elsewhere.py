"""Types of payloads with names that tests/support/declared.py has, too."""

from __future__ import annotations

import msgspec
import pydantic


class Message(msgspec.Struct):
    text: str


class Author(pydantic.BaseModel):
    pen_name: str
