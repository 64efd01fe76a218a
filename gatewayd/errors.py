"""What goes wrong below the core and is nobody's protocol: the storage could not do it."""

from __future__ import annotations


class StoreError(Exception):
    """The store could not do it now (disk, database); nothing was changed."""


class StoreFull(StoreError):
    """No space is left."""
