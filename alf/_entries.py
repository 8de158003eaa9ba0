"""The key of a token's entry in a storage, and the format of its values."""

from __future__ import annotations

import hashlib
import json
import math
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import urlsplit

from alf._backends import as_text
from alf.tokens import Token

__all__ = ["FORMAT", "Entry", "EntryKey", "Holder", "StoredRefusal", "check_key", "entry_key"]

#: The version of the entry's format, part of its key and its value.
FORMAT = 2

_UNREADABLE = re.compile(r"[^A-Za-z0-9._-]+")
_KEY = re.compile(r"[\x21-\x7e]{1,240}\Z")

#: Parameters and headers of the token request whose values are not secret. Any other value enters
#: the key through a slow hash, so that a password cannot be guessed from the key.
_HARMLESS_PARAMS = frozenset(
    (
        "actor_token_type",
        "audience",
        "client_id",
        "grant_type",
        "organization",
        "requested_token_type",
        "resource",
        "response_type",
        "scope",
        "subject_token_type",
        "tenant",
    )
)
_HARMLESS_HEADERS = frozenset(("accept", "accept-language", "content-type", "user-agent"))

#: Secret members of the endpoint's answer that alf does not need.
_NOT_STORED = frozenset(("refresh_token", "id_token"))

#: A longer time, in seconds, is not a plausible duration of a token request.
_LONGEST_REQUEST = 60.0


def entry_key(
    token_endpoint: str,
    client_id: str,
    params: Sequence[tuple[str, str]],
    headers: Mapping[str, str] | None = None,
    binding: str = "",
) -> str:
    """The key of a token's entry: equal for the same token, different for any other.

    It begins with readable text and ends with a digest of everything. It is shorter than 250 bytes
    and has no blanks or control characters, as memcached demands.

    :param token_endpoint: URL of the token endpoint.
    :param client_id: the client's identifier.
    :param params: the pairs of the token request's form, without credentials; the order of the
        names in ``scope`` does not matter (RFC 6749 §3.3).
    :param headers: additional headers of the token request.
    :param binding: how the client authenticates, and what the token is bound to.
    """
    parts = urlsplit(token_endpoint)
    place = parts._replace(netloc=parts.netloc.rpartition("@")[2].lower()).geturl()
    salt = json.dumps([place, client_id]).encode()

    def hidden(value: str) -> str:
        return slow_hash(value, salt)

    pairs = []
    for name, value in params:
        if name == "scope":
            # Only a space separates names; str.split() would also split at a no-break space.
            shown = " ".join(sorted({part for part in value.split(" ") if part}))
        else:
            shown = value if name in _HARMLESS_PARAMS else hidden(value)
        pairs.append((name, shown))
    extra = sorted(
        (name.lower(), value if name.lower() in _HARMLESS_HEADERS else hidden(value))
        for name, value in (headers or {}).items()
    )
    whole = json.dumps([place, client_id, sorted(pairs), extra, binding])
    digest = hashlib.sha256(whole.encode()).hexdigest()[:40]
    readable = [_UNREADABLE.sub("-", part)[:60] for part in (parts.hostname or "", client_id)]
    return ":".join(("alf", str(FORMAT), *readable, digest))


class EntryKey:
    """The key of a token's entry, made when first needed and again when the binding changes.

    The parameters are those of :func:`entry_key`; ``binding`` returns the current binding.
    """

    def __init__(
        self,
        token_endpoint: str,
        client_id: str,
        params: Sequence[tuple[str, str]],
        headers: Mapping[str, str],
        binding: Callable[[], str],
    ) -> None:
        self._request = (token_endpoint, client_id, params, headers)
        self._binding = binding
        self._made: tuple[str, str] | None = None

    def __call__(self) -> str:
        """The key for the current binding."""
        binding, made = self._binding(), self._made
        if made is None or made[0] != binding:
            made = self._made = (binding, entry_key(*self._request, binding))
        return made[1]


def check_key(key: object) -> str:
    """Check a key that the user chose.

    :raises TypeError: it is not a str.
    :raises ValueError: it is not 1 to 240 visible ASCII characters.
    """
    if not isinstance(key, str):
        message = f"token_storage_key must be a str, got {type(key).__name__}"
        raise TypeError(message)
    if not _KEY.match(key):
        message = f"token_storage_key must be 1 to 240 visible ASCII characters, got {key!r}"
        raise ValueError(message)
    return key


def slow_hash(text: str, salt: bytes) -> str:
    """A hash from which a secret text cannot be guessed in reasonable time (RFC 7914)."""
    return hashlib.scrypt(text.encode(), salt=salt, n=2**14, r=8, p=1, dklen=20).hex()


