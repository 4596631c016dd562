"""Broadcasts between hosts, over Redis."""
