"""The example keeps its promises."""

from __future__ import annotations

import gevent
import pytest
from flask import Flask
from flask.testing import FlaskClient
from gevent.event import AsyncResult

from example_app import create_app
from example_app.rooms import KEPT, Room, clean
from example_app.sockets import phoenix
from flask_phoenix import Broadcast, Refused
