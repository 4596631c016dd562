"""Who may connect: anybody who brings a nickname."""

from __future__ import annotations

from typing import Any

from example_app.rooms import LONGEST_NICKNAME, clean
from flask_phoenix import Phoenix, Refused, Socket

phoenix = Phoenix()
#: Who is in each room, by nickname: whoever bears the same one counts as another tab of the same person.
online = phoenix.presence()


@phoenix.socket("/socket", longpoll=True)
class UserSocket(Socket):
    """One browser."""

    def connect(self, params: dict[str, Any], info: dict[str, Any]) -> None:
        """Take the nickname.

        :raises Refused: it is no name to show to others.
        """
        nickname = clean(params.get("nickname"), LONGEST_NICKNAME)
        if not nickname.isprintable():
            raise Refused("unprintable nickname")
        self.assigns["nickname"] = nickname
