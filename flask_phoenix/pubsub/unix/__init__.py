"""Broadcasts between the workers of one host, over Unix sockets."""
