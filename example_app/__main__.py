"""Serve the chat: ``python -m example_app --port 4000``."""

from gevent import monkey

monkey.patch_all()  # before anything starts; the import of the package, which came first, starts nothing

import click  # noqa: E402

from example_app import create_app  # noqa: E402
from example_app.sockets import phoenix  # noqa: E402


@click.command()
@click.option("--port", default=4000, show_default=True, help="Where to listen on 127.0.0.1.")
def main(port: int) -> None:
    """Serve the example chat."""
    app = create_app()
    click.echo(f"The chat is at http://127.0.0.1:{port}/ - the code of its staff room is {app.config['STAFF_CODE']!r}")
    phoenix.run(app, port=port)


if __name__ == "__main__":
    main()
