"""What the documents say is so: their Python runs, their tables equal the code, their links lead somewhere."""

from __future__ import annotations

import ast
import http.client
import json
import os
import re
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import fields
from importlib.metadata import entry_points
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import click
import flask_login
import pytest
from flask import Flask
from gunicorn.config import Config

from benchmarks import report
from flask_phoenix import (
    Adapter,
    Broadcaster,
    Channel,
    Phoenix,
    Presence,
    Publisher,
    RawSocket,
    Refused,
    Reply,
    Socket,
    app_state,
)
from flask_phoenix.app_state import APP_KEYS
from flask_phoenix.broadcaster import NONE, SETTING
from flask_phoenix.cli import client
from flask_phoenix.cli.commands import phoenix as commands
from flask_phoenix.doctor import redis as redis_doctor
from flask_phoenix.doctor import serving
from flask_phoenix.doctor.findings import KINDS
from flask_phoenix.doctor.probe import DRIVERS
from flask_phoenix.doctor.site import STATUSES
from flask_phoenix.operations import answers
from flask_phoenix.operations.requests import MAX_SKEW
from flask_phoenix.payloads.errors import MAX_ERRORS
from flask_phoenix.protocol.json import MAX_DEPTH, MAX_READ_DEPTH
from flask_phoenix.protocol.messages import SHOWN_CHARACTERS
from flask_phoenix.pubsub import history
from flask_phoenix.pubsub import hub as hubs
from flask_phoenix.pubsub.adapter import ADAPTERS
from flask_phoenix.pubsub.envelope import MAX_KEY
from flask_phoenix.pubsub.redis import adapter as redis
from flask_phoenix.pubsub.redis import lease
from flask_phoenix.pubsub.redis.adapter import RedisAdapter
from flask_phoenix.pubsub.redis.client import OPTIONS
from flask_phoenix.pubsub.unix import adapter as workers
from flask_phoenix.pubsub.unix import directory, leader, publisher
from flask_phoenix.pubsub.unix.adapter import WorkersAdapter
from flask_phoenix.pubsub.unix.archive import BLOCK, BUSY_TIMEOUT
from flask_phoenix.runtime import background, channel_server, histories, inbox, listener, once
from flask_phoenix.runtime.expiry import EXPIRED
from flask_phoenix.runtime.logs import SECRETS
from flask_phoenix.runtime.logs import SETTING as FILTER_SETTING
from flask_phoenix.runtime.settings import Settings
from flask_phoenix.runtime.turns import LONG_TURN, MAX_REST, REST
from flask_phoenix.server import drain
from flask_phoenix.server import gunicorn as gunicorn_server
from flask_phoenix.testing import Client, Clock, Joined
from flask_phoenix.testing.client import WITHIN
from flask_phoenix.testing.memory import HEARTBEAT_PERIOD
from flask_phoenix.tokens import MAX_AGE
from flask_phoenix.tracker import replica
from flask_phoenix.tracker.server import COUNT_PERIOD, MAX_META_DEPTH
from flask_phoenix.transports import handshake, publishing, websocket
from flask_phoenix.transports.handshake import PHOENIX_PROTOCOL
from flask_phoenix.transports.longpoll.carrier import ABSENT_WINDOWS
from flask_phoenix.transports.longpoll.endpoint import BATCH, PIECE
from flask_phoenix.transports.longpoll.registry import UNUSED_DELAY, UNUSED_SESSIONS
from flask_phoenix.transports.options import INFO_KEYS, PREFIX, Options
from flask_phoenix.transports.origin import CONN, OriginPolicy
from tests.docs.pages import BESIDE, DOCS, FENCE, PAGES, Block, blocks, cells, prose, read, rows, stated
from tests.docs.python import Runner
from tests.support.face import public
from tests.support.loop import turn
from tests.support.network import Network
from tests.support.presence import Node, eventually
from tests.support.processes import DEADLINE, HOST, ROOT, Servers, wait_until
from tests.test_architecture import MODULES, tree

LINK = re.compile(r"\]\(([^)\s]+)\)")


