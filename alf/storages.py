"""Storages for tokens that come with alf: files, and encryption around any other storage."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alf._backends import LONGEST_TTL, Release, make_backend

__all__ = ["EncryptedStorage", "FileStorage"]

logger = logging.getLogger("alf")


class FileStorage:
    """Keeps tokens in files: for cron jobs and command lines, of which each start would cost one.

    Each entry is a file of mode 0600 that is replaced as a whole; processes that want a token at
    the same time wait for the one that asks. Needs the extra ``file``.

    :param path: the folder; it is made, with mode 0700, where it is missing. One of another user,
        or that anybody may write to, is not used. By default ``alf`` in the user's cache folder.
    :raises ImportError: the extra is not installed.
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
        self._folder = Path(path)

    def get(self, key: str) -> str | None:
        """The entry; ``None`` where there is none, or one that another user has put there."""
        # Not blocked by a pipe that is planted in the file's place.
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        try:
            descriptor = os.open(self._file(key), flags)
        except OSError:
            return None
        with os.fdopen(descriptor, encoding="utf-8") as file:
            if hasattr(os, "geteuid") and os.fstat(descriptor).st_uid != os.geteuid():
                return None
            return file.read()

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
        """Remove the entry, if there is one; raises :class:`OSError`."""
        self._file(key).unlink(missing_ok=True)

    def lock(self, name: str, seconds: int) -> Release | None:
        """Take the lock of this name, if it is free; what is returned gives it back.

        It is the operating system's, and ends with the process that has it.
        """
        from filelock import FileLock, Timeout

        del seconds
        self._make_folder()
        lock = FileLock(self._file(name).with_suffix(".lock"), mode=0o600)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        return lock.release

    def _make_folder(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if hasattr(os, "geteuid"):  # pragma: no branch (Windows has no such thing)
            found = self._folder.stat()
            if found.st_uid != os.geteuid() or found.st_mode & stat.S_IWOTH:
                # There anybody can put a link in the place of a lock file.
                message = f"the folder {self._folder} is not this user's own to write to"
                raise PermissionError(message)

    def _file(self, key: str) -> Path:
        # A digest is a file's name everywhere, whatever the key.
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.json"


class EncryptedStorage:
    """Keeps tokens in another storage, so that it never sees one in the clear.

    A value that does not verify, or that was stored under another key of the storage, counts as
    absent. Needs the extra ``crypto``.

    :param storage: any storage that alf takes.
    :param key: what ``cryptography.fernet.Fernet.generate_key()`` made: 32 bytes in URL-safe
        base64; or several, of which the first encrypts and all decrypt.
    :raises ImportError: the extra is not installed.
    :raises TypeError: the storage is none.
    :raises ValueError: a key is none.
    """

    def __init__(self, storage: Any, key: str | bytes | Sequence[str | bytes]) -> None:
        try:
            from cryptography.fernet import Fernet, InvalidToken, MultiFernet
        except ImportError:
            message = "EncryptedStorage needs cryptography: pip install 'alf[crypto]'"
            raise ImportError(message) from None
        self._given = (storage, key)
        self._backend = make_backend(storage)
        self.lock = self._backend.lock
        self.delete = self._backend.delete
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

    def get(self, key: str) -> str | None:
        """The value that was stored under this key, if it is there and authentic."""
        secret: Any = self._backend.get(key)
        if not secret:
            return None
        try:
            bound_to, _, value = self._fernet.decrypt(secret).decode().partition("\n")
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
        """Store the value under this key, for ``ttl`` seconds if the storage can do that."""
        # The key goes along: entries cannot be swapped.
        secret = self._fernet.encrypt(f"{key}\n{value}".encode()).decode("ascii")
        return self._backend.set(key, secret, ttl)
