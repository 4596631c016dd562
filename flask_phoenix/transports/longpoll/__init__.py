"""Frames over repeated requests."""
