"""What goes wrong below the core and is nobody's protocol: the storage could not do it."""

from __future__ import annotations


class StoreError(Exception):
    """The store could not do it now (disk, database); nothing was changed."""


class StoreFull(StoreError):
    """No space is left."""


class QuotaExceeded(StoreError):
    """The account's mail would be more than its quota. `never`: the message alone is."""

    def __init__(self, *, never: bool) -> None:
        super().__init__("over quota")
        self.never = never
