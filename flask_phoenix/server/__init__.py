"""The HTTP servers below: gevent and gunicorn."""