def run(folder: Path, *words: str) -> str:
    """Run Python in a folder, and return what it writes."""
    done = subprocess.run(
        (sys.executable, *words),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=6 * DEADLINE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    """Return a process that runs the Python of pages."""
    process = Runner()
    yield process
    process.close()


#: The pages of the tutorial build on each other: see tests/test_tutorial.py.
ALONE = [page for page in PAGES if any(blocks(page, "python")) and not page.startswith("tutorial/")]


@pytest.mark.parametrize("page", ALONE)
def test_python_runs(page: str, runner: Runner, tmp_path: Path) -> None:
    for files in together(page):
        for block in files:
            (tmp_path / block.filename).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / block.filename).write_text(block.code)
        tests = [block.filename for block in files if Path(block.filename).name.startswith("test_")]
        modules = [
            block.filename.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            for block in files
            if block.filename not in tests and Path(block.filename).name != "conftest.py"
        ]
        if any("monkey" in block.code for block in files):  # which wants to be first, before ssl
            assert not modules or not run(tmp_path, "-W", "error", "-c", f"import {', '.join(modules)}")
            modules = []
        output = runner.run(tmp_path, modules, tests)
        assert bool(tests) == (" passed" in output)
        assert tests or not output


def together(page: str) -> list[list[Block]]:
    """Return the files of a page, each time as many as there are of different names."""
    groups: list[list[Block]] = [[]]
    for block in blocks(page, "python"):
        if block.filename in [other.filename for other in groups[-1]]:
            groups.append([])
        groups[-1].append(block)
    return groups


@pytest.mark.parametrize("page", [page for page in PAGES if any(blocks(page, "py"))])
def test_parts_of_python_compile(page: str) -> None:
    for block in blocks(page, "py"):
        compile(block.code, f"{page}:{block.line}", "exec")


@pytest.mark.parametrize("page", [*PAGES, *BESIDE])
def test_links_lead_somewhere(page: str) -> None:
    for target in LINK.findall(re.sub(r"`[^`\n]*`", "", prose(page))):
        path, _, anchor = target.partition("#")
        if "://" in target:
            assert re.match(r"https://[\w.-]+\.\w+(/|$)|http://127\.0\.0\.1", target), target
        else:
            other = (DOCS / page).parent.joinpath(path).resolve() if path else DOCS / page
            assert other.is_file(), target
            assert not anchor or anchor in anchors(str(other.relative_to(DOCS))), target


