"""The official JavaScript client, newest and oldest, on Node and in a browser: every story of ``clients/stories``."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.clients import driver
from tests.support.processes import Server, Servers

#: Stories for every client and both versions of the wire format.
COMMON = (
    "announcement_from_a_view",
    "broadcast",
    "broadcast_precedes_the_reply",
    "broadcast_to_the_others",
    "client_disconnects",
    "closed_by_the_server",
    "compression_where_asked_for",
    "crash_and_rejoin",
    "crashed_join_is_tried_again",
    "error_reply",
    "forced_disconnect",
    "heartbeats_during_a_slow_handler",
    "heartbeats_during_a_slow_join",
    "join",
    "large_message",
    "late_reply",
    "leave_and_rejoin",
    "many_in_order",
    "no_reply_times_out",
    "one_channel_is_ended",
    "packed_mount",
    "presence_calls_back",
    "presence_ends_with_a_channel_that_stops",
    "presence_of_tabs",
    "presence_outlives_a_forced_disconnect",
    "presence_outlives_trouble",
    "presence_with_more_told_of_each_key",
    "presence_without_a_channel",
    "push_and_reply",
    "pushes_before_the_join",
    "refused_connect",
    "refused_join_is_tried_again",
    "slow_handler_keeps_order",
    "token_expires",
    "token_is_refreshed",
    "unmatched_topic",
)
#: Stories of version 2 only, which has binary frames, and tells by the join_ref which join a close belongs to.
SECOND = ("binary_broadcast", "binary_push", "binary_push_and_reply", "empty_binary", "two_channels_on_one_topic")
#: Stories of the newest client only: the oldest knows no token.
TOKEN = ("auth_token", "no_auth_token")
#: A story of the newest client only: the oldest takes a key such as "constructor" for what every object has.
KEYS = ("presence_of_awkward_keys",)
#: A story that is another one each time; when it fails, it tells the seed that makes the same one again.
CHANCE = ("presence_by_chance",)
#: A story without any Phoenix client.
PLAIN = ("plain_websocket",)
#: Stories that ask for help with their server: each has one of its own.
HELPED = ("presence_outlives_a_restart", "server_restart", "server_stops")
#: Stories of the newest client only: the oldest does not fall back.
FALLBACK = (
    "falls_back_where_websockets_are_mute",
    "falls_back_where_websockets_are_refused",
    "stays_with_a_healthy_websocket",
)
#: Stories of pages at another origin, for browsers only.
ABROAD = ("another_origin", "another_origin_is_refused")

#: Stories that make no sense without a WebSocket: compression, heartbeats (a client that polls sends none), and bytes
#: from the server.
WEBSOCKET_ONLY = {
    "binary_broadcast",
    "binary_push_and_reply",
    "compression_where_asked_for",
    "empty_binary",
    "heartbeats_during_a_slow_handler",
    "heartbeats_during_a_slow_join",
    "packed_mount",
}
#: Stories without one.
POLLING_ONLY = ("batches_keep_their_order", "leaves_before_it_goes", "session_token_expires")
#: What the oldest client gets wrong over polls: it sends more lines at a time than are read, writes no base64, and
#: does not join again when its session is gone.
TOO_OLD = {
    "binary_push",
    "forced_disconnect",
    "many_in_order",
    "presence_outlives_a_forced_disconnect",
    "token_expires",
}
#: Stories for clients that poll.
POLLED_BY_OLDEST = [story for story in (*COMMON, *SECOND) if story not in WEBSOCKET_ONLY | TOO_OLD]
POLLED = [story for story in (*COMMON, *SECOND, *TOKEN, *KEYS, *CHANCE, *POLLING_ONLY) if story not in WEBSOCKET_ONLY]
#: Each story is played by each client in a browser, and in a browser over each transport, but not by each over each: no
#: code looks at all three.
OLDEST_IN_A_BROWSER = [story for story in (*COMMON, *SECOND, *CHANCE) if story not in POLLED_BY_OLDEST]
POLLED_BY_NEWEST_IN_A_BROWSER = [story for story in POLLED if story not in POLLED_BY_OLDEST]

SERVE = (sys.executable, "-m", "tests.clients.server_app", "{port}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a server for many stories, each on topics of its own."""
    servers = Servers(tmp_path_factory.mktemp("servers"))
    yield servers.start(*SERVE, **driver.STRICT)
    servers.stop()


@pytest.fixture(scope="module")
def url(server: Server) -> str:
    """Return that server's address."""
    return driver.base(server)


@pytest.fixture(scope="module")
def node() -> Iterator[driver.Script]:
    """Return a Node process that plays stories."""
    script = driver.Script("stories.mjs")
    yield script
    script.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[driver.Script]:
    """Return a browser that plays stories in pages."""
    script = driver.Script("browser.mjs")
    assert "ready" in script.hear()
    yield script
    script.close()


@pytest.fixture(scope="module")
def lasting_keeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[driver.Keeper]:
    """Keep a server for many stories."""
    servers = Servers(tmp_path_factory.mktemp("kept"))
    keeper = driver.Keeper(servers.start(*SERVE, **driver.STRICT))
    yield keeper
    keeper.server.stop()


