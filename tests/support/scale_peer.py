"""The app of the golden conversations, in which a poll does not wait so long: ``tests.support.scale_peer:app``."""

from __future__ import annotations

from flask import Flask

from tests.golden.peer import phoenix

app = Flask(__name__)
app.secret_key = "the same for every process of these tests"
app.config["PHOENIX_WINDOW"] = 3.0
phoenix.init_app(app)
