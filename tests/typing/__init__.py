"""Code as users write it, for type checkers: tests/test_package.py has it checked, and nobody runs it."""
