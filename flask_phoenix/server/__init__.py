"""The HTTP servers that run an app: ours on gevent, and gunicorn."""
