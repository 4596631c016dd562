"""Attacks on a server of this machine, as in docs/security.md."""
