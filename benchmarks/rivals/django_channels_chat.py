"""The chat on Django Channels, with channels_redis: ``daphne benchmarks.rivals.django_channels_chat:application``."""

from __future__ import annotations

import os
from typing import Any

import django
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.urls import path

# redis-py's own bound is 100 connections: with many clients at once, more than that are under way.
REDIS = {"address": os.environ.get("CHANNELS_REDIS", "redis://127.0.0.1/0"), "max_connections": 20000}

settings.configure(
    SECRET_KEY="of this benchmark",
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=["channels"],
    CHANNEL_LAYERS={
        "default": {
            "BACKEND": "channels_redis.core.RedisChannelLayer",
            "CONFIG": {"hosts": [REDIS]},
        }
    },
)
django.setup()


class Chat(AsyncJsonWebsocketConsumer):
    """One client."""

    async def connect(self) -> None:
        """Let everybody in."""
        self.joined = set[str]()
        await self.accept()

    async def receive_json(self, content: Any, **_: Any) -> None:
        """Take what the client says."""
        match content["event"]:
            case "join":
                self.joined.add(content["room"])
                await self.channel_layer.group_add(content["room"], self.channel_name)
                await self.send_json({"event": "joined"})
            case "new_msg":
                message = {"type": "chat.message", "payload": content["payload"]}
                await self.channel_layer.group_send(content["room"], message)
            case "echo":
                await self.send_json(content)

    async def chat_message(self, event: Any) -> None:
        """Tell the client."""
        await self.send_json({"event": "new_msg", "payload": event["payload"]})

    async def disconnect(self, code: int) -> None:
        """Leave."""
        for room in self.joined:
            await self.channel_layer.group_discard(room, self.channel_name)


application = ProtocolTypeRouter({"websocket": URLRouter([path("chat", Chat.as_asgi())])})
