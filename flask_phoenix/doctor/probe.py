"""Loads an app as its server would, in a process of its own: ``python -m flask_phoenix.doctor.probe FILE COMMAND...``.

What was seen is written to the file, as JSON. It imports nothing of the app's world before the server would.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from gevent import monkey

#: What waits, and is replaced when gevent patches.
WAITS = {
    "time": ("sleep",),
    "socket": ("socket", "create_connection", "getaddrinfo", "gethostbyname", "socketpair"),
    "_thread": ("allocate_lock", "start_new_thread"),
    "threading": ("Lock", "Thread", "Event", "Timer", "local"),
    "select": ("select", "poll", "epoll"),
    "selectors": ("DefaultSelector",),
    "ssl": ("SSLContext", "SSLSocket"),
    "subprocess": ("Popen", "run", "call", "check_call", "check_output"),
    "queue": ("SimpleQueue",),
}
#: Packages that hold such things, and in which nobody waits: gevent's own, the server's, and the ground of every app.
HARMLESS = {
    *("gevent", "geventwebsocket", "greenlet", "zope", "gunicorn", "packaging", "flask_phoenix", "msgspec", "ujson"),
    *("websockets", "blinker", "click", "flask", "itsdangerous", "jinja2", "markupsafe", "werkzeug"),
}
#: What need not wait for the patch: gevent, and what gunicorn has imported.
BEFORE = {"gevent", "greenlet", "zope", "gunicorn", "packaging", "__main__", "__mp_main__", "__config__"}
#: Functions in which a script begins to serve: the end of a file's path, the function, and what is told.
SERVING = {
    ("flask_phoenix/extension.py", "run"): "phoenix.run",
    ("flask/app.py", "run"): "app.run",
    ("werkzeug/serving.py", "run_simple"): "run_simple",
    ("gevent/baseserver.py", "serve_forever"): "gevent",
    ("gevent/baseserver.py", "start"): "gevent",
    ("waitress/__init__.py", "serve"): "waitress",
    ("socketserver.py", "serve_forever"): "socketserver",
}
SERVING_NAMES = {name for _, name in SERVING}
#: Drivers in C that wait on their own.
DRIVERS = ("psycopg2", "MySQLdb", "pyodbc", "cx_Oracle", "pymssql", "ibm_db", "pylibmc", "confluent_kafka")
#: What the doctor is told of gunicorn's settings.
SETTINGS = ("workers", "worker_class_str", "worker_connections", "graceful_timeout", "preload_app")


class Reached(BaseException):
    """A script begins to serve."""


class Probe:
    """What is seen while an app is loaded."""

    def __init__(self) -> None:
        self._at_first = set(sys.modules)
        self._patch_all = monkey.patch_all
        monkey.patch_all = self._patch
        self.facts: dict[str, Any] = {"server": "", "before": [], "settings": {}, "error": ""}

    def run_script(self, words: list[str]) -> None:
        """Run a script until it begins to serve."""
        sys.argv = words
        sys.setprofile(self._look)
        try:
            if words[0] == "-m":
                sys.argv = words[1:]
                runpy.run_module(words[1], run_name="__main__", alter_sys=True)
            else:
                sys.path[0] = str(Path(words[0]).resolve().parent)
                runpy.run_path(words[0], run_name="__main__")
        except Reached:
            pass
        finally:
            sys.setprofile(None)

    def run_gunicorn(self, words: list[str]) -> None:
        """Read gunicorn's settings, and load the app as its worker would."""
        sys.argv = ["gunicorn", *words]
        sys.path.pop(0)
        self.facts["server"] = "gunicorn"
        application = import_module("gunicorn.app.wsgiapp").WSGIApplication("%(prog)s", prog="gunicorn")
        settings = application.cfg
        self.facts["settings"] = {name: getattr(settings, name) for name in SETTINGS}
        kind = settings.worker_class
        names = [f"{each.__module__}.{each.__name__}" for each in kind.__mro__]
        self.facts["gevent"] = "gunicorn.workers.ggevent.GeventWorker" in names
        if settings.preload_app:
            application.wsgi()
        self.facts["master_patched"] = _is_patched("os")
        if self.facts["gevent"]:
            self._patch_all()
        application.wsgi()

    def conclude(self) -> None:
        """Look at what has been loaded, once."""
        if "holders" in self.facts:
            return
        unpatched = [name for name in ("time", "socket", "ssl", "select", "threading") if not _is_patched(name)]
        self.facts |= {"unpatched": unpatched, "holders": holders(), "drivers": blocking_drivers()}

    def _patch(self, *given: Any, **named: Any) -> Any:
        if not _is_patched("time"):
            self.facts["before"] = foreign(set(sys.modules) - self._at_first)
        return self._patch_all(*given, **named)

    def _look(self, frame: Any, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_name in SERVING_NAMES:
            for (path, name), server in SERVING.items():
                if code.co_name == name and code.co_filename.endswith(path):
                    sys.setprofile(None)
                    self.facts["server"] = server
                    self.conclude()  # while the script is __main__
                    raise Reached


def _is_patched(name: str) -> bool:
    return bool(monkey.is_module_patched(name))


def foreign(names: Iterable[str]) -> list[str]:
    """Return the packages of these modules that are neither Python's own nor need be there first, in their order."""
    given = set(names)
    packages = dict.fromkeys(name.partition(".")[0] for name in sys.modules if name in given)
    return [name for name in packages if name not in sys.stdlib_module_names | BEFORE]


def holders() -> dict[str, list[str]]:
    """Return which modules hold what waits and is not patched, in the order in which they were imported."""
    saved: dict[str, dict[str, Any]] = vars(monkey)["saved"]
    originals: dict[int, str] = {}
    for place, names in WAITS.items():
        there = saved.get(place, {})
        originals.update({id(there[name]): f"{_shown(place)}.{_shown(name)}" for name in names if name in there})
    found: dict[str, list[str]] = {}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in HARMLESS | sys.stdlib_module_names or name == "__main__":
            values = list(getattr(module, "__dict__", {}).values())  # not all that is there is a module
            held = {originals[id(value)] for value in values if id(value) in originals}
            if held:
                found[name] = sorted(held)
    context = saved.get("ssl", {}).get("SSLContext")
    for kind in context.__subclasses__() if context is not None else ():
        if kind.__module__.partition(".")[0] not in HARMLESS | sys.stdlib_module_names:
            found.setdefault(kind.__module__, []).append(f"{kind.__name__}, a subclass of ssl.SSLContext")
    return found


def _shown(name: str) -> str:
    return {"_thread": "threading", "allocate_lock": "Lock"}.get(name, name)


def blocking_drivers() -> list[str]:
    """Return the drivers that are loaded and wait on their own."""
    return [name for name in DRIVERS if name in sys.modules and not (name == "psycopg2" and _has_wait_callback())]


def _has_wait_callback() -> bool:
    extensions = sys.modules.get("psycopg2.extensions")
    return extensions is not None and extensions.get_wait_callback() is not None


def main() -> None:
    """Do it, and write what was seen."""
    _, report, kind, *words = sys.argv
    probe = Probe()
    try:
        (probe.run_gunicorn if kind == "gunicorn" else probe.run_script)(words)
    except SystemExit as error:
        if error.code:
            probe.facts["error"] = f"it ends with status {error.code}"
    except BaseException as error:
        probe.facts["error"] = f"{type(error).__name__}: {error}"
    probe.conclude()
    Path(report).write_text(json.dumps(probe.facts), "utf-8")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # what the app has started is not waited for


if __name__ == "__main__":
    main()