def anchors(page: str) -> set[str]:
    """Return where links may lead within a page."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_every_page_is_in_the_index_of_its_folder() -> None:
    for page in PAGES:
        folder, _, name = page.rpartition("/")
        assert name == "index.md" or f"]({name})" in read(f"{folder}/index.md"), page


def test_options_are_those_of_a_mount() -> None:
    table = rows("reference/options.md", "option", "key", "default", "unit", "meaning")
    said = {name: (key, ast.literal_eval(default)) for name, key, default, *_ in table}
    defaults = {field.name: (PREFIX + field.name.upper(), field.default) for field in fields(Options)}
    assert said == defaults
    assert list(said) == list(defaults)


def test_settings_of_a_process() -> None:
    table = rows("reference/options.md", "key of a process", "default", "unit", "meaning")
    said = {key: ast.literal_eval(default) for key, default, *_ in table}
    assert said == {PREFIX + field.name.upper(): field.default for field in fields(Settings)}


def test_settings_of_an_app() -> None:
    said = {key: default for key, default, _ in rows("reference/options.md", "key", "default", "meaning")}
    assert tuple(said) == APP_KEYS
    assert ast.literal_eval(said[FILTER_SETTING]) == list(SECRETS)


def test_what_cannot_be_set() -> None:
    said = {
        name: ast.literal_eval(value)
        for name, value, *_ in rows("reference/options.md", "what", "value", "unit", "meaning")
    }
    assert said == {
        "drain": drain.GRACE,
        "close": websocket.CLOSE_TIMEOUT,
        "compress": websocket.COMPRESS_FROM,
        "inbox": inbox.INBOX_LIMIT,
        "query": handshake.QUERY_LIMIT,
    }


def test_limits_of_security() -> None:
    said = [default for _, default, _ in rows("explanation/security.md", "limit", "default", "what happens beyond it")]
    options, settings = Options(), Settings()
    assert said == [
        f"{answers.AT_ONCE}",
        f"{options.max_frame_size:,} bytes",
        f"{options.outbox_limit >> 20} MiB",
        f"{options.outbox_timeout:.0f} seconds",
        f"{options.timeout:.0f} seconds",
        f"{options.max_channels}",
        f"{options.max_name_length:,} characters",
        f"{options.join_timeout:.0f} seconds",
        f"{inbox.INBOX_LIMIT:,}",
        f"{options.inbox_limit >> 20} MiB",
        f"{settings.inbox_total >> 20} MiB",
        f"{inbox.INBOX_LIMIT:,}",
        f"{options.inbox_limit >> 20} MiB",
        f"{channel_server.SEND_LIMIT:,}",
        f"{listener.LISTENER_LIMIT >> 20} MiB",
        f"{hubs.WAITING_LIMIT >> 20} MiB",
        f"{settings.history_total >> 20} MiB",
        f"{websocket.MAX_EMPTY_FRAGMENTS}",
        f"{options.max_body_size:,} bytes",
        f"{options.body_timeout:.0f} seconds",
        f"{settings.bodies_total >> 20} MiB",
        f"{BATCH}",
        f"{UNUSED_SESSIONS}",
        f"{handshake.QUERY_LIMIT:,} bytes",
        f"{settings.head_timeout:.0f} seconds",
        f"{settings.upload_timeout:.0f} seconds",
        f"{settings.keepalive_timeout:.0f} seconds",
    ]
    assert stated("explanation/security.md", r"good for (\d+) seconds, and is done once") == [MAX_SKEW]
    assert stated("explanation/security.md", r"each (\d+) KiB") == [PIECE >> 10]
    assert stated("explanation/security.md", r"for (\d+) milliseconds") == [LONG_TURN * 1000]
    assert stated("explanation/security.md", r"have to rest, and (\d+) seconds") == [MAX_REST]
    assert f"{REST:.0f}" == "2"
    assert "twice what it took" in prose("explanation/security.md")
    assert f"after {SHOWN_CHARACTERS} characters" in prose("explanation/security.md")


def test_numbers_of_recovery() -> None:
    text = prose("howto/recovery.md")
    default = history.History()
    assert f"History(size={default.size}, ttl={default.ttl:.0f}, max_bytes={default.max_bytes})" in text
    assert f"{history.TOTAL >> 20} MiB" in text
    assert f"every {histories.CHECK_PERIOD:.0f} s" in text
    assert f"that hangs, {histories.OPEN_TIMEOUT:.0f} s at most" in text
    assert f"to be kept wait for {BUSY_TIMEOUT:.0f} s at most" in text
    assert f"more than {BLOCK * 1000:.0f} ms at a time" in text
    assert f"a string of 1 to {MAX_KEY}" in text
    assert f"a string of up to {MAX_KEY} characters" in text
    assert f"for {once.KEPT.ttl / 60:.0f} minutes by all nodes, up to {once.KEPT.size // 2:,} of them" in text
    assert f"up to {publishing.MESSAGE_LIMIT}" in text
    assert f"good for {publishing.TOLERANCE} s" in text
    assert f"more than {publishing.BODY_LIMIT:,} bytes" in text
    assert len((ROOT / "flask_phoenix" / "static" / "recover.mjs").read_bytes()) < 1024


@pytest.mark.parametrize("number", [0, 1], ids=["ours", "gunicorn"])
def test_longest_request_line(servers: Servers, number: int) -> None:
    commands = (
        ("-m", "tests.golden.peer", "{port}"),
        ("-m", "gunicorn", "-k", "gevent", "-b", f"{HOST}:{{port}}", "tests.golden.peer:create_app()"),
    )
    server = servers.start(sys.executable, *commands[number])
    said = rows("explanation/security.md", "server", "bytes of method, path, query and `HTTP/1.1`")[number][1]
    longest = int(said.partition(";")[0].replace(",", ""))
    fixed = len("GET /socket/websocket?a= HTTP/1.1")
    for size, status in ((longest, 400), (longest + 3, 414)):  # gunicorn counts the end of the line or not
        asking = http.client.HTTPConnection(HOST, server.port, timeout=DEADLINE)
        asking.request("GET", f"/socket/websocket?a={'x' * (size - fixed)}")
        assert asking.getresponse().status == status
        asking.close()


def test_bounds_of_presence() -> None:
    cells = [within for *_, within in rows("howto/presence.md", "what happens", "it is seen", "within")]
    said = [float(seconds[1]) for cell in cells if (seconds := re.match(r"([\d.]+) s\b", cell))]
    down_period = signature(Phoenix.presence).parameters["down_period"].default
    assert said == [replica.GATHER_PERIOD, COUNT_PERIOD, down_period, down_period / replica.HEARTBEATS]
    assert f" {replica.SETTLE_TIMEOUT} seconds" in prose("howto/presence.md")


def test_numbers_of_presence() -> None:
    text = " ".join(prose("howto/presence.md").split())
    options: dict[str, Any] = {field.name: field.default for field in fields(Options)}
    down_period, window = signature(Phoenix.presence).parameters["down_period"].default, options["window"]
    for said, *meant in (
        (r"at most (\d+) levels", MAX_META_DEPTH),
        (r"less than about (\d+) seconds", down_period - 2 * down_period / replica.HEARTBEATS),
        (r"`timeout` has passed, (\d+) seconds", options["timeout"]),
        (r"for (\d+) to (\d+) seconds", 1.5 * window, 3 * window),
        (r"`outbox_limit` of (\d+) MiB", options["outbox_limit"] / 2**20),
        (r"bytes every (\d+) seconds", down_period / replica.HEARTBEATS),
    ):
        assert [float(number) for number in re.search(said, text).groups()] == meant, said  # type: ignore[union-attr]


def test_sizes_of_presence() -> None:
    network, names = Network(), [f"{number:04}" for number in range(1000)]
    node, other = Node(network=network, down_period=DEADLINE / 50), Node(network=network)
    watcher = other.enter()
    node.online.track("room:1", "0000", {"status": "here"})
    eventually(lambda: all(kind in str(network.published) for kind in ("delta", "heartbeat")))
    sizes = {
        kind: len(topic) + len(data)
        for _, topic, data in network.published
        for kind in ("delta", "heartbeat")
        if f'"{kind}"'.encode() in data
    }
    for name in names[1:]:
        node.online.track("room:1", name, {"status": "here"})
    eventually(lambda: len(other.present()) == len(names))
    watcher.news()
    node.engine.stop()
    eventually(lambda: not other.present())
    ((_, leaves),) = watcher.diffs()
    other.stop()
    text = " ".join(prose("howto/presence.md").split())
    for said, size in (
        (r"heartbeat of about (\d+) bytes", sizes["heartbeat"]),
        (r"adds about (\d+) bytes", sizes["delta"]),
        (r"of about (\d+) bytes for each", len(json.dumps(leaves, separators=(",", ":"))) / len(names)),
    ):
        assert float(re.search(said, text)[1]) == pytest.approx(size, rel=0.1), said  # type: ignore[index]


def test_arguments_of_presence() -> None:
    said = {name: default for name, default, _ in rows("howto/presence.md", "argument", "default", "meaning")}
    kind, name, *periods = list(signature(Phoenix.presence).parameters.values())[1:]
    assert said["the class"] == kind.default.__name__
    assert said[name.name]
    assert {key: float(said[key]) for key in ("down_period", "grace")} == {each.name: each.default for each in periods}


@pytest.mark.parametrize("adapter", [WorkersAdapter, RedisAdapter])
def test_arguments_of_adapters(adapter: type[Adapter]) -> None:
    header = "| argument | default | unit | meaning |\n| --- | --- | --- | --- |\n"
    table = (
        read("explanation/scaling.md").partition(f"`{adapter.__name__}(")[2].partition(header)[2].partition("\n\n")[0]
    )
    said = {name: default for name, default, *_ in re.findall(r"^\| `(\w+)` \| `?(.*?)`? \|", table, re.MULTILINE)}
    arguments = signature(adapter).parameters
    assert list(said) == list(arguments)
    assert said == {name: str(one.default) for name, one in arguments.items() if one.default is not Parameter.empty} | {
        name: said[name] for name, one in arguments.items() if one.default is Parameter.empty
    }


def test_options_in_the_url_of_redis() -> None:
    assert {"url", "client", *OPTIONS} == set(signature(RedisAdapter).parameters)


def test_what_cannot_be_set_between_nodes() -> None:
    table = read("explanation/scaling.md").partition("What cannot be set:")[2]
    said = [float(value) for value in re.findall(r"^\| .* \| `([\d.]+)` \| seconds \|", table, re.MULTILINE)]
    assert said == [workers.CONFIRM_TIMEOUT, publisher.TAKE_TIMEOUT, workers.STOP_GRACE, redis.STOP_GRACE]


def test_numbers_of_scaling() -> None:
    text = " ".join(prose("explanation/scaling.md").split())
    for said, meant in (
        (r"more than (\d+) MiB wait for it", workers.QUEUE_LIMIT / 2**20),
        (r"does not answer within ([\d.]+) seconds", workers.CONFIRM_TIMEOUT),
        (r"does not confirm within ([\d.]+) seconds", signature(RedisAdapter).parameters["subscribe_timeout"].default),
        (r"does not take it within ([\d.]+) seconds", publisher.TAKE_TIMEOUT),
        (r"that of the directory has (\d+) bytes at most", directory.LONGEST),
        (r"twice `check_interval`, (\d+) seconds", 2 * signature(RedisAdapter).parameters["check_interval"].default),
        (
            r"every (\d+) s for each presence",
            signature(Phoenix.presence).parameters["down_period"].default / replica.HEARTBEATS,
        ),
    ):
        assert [float(number) for number in re.findall(said, text)] == [meant], said


def test_numbers_of_long_polling() -> None:
    window = Options.window
    for pattern, *meant in (
        (r"([\d.]+) to \d+ seconds after the last poll", ABSENT_WINDOWS * window),
        (r"to (\d+) seconds after the last poll", 2 * ABSENT_WINDOWS * window),
        (r"wait (\w+) seconds for each after", UNUSED_DELAY),
        (r"for each after the (\w+)", UNUSED_SESSIONS),
        (r"\((\w+) weeks\) bounds a session", Options.token_max_age / 7 / 86400),
        (r"more than ([\d,]+) bytes is HTTP 400", Options.max_body_size),
        (r"A batch is (\d+) lines at most", BATCH),
        (r"of which the server takes (\d+)", BATCH),
        (r"`pubsub_timeout` \((\d+) seconds\)", Options.pubsub_timeout),
        (r"above the `window`, which is (\d+) seconds unless set", window),
    ):
        assert stated("howto/longpoll.md", pattern) == meant, pattern


def test_numbers_of_deployment() -> None:
    gunicorn = Config().settings
    for pattern, *meant in (
        (r"should stay above (\d+) seconds", drain.GRACE + Settings().drain_window),
        (r"handlers have finished, (\d+) seconds at most", drain.GRACE),
        (r"at ([\d,]+) in a second", drain.CLOSE_RATE),
        (r"(\d+) % of it for closing", drain.WINDOW_SHARE * 100),
        (r"within ([\d.]+) seconds less than `--graceful-timeout`", gunicorn_server.RESERVE),
        (r"`--graceful-timeout` \((\d+) seconds by default\)", gunicorn["graceful_timeout"].default),
        (r"the default is ([\d,]+)\.", gunicorn["worker_connections"].default),
        (r"closed with code (\d+)", drain.SERVICE_RESTART),
    ):
        assert stated("howto/deploy.md", pattern) == meant, pattern


def test_the_formula_of_scaling() -> None:
    def first(cell: str) -> float:
        return float(re.findall(r"[\d.]+", cell.replace(",", ""))[0])

    line = re.compile(r"^\| \*([SFDPR])\*:(?:.*?(workers|Redis))? ?.*?\|.*?\| (.*) \| (.*) \|$", re.MULTILINE)
    costs = {
        (part, over): (first(one), first(burst))
        for part, over, one, burst in line.findall(read("explanation/scaling.md"))
    }
    said = rows(
        "explanation/scaling.md", "messages a second", "`workers:`, all nodes", "over Redis, all nodes", "Redis"
    )
    nodes, clients = 4, 12
    formulas = [results for name, *results in said if name.startswith("the formula")]
    assert len(formulas) == 2
    for mode, results in enumerate(formulas):
        other = 10 if mode else costs["D", ""][mode] + 0.5  # in bursts each has other messages
        for over, published, cell in (("workers", nodes - 1, results[0]), ("Redis", 1, results[1])):
            cost = costs["S", ""][mode] + published * costs["P", over][mode] + (nodes - 1) * costs["R", over][mode]
            cost += nodes * costs["F", ""][mode] + (clients - nodes) * other
            assert first(cell) == pytest.approx(cost, rel=0.03)


@pytest.mark.parametrize(
    ("page", "said", "meant"),
    [
        ("howto/channels.md", r"If ([\d,]+) wait, the channel crashes", inbox.INBOX_LIMIT),
        ("howto/channels.md", r"cut at ([\d,]+) characters", SHOWN_CHARACTERS),
        ("howto/payloads.md", r"At most ([\d,]+)\serrors", MAX_ERRORS),
        ("reference/differences.md", r"while ([\d,]+) wait in one channel", inbox.INBOX_LIMIT),
        ("reference/differences.md", r"beyond ([\d,]+) the channel crashes", inbox.INBOX_LIMIT),
        ("howto/testing.md", r"(\d) real seconds at most", WITHIN),
        ("howto/background.md", r"called again: after (\d) s", background.FIRST_PAUSE),
        ("howto/background.md", r"up to (\d+) s", background.LONGEST_PAUSE),
        ("howto/background.md", r"It has (\d) s to end at the drain", background.STOP_GRACE),
        ("howto/background.md", r"and has (\d) s to end; then", background.STOP_GRACE),
        ("howto/background.md", r"about ([\d.]+) s after the leader's process", leader.LOOK),
        ("howto/background.md", r"a lease of (\d) s, renewed each second", lease.LEASE),
        ("howto/background.md", r"(\d) s after the leader was killed at most", lease.LEASE),
        ("howto/background.md", r"ends its function (\d) s before Redis", lease.MARGIN),
        ("howto/testing.md", r"a heartbeat every (\d+) seconds", HEARTBEAT_PERIOD),
    ],
)
def test_numbers_of_channels_and_of_testing(page: str, said: str, meant: float) -> None:
    text = " ".join(read(page).split())
    assert [float(number.replace(",", "")) for number in re.findall(said, text)] == [meant]


def test_what_is_done_each_second_is_done_each_second() -> None:
    assert lease.RENEWAL == 1
    assert "renewed each second" in read("howto/background.md")
    assert "at most, and a second to look" in read("howto/background.md")


def test_numbers_of_differences() -> None:
    text, options = read("reference/differences.md"), Options()
    down_period = signature(Phoenix.presence).parameters["down_period"].default
    forgotten = replica.PERMDOWN_PERIODS * (down_period - down_period / replica.HEARTBEATS)
    for said in (
        f"| 10 MB | {options.max_frame_size / 1e6:.0f} MB |",
        f"closed with 1013 beyond `outbox_limit`, {options.outbox_limit >> 20} MiB",
        f"beyond {MAX_READ_DEPTH} levels the connection ends with 1011; what is written may have {MAX_DEPTH}",
        f"of more than {sys.get_int_max_str_digits():,} digits",
        f"| at {drain.CLOSE_RATE:,} clients a second,",
        f"as handlers are, {drain.GRACE:.0f} s together",
        f"| {replica.GATHER_PERIOD} s after a change |",
        f"every sixth part of `down_period`, {down_period / replica.HEARTBEATS:.0f} s |",
        f"after about {forgotten / down_period:.0f} times `down_period`, {forgotten / 60:.0f} minutes |",
    ):
        assert said in text


def test_ways_between_nodes() -> None:
    text = read("explanation/scaling.md")
    known = {point.name: point.load() for point in entry_points(group=ADAPTERS)}
    leads = {url.partition(":")[0] for url, _ in rows("explanation/scaling.md", "URL", "leads to")}
    assert leads == {scheme for scheme, adapter in known.items() if adapter is RedisAdapter}
    assert all(f"{SETTING}={way}" in text for way in ("workers:///run/myapp", "redis://10.0.0.5", NONE))
    assert f'[project.entry-points."{ADAPTERS}"]' in text
    assert SETTING in read("reference/options.md")


def recipe(page: str, containing: str) -> Any:
    """Run the piece of code that contains this; return what it defines. The app is a test's then."""
    (code,) = (block.code for block in blocks(page, "python") if containing in block.code)
    defined: dict[str, Any] = {"__name__": "recipe"}
    exec(code, defined)
    defined["app"].testing = True
    return defined


