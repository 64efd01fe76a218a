"""Parley/1, sans-IO: docs/parley.rst. One engine for client, server and peer."""


class RemoteProtocolError(Exception):
    """The peer broke the protocol. `code` is the registry's name of it (docs/parley.rst §Errors)."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text


class LocalProtocolError(Exception):
    """We asked the engine for something that its state does not allow."""
