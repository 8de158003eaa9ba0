"""The managers of one identity: one for each of its tokens."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Any
from weakref import WeakValueDictionary

from alf._forks import register_after_fork

__all__ = ["Siblings"]

#: This many managers that no Client uses are kept with their tokens: those used last.
_MOST_KEPT = 1024


class Siblings:
    """Finds the manager for a set of options.

    The same options give the same manager, and so the same token, however many Clients are made
    with them.

    :param options: the options of the first manager.
    :param manager: the first manager.
    """

    def __init__(self, options: Mapping[str, Any], manager: Any) -> None:
        self._lock = threading.RLock()
        self._managers: WeakValueDictionary[Hashable, Any] = WeakValueDictionary()
        self._managers[_frozen(options)] = manager
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        register_after_fork(self)

    def get(self, options: Mapping[str, Any], make: Callable[[], Any]) -> Any:
        """The manager for these options; made by ``make()`` if it does not exist yet.

        ``make()`` must not do I/O. Its exceptions are passed on.
        """
        key = _frozen(options)
        with self._lock:
            manager = self._managers.get(key)
            if manager is None:
                manager = self._managers[key] = make()
            self._kept[key] = manager
            self._kept.move_to_end(key)
            if len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
            return manager

    def _after_fork(self) -> None:
        self._lock = threading.RLock()


def _frozen(value: Any) -> Hashable:
    """A hashable form of the value, equal for equal values."""
    if isinstance(value, Mapping):
        return frozenset((name, _frozen(part)) for name, part in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(map(_frozen, value))
    return value if isinstance(value, Hashable) else id(value)