@pytest.mark.parametrize("path", ["/logout", "/password"])
def test_a_logout_and_a_new_password_hang_up(path: str) -> None:
    defined = recipe("explanation/security.md", "user_logged_out")
    app, phoenix = defined["app"], defined["phoenix"]

    def log_in() -> str:
        flask_login.login_user(defined["load"]("7"))
        return ""

    app.add_url_rule("/login", view_func=log_in)
    http = app.test_client()
    with pytest.raises(Refused, match="log in first"):
        Client(app)
    http.get("/login")
    headers = {"Cookie": f"session={http.get_cookie('session').value}"}
    tabs = [Client(app, headers=headers) for _ in range(2)]
    assert http.post(path).status_code == 204
    assert wait_until(lambda: phoenix.connection_count() == 0, turn)
    assert [tab.closed for tab in tabs] == [(1001, "disconnected")] * 2
    if path == "/logout":
        assert http.post(path).status_code == 204  # of nobody


def test_a_token_that_expires() -> None:
    defined = recipe("explanation/security.md", "expires_at")
    app, phoenix = defined["app"], defined["phoenix"]
    http = app.test_client()

    def fetch() -> str:
        token: str = http.get("/token").json["token"]
        return token

    def connect(token: str) -> Client:
        text = b64encode(token.encode()).decode().rstrip("=")
        return Client(app, headers={"Sec-WebSocket-Protocol": f"{PHOENIX_PROTOCOL}, {handshake.TOKEN_PREFIX}{text}"})

    with pytest.raises(Refused, match="bad token"):
        connect("none")
    with connect(fetch()) as client:
        joined = client.join("room:1")
        assert joined.call("phx_refresh", {"token": fetch()}).status == "ok"
        assert joined.call("phx_refresh", {"token": phoenix.sign_token({"user_id": 8, "until": 0}, "socket")}) == Reply(
            "error", {"reason": "of somebody else"}
        )
        assert joined.call("phx_refresh").response == {"reason": "bad token"}
    assert stated("explanation/security.md", r"closed with code (\d+) and the reason `token expired`") == [EXPIRED]
    assert stated("explanation/security.md", r"(\d+) unless said otherwise") == [Options().expiry_notice]
    assert stated("explanation/security.md", r"salt, max_age=(\d+)\)`") == [MAX_AGE]


