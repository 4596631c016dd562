"""The tests: one file for each room of the package, and some that look at the whole."""
