"""``flask phoenix doctor``: it finds what is wrong, and says nothing of what is well."""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from resource import RLIMIT_NOFILE, getrlimit
from typing import Any

import pytest
from click.testing import CliRunner, Result
from flask import Flask
from flask.cli import ScriptInfo

from flask_phoenix import Channel, History, Phoenix, Socket
from flask_phoenix.cli.commands import phoenix as commands
from flask_phoenix.doctor import site
from flask_phoenix.doctor.setup import fits
from tests.support.processes import DEADLINE, HOST, Server, Servers, free_port
from tests.support.redis_server import RedisServer
from tests.support.relays import Relay, with_own_host, without_frames, without_upgrade

PATCH = "from gevent import monkey\nmonkey.patch_all()\n"
#: An app of one file; it is quicker to load than one with sockets.
WSGI = "def app(environ, start_response):\n    pass\n"
#: A script that serves, without the extension.
SERVES = "from gevent.pywsgi import WSGIServer\nWSGIServer(('127.0.0.1', 0), None).serve_forever()\n"
#: The same with Flask's own server.
FLASK_SERVES = "from flask import Flask\nFlask('app').run()\n"
APP = """
from flask import Flask
from flask.cli import ScriptInfo
from flask_phoenix import Phoenix, Refused, Socket

app = Flask(__name__)
app.secret_key = "secret"
phoenix = Phoenix(app)


@phoenix.socket("/socket", longpoll={"window": 0.3})
@phoenix.socket("/patient", longpoll={"window": 3.0})
class UserSocket(Socket):
    def connect(self, params, info):
        if params.get("name") == "nobody":
            raise Refused()


if __name__ == "__main__":
    import sys
    phoenix.run(app, port=int((*sys.argv, 0)[1]))
"""


def make_app(url: str = "", *, path: str = "/socket", window: float = 0.3, **config: Any) -> Flask:
    """Make an app with nothing wrong; its clients poll, unless the window is 0."""
    app = Flask(__name__)
    app.config.update({"SECRET_KEY": "secret", **config})
    if url:
        app.config["PHOENIX_PUBSUB_URL"] = url
    phoenix = Phoenix(app)

    @phoenix.socket(path, longpoll={"window": window} if window else False)
    class UserSocket(Socket):
        pass

    @UserSocket.channel("room:*")
    class RoomChannel(Channel):
        history = History(size=5, ttl=60)

        def join(self, payload: Any, **variables: Any) -> None:
            pass

    @phoenix.background(once_per_cluster=True)
    def alone() -> None:
        pass

    return app


def examine(app: Flask, *arguments: str) -> list[dict[str, str]]:
    """Run the doctor, and return what it finds."""
    result: Result = app.test_cli_runner().invoke(commands, ["doctor", "--json", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    findings: list[dict[str, str]] = json.loads(result.stdout)
    assert result.exit_code == bool(findings), result.output
    return findings


def names(app: Flask, *arguments: str) -> list[str]:
    """Return the names of what it finds."""
    return [finding["name"] for finding in examine(app, *arguments)]


# The command that serves


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be in a folder of one's own, with none of gunicorn's settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GUNICORN_CMD_ARGS", raising=False)
    return tmp_path


PYTHON, GUNICORN = "python -X dev app.py", "gunicorn -k gevent -w 4 app:app"
LATE = "from time import sleep\nfrom helper import wait\n" + PATCH


@pytest.mark.parametrize(
    ("command", "files"),
    [(PYTHON, {"app.py": PATCH + APP}), (GUNICORN, {"app.py": WSGI}), (f"{GUNICORN} --preload", {"app.py": APP})],
    ids=["script", "gunicorn", "preload"],
)
def test_a_good_command(folder: Path, command: str, files: dict[str, str]) -> None:
    write(folder, files)
    assert examine(make_app(), "--", *command.split()) == []


@pytest.mark.parametrize(
    ("command", "files", "name", "says"),
    [
        (PYTHON, {"app.py": SERVES}, "patching", "are not patched: time, socket"),
        (
            PYTHON,
            {"app.py": LATE + SERVES},
            "patching",
            "import of helper comes before monkey.patch_all(); __main__ holds",
        ),
        (
            f"{GUNICORN} --preload",
            {"app.py": "import helper\n" + WSGI},
            "patching",
            "helper holds ssl.SSLContext, time.sl",
        ),
        (GUNICORN, {"app.py": WSGI, "gunicorn.conf.py": PATCH}, "patching", "gunicorn's own process"),
        (GUNICORN, {"gunicorn.conf.py": "import gone"}, "app", "No module named 'gone'"),
        ("gunicorn -w 4 app:app", {"app.py": WSGI}, "server", "worker class is 'sync'"),
        (PYTHON, {"app.py": PATCH + FLASK_SERVES}, "server", "app.run serves the app"),
        ("waitress-serve app:app", {}, "server", "waitress-serve serves the app"),
    ],
    ids=["unpatched", "late", "preload", "master", "broken", "sync", "app.run", "waitress"],
)
def test_a_bad_command(folder: Path, command: str, files: dict[str, str], name: str, says: str) -> None:
    write(folder, files | {"helper.py": "from ssl import SSLContext\nfrom time import sleep as wait\n"})
    [finding] = examine(make_app(), "--", *command.split())
    assert (finding["name"], says in finding["wrong"]) == (name, True), finding


def test_bad_settings_of_gunicorn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        folder, {"app.py": "import psycopg2\n" + WSGI, "psycopg2.py": "", "gunicorn.conf.py": "graceful_timeout = 14"}
    )
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "-w 3")
    found = examine(make_app("none"), "--", *["gunicorn", "-k", "gevent", "--worker-connections", "1000000", "app:app"])
    assert {finding["name"]: finding["wrong"].partition(",")[0] for finding in found} == {
        "graceful-timeout": "it is 14 s",
        "descriptors": f"a process may open {getrlimit(RLIMIT_NOFILE)[0]} files",
        "driver": "psycopg2 is loaded",
        "processes": "3 workers are started",
    }


