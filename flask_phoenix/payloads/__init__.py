"""Payloads of declared types: what clients send is checked and converted, what the app says is made plain.

A type is a dataclass, a TypedDict, a ``msgspec.Struct``, a model of pydantic, or what is built of those. pydantic is
not imported: a model that stands in an annotation brings it along.
"""
