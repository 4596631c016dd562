"""The wire and its rules. Pure: no I/O, no clock, no greenlets."""
