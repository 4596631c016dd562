"""Telemetry: health, metrics and traces of a process."""