@pytest.fixture
def keeper(lasting_keeper: driver.Keeper) -> driver.Keeper:
    """Return what keeps a server that is stopped and started on demand; it runs."""
    if lasting_keeper.server.process.poll() is not None:
        lasting_keeper.start()
    lasting_keeper.statuses.clear()
    return lasting_keeper


def test_every_story_is_played() -> None:
    script = driver.Script("stories.mjs", "--list")
    stories = script.hear()
    script.close()
    newest = (*TOKEN, *KEYS, *FALLBACK, *PLAIN)
    assert sorted(stories) == sorted((*COMMON, *SECOND, *CHANCE, *newest, *HELPED, *ABROAD, *POLLING_ONLY))


@pytest.mark.parametrize("options", ["--client oldest --vsn 1.0.0", "--transport longpoll"])
def test_command_line(url: str, options: str) -> None:
    script = driver.Script("stories.mjs", url, "join", *options.split())
    driver.assert_good(script.result())
    assert script.close() == 0


@pytest.mark.parametrize("story", [*COMMON, *SECOND, *TOKEN, *KEYS, *CHANCE, *PLAIN, *FALLBACK])
def test_newest(node: driver.Script, url: str, story: str) -> None:
    driver.play(node, url, story)


@pytest.mark.parametrize("story", [*COMMON, *SECOND, *CHANCE])
def test_oldest(node: driver.Script, url: str, story: str) -> None:
    driver.play(node, url, story, client="oldest")


@pytest.mark.parametrize("client", ["newest", "oldest"])
@pytest.mark.parametrize("story", COMMON)
def test_version_1(node: driver.Script, url: str, story: str, client: str) -> None:
    driver.play(node, url, story, client=client, vsn="1.0.0")


@pytest.mark.parametrize("client", ["newest", "oldest"])
@pytest.mark.parametrize("story", HELPED)
def test_server_goes_away(node: driver.Script, keeper: driver.Keeper, story: str, client: str) -> None:
    driver.play(node, driver.base(keeper.server), story, client=client, helpers=keeper.helpers)
    assert keeper.statuses == [0]


@pytest.mark.parametrize("story", [*COMMON, *SECOND, *TOKEN, *KEYS, *CHANCE, *PLAIN, *FALLBACK])
def test_newest_in_a_browser(browser: driver.Script, url: str, story: str) -> None:
    driver.play(browser, url, story)


@pytest.mark.parametrize("story", OLDEST_IN_A_BROWSER)
def test_oldest_in_a_browser(browser: driver.Script, url: str, story: str) -> None:
    driver.play(browser, url, story, client="oldest")


@pytest.mark.parametrize("story", HELPED)
def test_server_goes_away_from_a_browser(browser: driver.Script, keeper: driver.Keeper, story: str) -> None:
    driver.play(browser, driver.base(keeper.server), story, helpers=keeper.helpers)
    assert keeper.statuses == [0]


@pytest.mark.parametrize("story", POLLED)
def test_newest_polls(node: driver.Script, url: str, story: str) -> None:
    driver.play(node, url, story, transport="longpoll")


@pytest.mark.parametrize("story", POLLED_BY_NEWEST_IN_A_BROWSER)
def test_newest_polls_in_a_browser(browser: driver.Script, url: str, story: str) -> None:
    driver.play(browser, url, story, transport="longpoll")


@pytest.mark.parametrize("story", POLLED_BY_OLDEST)
def test_oldest_polls_in_a_browser(browser: driver.Script, url: str, story: str) -> None:
    driver.play(browser, url, story, client="oldest", transport="longpoll")


@pytest.mark.parametrize("story", HELPED)
def test_server_of_a_client_that_polls_goes_away(node: driver.Script, keeper: driver.Keeper, story: str) -> None:
    driver.play(node, driver.base(keeper.server), story, transport="longpoll", helpers=keeper.helpers)
    assert keeper.statuses == [0]


@pytest.mark.parametrize("transport", ["websocket", "longpoll"])
@pytest.mark.parametrize("story", ABROAD)
def test_page_of_another_origin(browser: driver.Script, server: Server, story: str, transport: str) -> None:
    origin = f"http://localhost:{server.port}"
    driver.play(browser, driver.base(server), story, transport=transport, origin=origin)


def test_browser_asks_before_a_page_of_another_origin_polls(browser: driver.Script, server: Server) -> None:
    origin = f"http://localhost:{server.port}"
    driver.play(browser, driver.base(server), "another_origin", transport="longpoll", origin=origin)
    server.wait_for_log("preflight of /abroad/longpoll")


#: How the two are connected, and the environment that makes it so, beside the script.
WAYS = {"websocket": {}, "refused": {"FLASK_PHOENIX_WEBSOCKET": "false"}, "mute": {}}


@pytest.mark.parametrize("way", WAYS)
def test_two_people_chat_in_the_example_app(servers: Servers, way: str) -> None:
    command = (sys.executable, "-m", "example_app", "--port", "{port}")
    keeper = driver.Keeper(servers.start(*command, **driver.STRICT, **WAYS[way]))
    script = driver.Script("chat.mjs", driver.base(keeper.server), "ember", way)
    try:
        driver.assert_good(script.result(keeper.helpers))
    finally:
        script.close()
        keeper.server.stop()