def test_commands() -> None:
    names = commands.list_commands(click.Context(commands))
    assert [name for name, _ in rows("reference/cli.md", "command", "does")] == names
    assert all(commands.get_command(click.Context(commands), name) for name in names)
    assert [line for line, _ in rows("reference/cli.md", "line", "does")] == re.findall(
        r"^(.*?)  ", client.HELP, re.MULTILINE
    )


def test_findings_of_the_doctor() -> None:
    listed = [(name.strip("`"), wrong, remedy) for name, wrong, remedy in cells("reference/doctor.md", "finding")]
    assert listed == [(name, *kind) for name, kind in KINDS.items()]
    assert cells("reference/doctor.md", "status") == [
        [str(status), meaning] for status, (meaning, _) in STATUSES.items()
    ]
    assert stated("reference/doctor.md", r"`--wait` seconds \((\d+) unless given") == [31]
    assert f"more than {redis_doctor.SKEW:g} seconds" in KINDS["clock"].wrong
    assert f"the {serving.DRAIN_TIME} seconds" in KINDS["graceful-timeout"].wrong


def test_log_lines_of_lost_links() -> None:
    may = list(logged())
    for text, level, _ in rows("explanation/scaling.md", "the log says", "level", "it means"):
        assert level in {of for of, line in may if text in line}, text


