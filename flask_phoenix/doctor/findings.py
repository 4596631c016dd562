"""What can be wrong with a set-up, and what to do then."""

from __future__ import annotations

from typing import NamedTuple


class Kind(NamedTuple):
    """A kind of finding."""

    wrong: str
    remedy: str


class Finding(NamedTuple):
    """Something that is wrong with this set-up."""

    #: One of :data:`KINDS`.
    name: str
    #: What was seen.
    wrong: str
    remedy: str


#: What lets an app behind a proxy know the host that a page was loaded from.
PASS_THE_HOST = (
    "let it pass on the header `Host` (`proxy_set_header Host $http_host;` in nginx), or, where it sets"
    " `X-Forwarded-Host`, write `app.wsgi_app = ProxyFix(app.wsgi_app, x_host=1)`"
)
#: Every kind, by its name; docs/reference/doctor.md lists them.
KINDS = {
    "app": Kind("the app cannot be made, or its server refuses the command", "read the error, which names the remedy"),
    "sockets": Kind(
        "no socket is mounted",
        "write `@phoenix.socket('/socket')` above a class, in a module that the app imports",
    ),
    "patching": Kind(
        "gevent has not patched the standard library, or only after some of it was taken",
        "put `from gevent import monkey; monkey.patch_all()` at the very top of the file that is started; with"
        " `--preload`, import what is named in a worker, or do without `--preload`",
    ),
    "server": Kind(
        "the server has no event loop of gevent's",
        "serve with `gunicorn -k gevent`, `phoenix.run(app)` or `flask run`",
    ),
    "driver": Kind(
        "a driver written in C is loaded, and nobody is served while it waits",
        "use a driver that waits in gevent's way, or call it through `gevent.get_hub().threadpool.apply(function)`",
    ),
    "processes": Kind(
        "several workers, and `PHOENIX_PUBSUB_URL=none` joins them by nothing",
        "take that setting away, or name a way, such as `redis://localhost`",
    ),
    "directory": Kind(
        "the directory in which workers find each other cannot be used",
        "name a directory on a local disk that this user alone may enter, as in `workers:///run/myapp`",
    ),
    "redis-unreachable": Kind(
        "Redis does not answer", "look whether it runs, and whether `PHOENIX_PUBSUB_URL` names the one that is meant"
    ),
    "redis-version": Kind(
        "Redis is too old for what this app asks of it",
        "take Redis 5 or newer; 7 or newer for a cluster, which needs sharded pub/sub",
    ),
    "redis-writes": Kind(
        "Redis takes no writes: its memory or its disk is full, or it is a replica",
        "see what it answers and logs; then raise `maxmemory`, or name a `maxmemory-policy` that evicts, or make room"
        " on its disk, or name the primary instead",
    ),
    "redis-acl": Kind(
        "Redis' ACL refuses something that a node does", "give the user of the URL what the finding lists"
    ),
    "redis-buffer": Kind(
        "Redis cuts off nodes earlier than it would by its own default",
        "`CONFIG SET client-output-buffer-limit 'pubsub 32mb 8mb 60'`, or more",
    ),
    "clock": Kind(
        "the clock here and that of Redis are more than 2 seconds apart",
        "let all machines follow the same time, with chrony or systemd-timesyncd",
    ),
    "descriptors": Kind(
        "a process may open fewer files than it is to have clients",
        "raise the limit: `ulimit -n 65536`, or `LimitNOFILE=65536` in the unit of systemd",
    ),
    "graceful-timeout": Kind(
        "`--graceful-timeout` of gunicorn leaves clients and handlers less than the 15 seconds that they may take",
        "leave it at 30, or set 15 at least",
    ),
    "secret-key": Kind(
        "the app has no `SECRET_KEY`, and clients that poll need one",
        "set one, long and random, the same for all processes",
    ),
    "origin": Kind(
        "the pages of the site itself may not connect",
        f"add its origin to `check_origin`; behind a proxy, {PASS_THE_HOST}",
    ),
    "versions": Kind(
        "a package, or Python, has a version that flask_phoenix was not tried with", "install one of the range"
    ),
    "handshake": Kind("a client of the site cannot connect", "the finding tells, for each HTTP status"),
    "heartbeat": Kind(
        "a heartbeat is not answered in time", "look whether a handler or a driver holds up the event loop"
    ),
    "silence": Kind(
        "a connection is cut that is silent for no longer than clients are",
        "let the proxy wait longer: `proxy_read_timeout 75s;` in nginx, above 30 seconds everywhere",
    ),
    "poll-window": Kind(
        "a poll for which nothing comes is cut",
        "let the proxy wait longer than the `window` of the mount, which is 10 seconds unless set",
    ),
    "poll-delay": Kind(
        "a poll is not answered when something has come for it",
        "let the proxy pass on each answer at once: `proxy_buffering off;` in nginx",
    ),
}


def found(name: str, wrong: str, remedy: str = "") -> Finding:
    """Make a finding; its remedy is that of its kind, unless there is a better one."""
    return Finding(name, wrong, remedy or KINDS[name].remedy)
