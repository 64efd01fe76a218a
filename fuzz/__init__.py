"""Fuzzers: `make fuzz SECONDS=600`. In this process, engines and parsers; over sockets, whole sessions with a gateway.

Each input begins as something valid and is then spoiled. What may come of it is one error of the right kind; all else
is a finding, and is printed with the seed that brings it back.
"""


class Finding(AssertionError):
    """An invariant does not hold."""
