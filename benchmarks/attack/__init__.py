"""Attacks on a server, and what becomes of it: ``python -m benchmarks.attack``, or ``make attack``."""
