"""``flask phoenix doctor``: what is wrong with this set-up."""

from __future__ import annotations

import json

import click
from flask.cli import NoAppException, ScriptInfo, pass_script_info

from ..app_state import State, state_of
from ..doctor.examination import Case, examine
from ..doctor.findings import Finding, found
from ..doctor.site import Visit
from ..exceptions import PhoenixError
from .client import headers_of, pairs


@click.command("doctor")
@click.option("--url", default="", help="A site that runs, as https://chat.example.com; with a path: of that mount.")
@click.option("--params", multiple=True, metavar="NAME=VALUE", help="A parameter of the connect.")
@click.option("--header", multiple=True, metavar="NAME:VALUE", help="A header of the requests, such as a Cookie.")
@click.option("--auth-token", help="The client's authToken.")
@click.option("--wait", default=31.0, show_default=True, help="Seconds of silence that a connection has to outlive.")
@click.option("--json", "as_json", is_flag=True, help="Write the findings as JSON.")
@click.argument("command", nargs=-1, metavar="[-- COMMAND...]")
@pass_script_info
def doctor(
    info: ScriptInfo,
    url: str,
    params: tuple[str, ...],
    header: tuple[str, ...],
    auth_token: str | None,
    wait: float,
    as_json: bool,
    command: tuple[str, ...],
) -> None:
    """Tell what is wrong with this set-up. COMMAND is the one that serves, as in -- gunicorn -k gevent -w 4 app:app.

    The exit status is 0 where nothing is found, and 1 where something is.
    """
    query = {"vsn": "2.0.0", **dict(pairs(params, "=", "--params"))}
    visit = Visit(query, wait, headers_of(header), auth_token)
    state, findings = _load(info, url)
    findings += examine(Case(state, list(command), url, visit)) if state or url else []
    if as_json:
        click.echo(json.dumps([finding._asdict() for finding in findings], indent=2))
    elif not findings:
        click.echo("nothing found")
    else:
        click.echo("\n\n".join(_describe(finding) for finding in findings))
    raise SystemExit(1 if findings else 0)


def _load(info: ScriptInfo, url: str) -> tuple[State | None, list[Finding]]:
    """Return what the app has of Phoenix, or why it cannot be made; with a URL, there need be no app."""
    try:
        return state_of(info.load_app()), []
    except NoAppException:
        if not url:
            raise
        return None, []
    except PhoenixError as error:
        return None, [found("app", str(error))]


def _describe(finding: Finding) -> str:
    return f"{finding.name}: {finding.wrong}\n  remedy: {finding.remedy}"
