"""One worker, without gunicorn: ``python -m example_app.serve``."""

from gevent import monkey

monkey.patch_all()  # before anything starts; the import of the package, which came first, starts nothing

import click  # noqa: E402

from example_app import create_app  # noqa: E402
from example_app.sockets import phoenix  # noqa: E402


@click.command()
@click.option("--port", default=4000, show_default=True, help="Where to listen on 127.0.0.1.")
def main(port: int) -> None:
    """Serve the example from this process alone."""
    phoenix.run(create_app(), port=port)


if __name__ == "__main__":
    main()