def logged() -> Iterator[tuple[str, str]]:
    """Yield what the code may log: the level, and the line before anything is put into it."""
    levels = {"warning": "WARNING", "error": "ERROR", "exception": "ERROR"}
    for node in (node for module in MODULES for node in ast.walk(tree(module))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in levels:
            for line in node.args[:1]:
                if isinstance(line, ast.Constant) and isinstance(line.value, str):
                    yield levels[node.func.attr], line.value


def test_tables_of_the_benchmark() -> None:
    """``make bench ARGS=--docs`` writes them, beside the figures."""
    results = json.loads(report.FIGURES.read_text("utf-8"))["results"] if report.FIGURES.exists() else {}
    for page in report.pages():
        text = page.read_text("utf-8")
        assert report.fill(text, results) == text, page


def test_a_million_on_paper() -> None:
    """Each figure of the table comes from those of the page on scaling."""
    text, costs = read("explanation/performance.md"), prose("explanation/scaling.md")
    assert all(cost in costs for cost in ("with gunicorn 31", "every 30 seconds | 30 µs", "0.7 to 1 ms", "4 to 5 µs"))
    reckoned = [31e6 / 2**20, 1e6 * 30e-6 / 30, 1e6 * 1e-3 / 600, 1e6 * 5e-6]
    said = [row[2].split()[0] for row in rows("explanation/performance.md", "what", "for one client", "for a million")]
    assert said == [f"{figure:.1f}".removesuffix(".0") for figure in reckoned]
    assert f"{1_000_000 // 16:,} clients" in text
    assert f"{1e6 * 5e-6 / 16:.1f} s" in text
    assert f"need {1e6 * 1e-3 / 60:.0f} cores" in text


def test_drivers_that_wait_in_c() -> None:
    named = {"MySQLdb": "mysqlclient"}
    assert all(named.get(driver, driver) in prose("explanation/gevent.md") for driver in DRIVERS)


def test_guarantees_name_their_tests() -> None:
    for path, _, name in re.findall(r"<!-- (tests/[\w/]+\.py)(::(\w+))? -->", read("explanation/guarantees.md")):
        assert f"def {name}" in (ROOT / path).read_text("utf-8"), name


def test_benchmarks_are_there() -> None:
    named = [words for page in PAGES for words in re.findall(r'make bench ARGS="?([\w ]+)', read(page))]
    assert named
    assert {name for words in named for name in words.split()} <= {
        path.stem for path in (ROOT / "benchmarks" / "questions").glob("*.py")
    }


def test_connect_info() -> None:
    assert tuple(name for name, _ in rows("reference/options.md", "name", "value")) == INFO_KEYS


@pytest.mark.parametrize(
    ("rule", "origin"),
    [
        (True, "https://evil.example"),
        (["//example.com"], "https://evil.example"),
        (CONN, "https://evil.example"),
        (True, "null"),
    ],
    ids=str,
)
def test_log_lines_of_refused_origins(rule: Any, origin: str) -> None:
    line = f"refused a client of /socket: {OriginPolicy(rule).explain(origin)}\n"
    assert line in [block.code for block in blocks("explanation/security.md", "text")]


def test_warning_of_several_processes() -> None:
    assert app_state.MANY_PROCESSES + "\n" in [block.code for block in blocks("howto/deploy.md", "text")]


@pytest.mark.parametrize(
    ("page", "cls"),
    [
        ("howto/channels.md", Channel),
        ("howto/channels.md", Socket),
        ("howto/channels.md", RawSocket),
        ("howto/channels.md", Phoenix),
        ("howto/presence.md", Presence),
        ("explanation/scaling.md", Adapter),
        ("explanation/scaling.md", Broadcaster),
        ("explanation/scaling.md", Publisher),
        ("howto/testing.md", Client),
        ("howto/testing.md", Joined),
        ("howto/testing.md", Clock),
    ],
)
def test_every_method_is_described(page: str, cls: type) -> None:
    described = set(re.findall(r"\w+", prose(page)))
    assert public(cls) <= described


def test_reasons_of_terminate() -> None:
    said = {reason for reason, _ in rows("howto/channels.md", "reason", "why") if reason.startswith('"')}
    mapped = {
        reason
        for _, reason, _ in rows("reference/differences.md", "Elixir", "Python", "when")
        if reason.startswith('"')
    }
    assert said == mapped == {f'"{reason}"' for reason in reasons() - OF_RAW_SOCKETS}
    assert all(f'"{reason}"' in prose("howto/channels.md") for reason in reasons())


def reasons() -> set[str]:
    """Return the reasons for which the engine ends a channel or a raw socket, as its code gives them."""
    calls = [node for module in MODULES for node in ast.walk(tree(module)) if isinstance(node, ast.Call) and node.args]
    ends = [
        end for call in calls if getattr(call.func, "attr", getattr(call.func, "id", "")) in ENDING for end in call.args
    ]
    return {end.value for end in ends if isinstance(end, ast.Constant) and isinstance(end.value, str)}


#: The reasons that no channel ends with.
OF_RAW_SOCKETS = {"crashed", "cannot be served"}
#: The methods that are given such a reason.
ENDING = {"close", "closed", "end", "_close"}


def test_every_quirk_is_decided() -> None:
    conversations = json.loads((ROOT / "tests" / "golden" / "conversations.json").read_text("utf-8"))
    quirks = {case["id"] for case in conversations if case.get("quirk")}
    said = rows("reference/differences.md", "case", "Phoenix", "flask_phoenix", "why")
    polling = {case for case in quirks if case.startswith("L.")}
    assert {case for cases, *_ in said for case in cases.split(", ")} == quirks - polling
    assert all(case in prose("reference/differences.md") for case in polling)


def test_readme_runs() -> None:
    namespace: dict[str, Any] = {"__name__": "readme"}
    for match in FENCE.finditer((ROOT / "README.md").read_text("utf-8")):
        if match[2] == "python":
            exec(compile(match[3], "README.md", "exec"), namespace)
    app: Flask = namespace["app"]
    with Client(app, params={"name": "Ada"}) as ada:
        lobby = ada.join("room:lobby")
        assert lobby.call("new_msg", {"body": "Hello"}) == Reply("ok", {"saved": True})
        assert lobby.assert_push("new_msg") == {"from": "Ada", "body": "Hello"}
        assert app.test_client().post("/announce").status_code == 204
        assert lobby.assert_push("new_msg") == {"from": "the server", "body": "Lunch!"}
        with pytest.raises(Refused, match="unauthorized"):
            ada.join("room:secret")


def test_nothing_is_left_lying_about() -> None:
    leftover = re.compile("|".join([r"(?<![\w.])/(?:home|root|work)/", r"\bTO" r"DO\b", r"\bFIX" r"ME\b"]))
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    # The client for pages is as it was published.
    files = [path for name in names if name and (path := ROOT / name).is_file() and path.name != "phoenix.mjs"]
    found = {str(path): leftover.findall(path.read_text("utf-8", "replace")) for path in files}
    assert not {name: matches for name, matches in found.items() if matches}