def write(folder: Path, files: dict[str, str]) -> None:
    """Write files."""
    for name, text in files.items():
        (folder / name).write_text(text)


# The app


def test_a_good_app() -> None:
    assert examine(make_app()) == []


def test_an_app_without_a_secret() -> None:
    assert names(make_app(SECRET_KEY=None)) == ["secret-key"]


def test_an_app_without_sockets() -> None:
    app = Flask(__name__)
    Phoenix(app)
    assert names(app) == ["sockets"]


def test_an_app_that_cannot_be_made() -> None:
    def make() -> Flask:
        return make_app("workers:" + "/long" * 20)

    result = CliRunner().invoke(commands, ["doctor"], obj=ScriptInfo(create_app=make))
    assert (result.exit_code, result.stdout[:4], "too long" in result.stdout) == (1, "app:", True)


def test_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "blinker-1.5.dist-info").mkdir()
    (tmp_path / "blinker-1.5.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: blinker\nVersion: 1.5\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    [finding] = examine(make_app())
    assert (finding["name"], finding["wrong"]) == ("versions", "blinker is 1.5; asked for is >=1.6.2")


@pytest.mark.parametrize(
    ("installed", "wanted", "does"),
    [
        ("3.0.3", "<4,>=3.0.3", True),
        ("4.0", "<4,>=3.0.3", False),
        ("3.0", "==3", True),
        ("26.9.0.post1", ">=26.9", True),
        ("2.9", ">=2.10", False),
        ("1.1", "!=1.1", False),
        ("1", "", True),
    ],
)
def test_ranges(installed: str, wanted: str, does: bool) -> None:
    assert fits(installed, wanted) is does


# The way to other processes


def test_a_directory_that_others_may_enter(short_path: Path) -> None:
    directory = short_path / "open"
    directory.mkdir()
    directory.chmod(0o755)
    [finding] = examine(make_app(f"workers://{directory}"))
    assert (finding["name"], "others may enter" in finding["wrong"]) == ("directory", True)


def test_a_directory_that_cannot_be_made(short_path: Path) -> None:
    assert names(make_app(f"workers://{short_path}/none/here")) == ["directory"]


def test_a_directory_that_can_be_made_is_removed(short_path: Path) -> None:
    assert examine(make_app(f"workers://{short_path}/new")) == []
    assert list(short_path.iterdir()) == []


def test_a_good_redis(redis: RedisServer, redis_url: str) -> None:
    assert examine(make_app(redis_url)) == []
    assert redis.execute("KEYS", "*doctor*") == []


def test_no_redis() -> None:
    assert names(make_app(f"redis://{HOST}:{free_port()}")) == ["redis-unreachable"]


@pytest.mark.parametrize(
    ("rights", "says"),
    [
        ("+publish &none:*", "SUBSCRIBE"),
        ("+publish +subscribe &phoenix:* +evalsha +eval ~*", "keep a history"),
        (
            "+publish +subscribe &phoenix:* +evalsha +eval +info +@hash +@stream +@sortedset +@keyspace +time"
            " ~phoenix:*",
            "who leads",
        ),
    ],
)
def test_an_acl_that_is_too_narrow(redis: RedisServer, rights: str, says: str) -> None:
    found = examine(make_app(narrow(redis, rights)))
    assert {finding["name"] for finding in found} == {"redis-acl"}
    assert any(says in finding["wrong"] for finding in found)


def test_an_acl_that_follows_the_remedies(redis: RedisServer) -> None:
    rights: set[str] = set()
    while found := examine(make_app(narrow(redis, " ".join(rights)))):
        asked = {word for finding in found for word in re.findall(r"[+&~][\w@:]+\*?", finding["remedy"])}
        assert asked - rights, found
        rights |= asked
    assert "+publish" in rights


def narrow(redis: RedisServer, rights: str) -> str:
    """Return the URL of a user of Redis with these rights alone."""
    redis.execute("ACL", "SETUSER", "narrow", "reset", "on", ">secret", *rights.split())
    return redis.url.replace("redis://", "redis://narrow:secret@")


@pytest.mark.parametrize(
    ("refuse", "allow"),
    [("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"), (f"REPLICAOF {HOST} 1", "REPLICAOF NO ONE")],
)
def test_a_redis_that_takes_no_writes(redis: RedisServer, redis_url: str, refuse: str, allow: str) -> None:
    redis.execute(*refuse.split())
    try:
        assert names(make_app(redis_url)) == ["redis-writes"]
    finally:
        redis.execute(*allow.split())


def test_buffers_of_redis(redis: RedisServer, redis_url: str) -> None:
    redis.execute("CONFIG", "SET", "client-output-buffer-limit", "pubsub 1mb 1mb 60")
    try:
        assert names(make_app(redis_url)) == ["redis-buffer"]
    finally:
        redis.execute("CONFIG", "SET", "client-output-buffer-limit", "pubsub 32mb 8mb 60")


class OtherRedis:
    """Answers as a Redis of another version and with another clock would, to what the doctor asks."""

    def __init__(self, version: str, ahead: float) -> None:
        info, now = f"redis_version:{version}\r\n", str(int(time.time() + ahead))
        self._answers = {
            b"PING": b"+PONG\r\n",
            b"INFO": b"$%d\r\n%s\r\n" % (len(info), info.encode()),
            b"TIME": b"*2\r\n$%d\r\n%s\r\n$1\r\n0\r\n" % (len(now), now.encode()),
            b"EVALSHA": b"*4\r\n$1\r\na\r\n:1\r\n:1\r\n:0\r\n",
        }
        self._listener = socket.create_server((HOST, 0))
        self.url = f"redis://{HOST}:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Answer nobody any more."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._answer, args=(self._listener.accept()[0],), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        with client, client.makefile("rb") as stream, suppress(OSError):
            while count := stream.readline()[1:]:
                words = [stream.read(int(stream.readline()[1:]) + 2)[:-2] for _ in range(int(count))]
                client.sendall(self._answers.get(words[0], b":1\r\n"))


@pytest.mark.parametrize(("version", "ahead", "name"), [("4.0.14", 0, "redis-version"), ("6.2.1", 60, "clock")])
def test_another_redis(version: str, ahead: float, name: str) -> None:
    with closing(OtherRedis(version, ahead)) as other:
        assert names(make_app(other.url)) == [name]


# A site that runs


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a busy machine take its time."""
    monkeypatch.setattr(site, "PROMPT", DEADLINE)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve an app."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "app.py").write_text(PATCH + APP)
    servers = Servers(folder)
    yield servers.start(sys.executable, str(folder / "app.py"), "{port}")
    servers.stop()


def visit(port: int, *arguments: str, app: Flask | None = None) -> list[str]:
    """Return the names of what is found at a site."""
    return names(app or make_app(), "--url", f"http://{HOST}:{port}", "--wait", "0.1", *arguments)


def test_a_good_site(server: Server) -> None:
    assert visit(server.port) == []


@pytest.mark.parametrize(("up", "expected"), [(without_upgrade, "handshake"), (with_own_host, "origin")])
def test_a_proxy_that_spoils_headers(server: Server, up: Callable[[bytes], bytes], expected: str) -> None:
    with closing(Relay(server.port, up)) as proxy:
        assert visit(proxy.port, app=make_app(window=0)) == [expected]


def test_a_proxy_that_names_another_host_is_told_from_a_rule_of_the_app(server: Server) -> None:
    with closing(Relay(server.port, with_own_host)) as proxy:
        url = f"http://{HOST}:{proxy.port}"
        [proxied] = examine(make_app(window=0), "--url", url, "--wait", "0.1")
        [refused] = examine(make_app(window=0, PHOENIX_CHECK_ORIGIN=["//elsewhere"]), "--url", url, "--wait", "0.1")
    assert "the app allows them" in proxied["remedy"]
    assert "x_host=1" in proxied["remedy"]
    assert refused["remedy"].startswith("add its origin to `check_origin`")


def test_a_proxy_that_does_not_wait(server: Server) -> None:
    app = make_app(path="/patient", window=3.0)
    with closing(Relay(server.port, patience=1.5)) as proxy:
        assert sorted(visit(proxy.port, "--wait", "2", app=app)) == ["poll-window", "silence"]


def test_a_server_that_hangs(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "PROMPT", 0.2)
    with closing(Relay(server.port, without_frames)) as proxy:
        assert visit(proxy.port, app=make_app(window=0)) == ["heartbeat"]


def test_a_proxy_that_buffers(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "PROMPT", 0.2)
    with closing(Relay(server.port, hold=0.5)) as proxy:
        assert sorted(visit(proxy.port)) == ["heartbeat", "poll-delay"]


def test_refusals(server: Server) -> None:
    findings = examine(make_app(), "--url", server.url("/other/socket"))
    assert {finding["wrong"].partition(" answers ")[2][:8] for finding in findings} == {"HTTP 404"}
    refused = examine(make_app(), "--url", server.url(), "--params", "name=nobody")
    assert {(finding["name"], finding["wrong"].partition(" answers ")[2][:8]) for finding in refused} == {
        ("handshake", "HTTP 403")
    }
    assert "nobody" not in str(refused)


@pytest.mark.parametrize("status", site.STATUSES)
def test_what_a_status_means(status: int) -> None:
    with closing(socket.create_server((HOST, 0))) as listener:

        def answer() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(1 << 16)
                client.sendall(b"HTTP/1.1 %d What\r\nContent-Length: 0\r\n\r\n" % status)

        answering = threading.Thread(target=answer)
        answering.start()
        [finding] = examine(make_app(window=0), "--url", f"{HOST}:{listener.getsockname()[1]}")
        answering.join()
    meaning, remedy = site.STATUSES[status]
    assert finding["wrong"].endswith(f" answers HTTP {status}: {meaning}")
    assert (finding["name"], finding["remedy"]) == ("handshake", remedy)


def test_a_site_that_its_own_pages_may_not_use(server: Server) -> None:
    assert visit(server.port, app=make_app(window=0, PHOENIX_CHECK_ORIGIN=["//elsewhere"])) == ["origin"]


def test_a_site_without_its_app(server: Server, folder: Path) -> None:
    bad = CliRunner().invoke(commands, ["doctor", "--url", server.url("/none")])
    assert (bad.exit_code, "HTTP 404" in bad.stdout) == (1, True)
    good = CliRunner().invoke(commands, ["doctor", "--url", server.url("/socket"), "--wait", "0.1"])
    assert (good.exit_code, good.stdout) == (0, "nothing found\n")


def test_a_site_that_does_not_run() -> None:
    assert set(visit(free_port())) == {"handshake"}


@pytest.mark.parametrize("words", [("doctor", "--url"), ("client",)])
def test_a_host_is_given_in_the_url(words: tuple[str, ...]) -> None:
    """Beside that of the URL it would be a second one, which proxies answer with 400."""
    result = CliRunner().invoke(commands, [*words, f"http://{HOST}:1/socket", "--header", "Host: chat.example.com"])
    assert (result.exit_code, "the Host is the one of the URL" in result.stderr) == (2, True)
