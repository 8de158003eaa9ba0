"""Types of arguments. Imports nothing, so that they cost nothing."""

from __future__ import annotations

from collections.abc import Set
from typing import Any, Protocol

__all__ = ["Hosts", "Storage"]

#: Several names. One alone is a string, which type checkers would take for a Sequence[str].
Hosts = list[str] | tuple[str, ...] | Set[str]


class Storage(Protocol):
    """What ``token_storage`` has to have; a mutable mapping will do, too.

    Caches and clients of caches have it. "Storage" in the documentation says which other methods
    alf uses, if they exist.
    """

    def get(self, key: str, /) -> Any:
        """The value, as ``str`` or ``bytes``; ``None`` if there is none."""

    def set(self, key: str, value: str, /) -> Any:
        """Store the value. A parameter called ``ttl`` gets the seconds for which to keep it."""
