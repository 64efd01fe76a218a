"""The answer of a method that cannot do what was asked: an entry of the registry in docs/parley.rst §10."""


class Failed(Exception):
    """The request fails with this error; the connection goes on."""

    def __init__(self, error: str, text: str) -> None:
        super().__init__(text)
        self.error = error