@dataclass(frozen=True)
class Entry:
    """The shared token.

    :param token: the token.
    :param sequence: its place in the order of the requests for this token.
    :param took: the duration of its request in seconds; ``None`` if not known.
    """

    token: Token
    sequence: int = 0
    took: float | None = None

    def dump(self, key: str) -> str:
        """The value to store under this key."""
        members = {member.name: getattr(self.token, member.name) for member in fields(Token)}
        members["extra"] = {
            name: value for name, value in self.token.extra.items() if name not in _NOT_STORED
        }
        about = {"v": FORMAT, "key": key, "sequence": self.sequence, "took": self.took}
        return json.dumps({**about, **members})

    @classmethod
    def parse(cls, value: object, key: str) -> Entry:
        """Parse a value; raises an exception of any kind if it is not an entry of this key."""
        members = _members(value, key)
        token = Token(**{member.name: members[member.name] for member in fields(Token)})
        numbers = (token.issued_at, 0.0 if token.expires_at is None else token.expires_at)
        is_scope = isinstance(token.scope, (str, type(None)))
        sequence = members["sequence"]
        if not all(map(math.isfinite, numbers)) or not is_scope or type(sequence) is not int:
            message = "a member is of the wrong type"
            raise ValueError(message)
        return cls(token, sequence, _seconds(members["took"]))


@dataclass(frozen=True)
class Holder:
    """The value of a lock: its holder, and when that process expects to be done.

    :param owner: a random name, different for each lock taken.
    :param expected: the expected duration of the token request in seconds; ``None`` if not known.
    :param done_at: when it should be done, in seconds since the epoch; 0.0 if not known.
    """

    owner: str
    expected: float | None
    done_at: float

    @classmethod
    def new(cls, expected: float | None, now: float) -> Holder:
        """A holder whose request starts now."""
        return cls(secrets.token_hex(12), expected, 0.0 if expected is None else now + expected)

    def dump(self) -> str:
        """The lock's value."""
        return json.dumps([FORMAT, self.owner, self.expected, self.done_at])

    @classmethod
    def parse(cls, value: object) -> Holder | None:
        """The holder in a lock's value; ``None`` if something else holds it."""
        try:
            version, owner, expected, done_at = json.loads(as_text(value))
            if version != FORMAT:
                return None
            return cls(str(owner), _seconds(expected), float(done_at))
        except Exception:
            return None

    def remaining(self, now: float) -> float:
        """Seconds until it should be done; at most ``expected``, even if clocks disagree."""
        return max(0.0, min(self.done_at - now, self.expected or 0.0))


@dataclass(frozen=True)
class StoredRefusal:
    """The endpoint's refusal of the client, for other processes with the same credential.

    :param status: the status of the answer.
    :param error: the error code (RFC 6749 §5.2), if there was one.
    :param description: the endpoint's text, redacted.
    :param until: when it ends to count, in seconds since the epoch.
    """

    status: int
    error: str | None
    description: str | None
    until: float

    def dump(self, key: str, credential: str) -> str:
        """The value to store; it holds a salted, slow hash of the credential."""
        salt = secrets.token_bytes(16)
        members = {member.name: getattr(self, member.name) for member in fields(self)}
        fingerprint = slow_hash(credential, salt)
        about = {"v": FORMAT, "key": key, "salt": salt.hex(), "fingerprint": fingerprint}
        return json.dumps({**about, **members})

    @classmethod
    def parse(cls, value: object, key: str, credential: str, now: float) -> StoredRefusal | None:
        """The refusal in a value, if it still counts and concerns this credential."""
        members = _members(value, key)
        refusal = cls(**{member.name: members[member.name] for member in fields(cls)})
        is_text = all(
            isinstance(t, (str, type(None))) for t in (refusal.error, refusal.description)
        )
        is_fit = type(refusal.status) is int and 400 <= refusal.status < 500 and is_text
        if not is_fit or not now < refusal.until <= now + LONGEST_REFUSAL:
            return None
        fingerprint = slow_hash(credential, bytes.fromhex(members["salt"]))
        return refusal if secrets.compare_digest(fingerprint, members["fingerprint"]) else None


#: The longest time, in seconds, for which a refusal is shared.
LONGEST_REFUSAL = 30.0


def _members(value: object, key: str) -> dict[str, Any]:
    members: Any = json.loads(as_text(value))
    if members["v"] != FORMAT:
        message = "it has another format"
        raise ValueError(message)
    if members["key"] != key:
        message = "it belongs to another key"
        raise ValueError(message)
    found: dict[str, Any] = members
    return found


def _seconds(value: object) -> float | None:
    """The duration of a token request, if the number is plausible."""
    if isinstance(value, (int, float)) and 0 <= value <= _LONGEST_REQUEST:
        return float(value)
    return None
