"""The wire format and its rules. Pure: no I/O, no clock, no greenlets."""
