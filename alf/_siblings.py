"""The managers of one identity's tokens, one for each token that its Clients have."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Any
from weakref import WeakValueDictionary

from alf._forks import register_after_fork

__all__ = ["Siblings"]

#: Managers that are kept with their token while no Client uses them, the last used ones.
_MOST_KEPT = 1024


class Siblings:
    """Managers by the options that set their tokens apart.

    The same options give the same manager, and so the same token, however often a Client is made
    for them.

    :param options: the options of the first manager.
    :param manager: that manager.
    """

    def __init__(self, options: Mapping[str, Any], manager: Any) -> None:
        self._lock = threading.RLock()
        self._managers: WeakValueDictionary[Hashable, Any] = WeakValueDictionary()
        self._managers[_frozen(options)] = manager
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        register_after_fork(self)

    def get(self, options: Mapping[str, Any], make: Callable[[], Any]) -> Any:
        """The manager for these options; a new one if there is none.

        ``make`` does no I/O. What it raises is raised.
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
    """The value as one that can be a key: equal for equal values."""
    if isinstance(value, Mapping):
        return frozenset((name, _frozen(part)) for name, part in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(map(_frozen, value))
    return value if isinstance(value, Hashable) else id(value)
