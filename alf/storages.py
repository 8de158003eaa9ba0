"""Where a token is shared: the entry in the user's storage, and what goes wrong with it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import random
import re
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from alf._backends import Release, as_text, make_backend, unclaimed
from alf._clocks import Clock
from alf._forks import register_after_fork
from alf.tokens import Token

__all__ = ["EncryptedStorage", "FileStorage", "TokenStorage", "entry_key"]

logger = logging.getLogger("alf")

#: The version of the entry's format, in its key and in its value.
_FORMAT = 1

#: An entry lives no longer than this, in seconds: memcached takes a larger number for a date.
#: So long lives one whose token has no known lifetime, too.
_LONGEST_TTL = 30 * 24 * 3600

#: Seconds for which a part of the storage that fails is left alone: the first time, at the most.
_SHORTEST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0

#: Seconds that a call of the storage may keep the next one waiting.
_LONGEST_CALL = 5.0

#: Seconds for which a process may claim the token request, at the most: one that dies delays
#: the others by that.
_LONGEST_CLAIM = 60.0

#: Seconds between two looks at the entry while another process asks: at first, at the most.
_SHORTEST_LOOK = 0.05
_LONGEST_LOOK = 0.5

_UNREADABLE = re.compile(r"[^A-Za-z0-9._-]+")
_KEY = re.compile(r"[\x21-\x7e]{1,240}\Z")


def entry_key(
    token_endpoint: str,
    client_id: str,
    params: Sequence[tuple[str, str]],
    headers: Mapping[str, str] | None = None,
    binding: str = "",
) -> str:
    """The key of a token's entry: the same for the same token, another for any other.

    It begins with what a person can read and ends with a digest of everything. No secret is in
    either. It has less than 250 bytes, neither blanks nor control characters: memcached's rules.

    :param token_endpoint: URL of the token endpoint.
    :param client_id: the client's identifier.
    :param params: the pairs of the token request's form, without credentials; the order of the
        names in ``scope`` does not matter (RFC 6749 §3.3).
    :param headers: headers of the token request beside the usual ones.
    :param binding: how the client authenticates, and what the token is bound to.
    """
    parts = urlsplit(token_endpoint)
    place = parts._replace(netloc=parts.netloc.rpartition("@")[2].lower()).geturl()
    pairs = sorted(
        (name, " ".join(sorted(set(value.split()))) if name == "scope" else value)
        for name, value in params
    )
    extra = sorted((name.lower(), value) for name, value in (headers or {}).items())
    whole = json.dumps([place, client_id, pairs, extra, binding])
    digest = hashlib.sha256(whole.encode()).hexdigest()[:40]
    readable = [_UNREADABLE.sub("-", part)[:60] for part in (parts.hostname or "", client_id)]
    return ":".join(("alf", str(_FORMAT), *readable, digest))


class TokenStorage:
    """The one entry of one token in a storage. Never raises: a storage in trouble is an empty one.

    What fails, be it reading, writing or locking, is left alone for a while, longer each time: a
    time-out is not paid on each call, and an outage is logged once.

    :param storage: any object with ``get(key)`` and ``set(key, value)``, or a mutable mapping.
    :param key: the entry's key.
    :param max_duration: seconds that a token request may take.
    :param on_failure: told of each outage: its ``operation``, and the class of its ``error``.
    :param clock: what tells the time.
    :raises TypeError: the storage has neither or is for asyncio, or the key is no string.
    :raises ValueError: the key is not 1 to 240 visible ASCII characters.

    The storage is called by one thread at a time.
    """

    def __init__(
        self,
        storage: Any,
        key: str,
        *,
        max_duration: float = 20.0,
        on_failure: Callable[..., object] | None = None,
        clock: Clock = time,
    ) -> None:
        if not isinstance(key, str):
            message = f"token_storage_key must be a str, got {type(key).__name__}"
            raise TypeError(message)
        if not _KEY.match(key):
            message = f"token_storage_key must be 1 to 240 visible ASCII characters, got {key!r}"
            raise ValueError(message)
        self._backend = make_backend(storage)
        self._key = key
        # A second more, since memcached's seconds are up to one shorter.
        self._claim_seconds = math.ceil(min(max_duration, _LONGEST_CLAIM)) + 1
        self._on_failure = on_failure
        self._clock = clock
        self._lock = threading.Lock()
        self._reading = _Outage("reading", clock)
        self._writing = _Outage("writing", clock)
        self._claiming = _Outage("locking", clock)
        self._is_rubbish_known = False
        self._is_shareable = True
        register_after_fork(self)

    def load(self) -> Token | None:
        """The token in the entry, if there is one."""
        if self._reading.is_on:
            return None
        try:
            entry = self._call(self._backend.get, self._key)
        except (KeyError, FileNotFoundError):  # how some say that there is none
            entry = None
        except Exception as error:
            self._note_failure(self._reading, error)
            return None
        self._note_success(self._reading)
        try:
            # None, and dogpile's NO_VALUE.
            token = _read_entry(entry) if entry else None
        except Exception as error:
            # Only the kind: the text may quote the entry.
            if not self._is_rubbish_known:
                logger.warning(
                    "token storage: %s holds what is no token entry of format %d (%s); it will "
                    "be replaced",
                    *(self._key, _FORMAT, _kind(error)),
                )
            self._is_rubbish_known = True
            return None
        self._is_rubbish_known = False
        return token

    def save(self, token: Token) -> float | None:
        """Replace the entry by this token, unless one that was asked for later is there.

        :returns: when to try again, in the clock's monotonic time, where that failed.
        """
        now = self._clock.time()
        life = _LONGEST_TTL if token.expires_at is None else token.expires_at - now
        self._is_shareable = life > 0
        if not self._is_shareable:
            return None
        current = self.load()
        if (
            current is not None
            and token.issued_at < current.issued_at <= now
            and (current.expires_at is None or now < current.expires_at)
        ):
            return None
        for outage in (self._reading, self._writing):
            if outage.is_on:
                return outage.paused_until
        ttl = min(math.ceil(life), _LONGEST_TTL)
        try:
            answer: Any = self._call(self._backend.set, self._key, _write_entry(token), ttl)
            is_denied = answer is not None and not answer
        except Exception as error:
            return self._note_failure(self._writing, error)
        # memcached's clients say so when they fail; others mean something else by it.
        if is_denied and self.load() != token:
            return self._note_failure(self._writing, None)
        self._note_success(self._writing)
        return None

    def remove(self, token: Token) -> None:
        """Remove the entry, if it still is this token, and the storage has a way to do so."""
        stored = self.load()
        delete = self._backend.delete
        if delete is None or stored is None or stored.access_token != token.access_token:
            return
        try:
            self._call(delete, self._key)
        except Exception as error:
            self._note_failure(self._writing, error)

    @contextlib.contextmanager
    def turn(self, is_wanted: Callable[[Token], bool]) -> Iterator[Token | None]:
        """Wait for this process's turn to ask the endpoint, and keep it for the ``with`` block.

        Where the storage has neither a lock nor an atomic add, or is in trouble, it comes at
        once, and where the last token was dead on arrival: such ones cannot be shared. Where a
        process that has it is dead, or stuck, it comes after a bounded time.

        :param is_wanted: whether a stored token makes asking needless.
        :returns: such a token, if one is there or comes while waiting; ``None``: it is our turn.
        """
        if self._backend.claim is None or not self._is_shareable:
            yield None
            return
        stored: Token | None = None
        deadline = self._clock.monotonic() + self._claim_seconds + 1
        pause = _SHORTEST_LOOK
        release = self._claim(self._backend.claim)
        try:
            while release is None and stored is None and self._clock.monotonic() < deadline:
                self._clock.sleep(random.uniform(pause / 2, pause))  # noqa: S311
                pause = min(pause * 1.5, _LONGEST_LOOK)
                stored = self._load_wanted(is_wanted)
                if stored is None:
                    release = self._claim(self._backend.claim)
            if stored is None:
                # Who had the turn before may have stored one since the last look.
                stored = self._load_wanted(is_wanted)
            yield stored
        finally:
            if release is not None:
                try:
                    self._call(release)
                except Exception as error:  # it has run out meanwhile, or will
                    logger.debug("token storage: a claim was not given back (%s)", _kind(error))

    def _load_wanted(self, is_wanted: Callable[[Token], bool]) -> Token | None:
        token = self.load()
        return token if token is not None and is_wanted(token) else None

    def _claim(self, claim: Callable[[str, int], Release | None]) -> Release | None:
        """What gives the claim back; ``None`` if another process has it."""
        if self._reading.is_on or self._writing.is_on or self._claiming.is_on:
            return unclaimed
        try:
            release: Release | None = self._call(claim, f"{self._key}:lock", self._claim_seconds)
        except Exception as error:
            self._note_failure(self._claiming, error)
            return unclaimed
        self._note_success(self._claiming)
        return release

    def _note_failure(self, outage: _Outage, error: Exception | None) -> float:
        """Leave that alone until the time returned; one outage, one warning."""
        is_known = self._reading.lasts or self._writing.lasts or self._claiming.lasts
        # Only the error's kind: its text may quote the token.
        kind = None if error is None else _kind(error)
        logger.log(
            logging.DEBUG if is_known else logging.WARNING,
            "token storage: %s %s failed (%s); going on without",
            *(outage.what, self._key, kind or "it said so"),
        )
        if not is_known and self._on_failure is not None:
            self._on_failure(operation=outage.what, error=kind)
        return outage.begin()

    def _note_success(self, outage: _Outage) -> None:
        if outage.lasts:
            logger.info("token storage: %s %s works again", outage.what, self._key)
            outage.end()

    def _call(self, function: Callable[..., Any], *args: object) -> Any:
        if not self._lock.acquire(timeout=_LONGEST_CALL):
            message = f"another call has not come back for {_LONGEST_CALL} s"
            raise TimeoutError(message)
        try:
            return function(*args)
        finally:
            self._lock.release()

    def _after_fork(self) -> None:
        self._lock = threading.Lock()


class _Outage:
    """Whether something that storages do is in trouble, and until when it is left alone."""

    def __init__(self, what: str, clock: Clock) -> None:
        self.what = what
        self._clock = clock
        self._pause = 0.0
        self.paused_until = -math.inf

    @property
    def lasts(self) -> bool:
        return self._pause > 0

    @property
    def is_on(self) -> bool:
        """Whether it is to be left alone now."""
        return self._clock.monotonic() < self.paused_until

    def begin(self) -> float:
        self._pause = min(_LONGEST_PAUSE, max(_SHORTEST_PAUSE, 2 * self._pause))
        # Spread out, for a fleet meets the outage at one time.
        pause = max(_SHORTEST_PAUSE, random.uniform(self._pause / 2, self._pause))  # noqa: S311
        self.paused_until = self._clock.monotonic() + pause
        return self.paused_until

    def end(self) -> None:
        self._pause = 0.0
        self.paused_until = -math.inf


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

    def claim(self, name: str, seconds: int) -> Release | None:
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
        self.claim = self._backend.claim
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

    def set(self, key: str, value: str, ttl: int = _LONGEST_TTL) -> object:
        """Store the value under this key, for ``ttl`` seconds if the storage can do that."""
        # The key goes along: entries cannot be swapped.
        secret = self._fernet.encrypt(f"{key}\n{value}".encode()).decode("ascii")
        return self._backend.set(key, secret, ttl)


def _write_entry(token: Token) -> str:
    members = {member.name: getattr(token, member.name) for member in fields(Token)}
    return json.dumps({"v": _FORMAT, **members, "extra": dict(token.extra)})


def _read_entry(value: object) -> Token:
    """The token in the entry's value; raises some exception where it holds none."""
    entry = json.loads(as_text(value))
    if entry["v"] != _FORMAT:
        message = "it is of another format"
        raise ValueError(message)
    token = Token(**{member.name: entry[member.name] for member in fields(Token)})
    numbers = (token.issued_at, 0.0 if token.expires_at is None else token.expires_at)
    if not all(map(math.isfinite, numbers)) or not isinstance(token.scope, (str, type(None))):
        message = "a member is of the wrong type"
        raise ValueError(message)
    return token


def _kind(error: Exception) -> str:
    """The class of the error, such as ``redis.exceptions.ReadOnlyError``."""
    kind = type(error)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
