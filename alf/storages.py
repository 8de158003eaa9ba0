"""alf's own storages for tokens: files, and encryption around any other storage."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alf._backends import LONGEST_TTL, Backend, as_text, make_backend
from alf._types import Storage

__all__ = ["EncryptedStorage", "FileStorage", "Storage"]

logger = logging.getLogger("alf")

#: At most this many characters of a file are read; a longer file is not an entry.
_LONGEST_FILE = 1024 * 1024


class FileStorage:
    """Keeps tokens in files, for cron jobs and command lines.

    Each entry is a file of mode 0600 that is replaced as a whole. Processes that want a token at
    the same time wait for the one that requests it. Needs the extra ``file``.

    :param path: the folder, which is made with mode 0700 if it is missing. A folder that belongs to
        another user, or that others may write to, is not used. The default is ``alf`` in the
        user's cache folder.
    :raises ImportError: the extra is not installed.
    :raises ValueError: ``path`` is not given, and the user's cache folder is not known.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        try:
            import filelock  # noqa: F401
            import platformdirs
        except ImportError:
            message = "FileStorage needs filelock and platformdirs: pip install 'alf[file]'"
            raise ImportError(message) from None
        if path is None:
            path = platformdirs.user_cache_path("alf", appauthor=False)
            if not path.is_absolute():  # without HOME, for a user that the system does not know
                message = f"the user's cache folder is not known (got {path}): give FileStorage one"
                raise ValueError(message)
        self._folder = Path(path).absolute()

    def _as_backend(self) -> Backend:
        return Backend(
            self.get,
            lambda key, value, _ttl: self.set(key, value),
            self.delete,
            _FileLock(self),
            lambda key, name: (self.get(key), self.get(name)),
        )

    def get(self, key: str) -> str | None:
        """The entry; ``None`` without one, or if another user may have written it."""
        if not self._is_safe():
            return None
        # These flags guard against a link or a pipe that was planted in the file's place.
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        try:
            descriptor = os.open(self._file(key), flags)
        except OSError:
            return None
        try:
            found = os.fstat(descriptor)
            is_own = not hasattr(os, "geteuid") or found.st_uid == os.geteuid()
            if not is_own or not stat.S_ISREG(found.st_mode):
                return None
            with open(descriptor, encoding="utf-8", closefd=False) as file:
                return file.read(_LONGEST_FILE)
        finally:
            os.close(descriptor)

    def set(self, key: str, value: str) -> None:
        """Replace the entry; raises :class:`OSError`."""
        self._make_folder()
        descriptor, name = tempfile.mkstemp(dir=self._folder, suffix=".tmp")  # of mode 0600
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(value)
            Path(name).replace(self._file(key))
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def delete(self, key: str) -> None:
        """Remove the entry if there is one; raises :class:`OSError`."""
        if self._folder.exists():
            self._make_folder()
            self._file(key).unlink(missing_ok=True)

    def _make_folder(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self._is_safe():
            # Others could replace a lock by a link there, or swap entries.
            message = (
                f"the folder {self._folder} must belong to this user, "
                "and nobody else may write to it"
            )
            raise PermissionError(message)

    def _is_safe(self) -> bool:
        """Whether the folder exists, belongs to this user, and nobody else may write to it."""
        try:
            found = self._folder.stat()
        except OSError:
            return False
        if not hasattr(os, "geteuid"):  # pragma: no cover (Windows has no such thing)
            return True
        return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)

    def _file(self, key: str) -> Path:
        # A digest is a valid file name on every system.
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.json"


class _FileLock:
    """A file lock of the operating system, which ends with its process.

    The value of the holder is in an entry beside it.
    """

    def __init__(self, storage: FileStorage) -> None:
        self._storage = storage
        self._held: dict[str, Any] = {}

    def take(self, name: str, value: str, seconds: int) -> bool:
        from filelock import FileLock, Timeout

        del seconds
        self._storage._make_folder()
        path = self._storage._file(name).with_suffix(".lock")
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(path.lstat().st_mode):
                message = f"{path} is not a file"
                raise PermissionError(message)
        # Any thread may release it, not only the one that took it.
        lock = FileLock(path, mode=0o600, thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        try:
            self._storage.set(name, value)
        except BaseException:
            lock.release()
            raise
        self._held[value] = lock
        return True

    def holder(self, name: str) -> object:
        return self._storage.get(name)

    def release(self, name: str, value: str) -> None:
        lock = self._held.pop(value, None)
        if lock is None:  # held by another process, which alone can release it
            return
        try:
            self._storage.delete(name)
        finally:
            lock.release()


class EncryptedStorage:
    """Encrypts the tokens in another storage.

    A value that does not verify, or that was stored under another key of the storage, is ignored.
    Needs the extra ``crypto``.

    :param storage: the other storage, of any kind that ``token_storage`` takes.
    :param key: a key from ``cryptography.fernet.Fernet.generate_key()`` (32 bytes in URL-safe
        base64), or several, of which the first encrypts and all decrypt.
    :raises ImportError: the extra is not installed.
    :raises TypeError: the storage is not of a suitable kind.
    :raises ValueError: a key is not valid.
    """

    def __init__(self, storage: Any, key: str | bytes | Sequence[str | bytes]) -> None:
        try:
            from cryptography.fernet import Fernet, InvalidToken, MultiFernet
        except ImportError:
            message = "EncryptedStorage needs cryptography: pip install 'alf[crypto]'"
            raise ImportError(message) from None
        self._given = (storage, key)
        self._backend = make_backend(storage)
        try:
            keys = [key] if isinstance(key, (str, bytes)) else list(key)
            self._fernet = MultiFernet([Fernet(each) for each in keys])
        except (TypeError, ValueError):
            message = (
                "key must be 32 bytes in URL-safe base64, as Fernet.generate_key() makes them, "
                "or a sequence of such keys"
            )
            raise ValueError(message) from None
        self._errors = (InvalidToken, TypeError, ValueError)
        self._is_warned = False

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), self._given)

    def _as_backend(self) -> Backend:
        inner = self._backend

        def look(key: str, name: str) -> tuple[object, object]:
            secret, held = inner.look(key, name)
            return self._decrypt(key, secret), held

        return Backend(self.get, self.set, inner.delete, inner.lock, look)

    def get(self, key: str) -> str | None:
        """The value that was stored under this key, if it is authentic."""
        return self._decrypt(key, self._backend.get(key))

    def _decrypt(self, key: str, secret: Any) -> str | None:
        if not secret:
            return None
        try:
            bound_to, _, value = self._fernet.decrypt(as_text(secret)).decode().partition("\n")
        except self._errors:
            bound_to, value = "", ""
        if bound_to == key:
            self._is_warned = False
            return value
        if not self._is_warned:
            self._is_warned = True
            logger.warning("token storage: %s does not verify with any of the keys", key)
        return None

    def set(self, key: str, value: str, ttl: int = LONGEST_TTL) -> object:
        """Store the value under this key, for ``ttl`` seconds if the storage supports that."""
        # The key is encrypted with the value, so that entries cannot be swapped.
        secret = self._fernet.encrypt(f"{key}\n{value}".encode()).decode("ascii")
        return self._backend.set(key, secret, ttl)
