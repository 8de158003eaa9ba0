"""When a token is good, who renews it, and who waits for whom."""

from __future__ import annotations

import copy
import itertools
import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from typing import Any, Literal

import requests
from urllib3.util.retry import Retry

from alf._certificates import check_cert
from alf._clocks import Clock
from alf._discovery import check_issuer
from alf._endpoint import (
    DEFAULT_TIMEOUT,
    TokenEndpoint,
    check_url,
)
from alf._entries import EntryKey
from alf._failure_log import log_failure
from alf._forks import register_after_fork
from alf._form import check_headers, token_form
from alf._redaction import Secret, masked, masked_key, masked_url, shown
from alf._retries import retry_after
from alf._texts import check_text, without_line_break
from alf._token_storage import TokenStorage
from alf._transport import Session
from alf._urls import bare_url, shown_url
from alf.client_auth import ClientAuth, Credentials, Sign, as_client_auth
from alf.dpop import as_dpop_key
from alf.events import Event, Reason, RenewalFailed, StorageFailed, TokenObtained, TokenRefused
from alf.tokens import Token

__all__ = ["Refusal", "TokenManager"]

logger = logging.getLogger("alf")

# A token counts as expired a little early, so that none dies on the wire; in the last stretch
# before that one caller has it renewed while all go on with it. Seconds, and the fraction of
# the token's life: the smaller counts.
_LEEWAY = (10.0, 1 / 20)
_STRETCH = (60.0, 1 / 5)

#: A renewal that brings no more than this many seconds of life has gained none.
_GAIN = 1.0

#: Seconds for which a token serves on that the endpoint hands out again with no life left.
_REISSUED_LIFE = 1.0

#: From this failed token request in a row on they are spaced out, by up to so many seconds.
_PATIENCE = 3
_LONGEST_PAUSE = 30.0

#: A longer `Retry-After`, in seconds, is cut to this.
_LONGEST_RETRY_AFTER = 300.0

#: Seconds between two renewals for an origin that refuses fresh tokens, at the most.
_LONGEST_GUARD = 60.0

#: A stored token issued this many seconds in the future was stored by a wrong clock.
_CLOCK_SKEW = 60.0

#: `_Held.asked` of a token that another process asked for: no refusal of ours came before it.
_NOT_ASKED = -1


@dataclass(frozen=True)
class _Held:
    """A token in hand, and until when it is what.

    Monotonic time stands still while a laptop sleeps, and wall time is set back and forth:
    each end is kept in both, and the earlier one believed.
    """

    token: Token
    asked: int  # its place in the order of token requests and refusals
    fresh_until: float
    fresh_until_wall: float
    good_until: float
    good_until_wall: float
    ends: float
    ends_wall: float
    #: The same with its true ends, where it could not be stored and is looked at again for that.
    unstored: _Held | None = None

    def without_early_renewal(self) -> _Held:
        return replace(self, fresh_until=self.good_until, fresh_until_wall=self.good_until_wall)


#: Whether a held token is what a caller waits for; told if it has just come from the endpoint.
_Wanted = Callable[[_Held, bool], bool]


class _Flight:
    """One token request, and all who wait for it."""

    def __init__(self, reason: Reason) -> None:
        self.reason: Reason = reason
        self.leader = threading.get_ident()
        self.landed = threading.Event()
        self.held: _Held | None = None
        self.error: Exception | None = None


class _Teller:
    """Tells events to whoever wants them, and survives that."""

    def __init__(self, on_event: Callable[[Event], object] | None, endpoint: TokenEndpoint) -> None:
        self._on_event = on_event
        self._endpoint = endpoint

    def __call__(self, event: type[Event], **details: Any) -> None:
        if self._on_event is None:
            return
        try:
            self._on_event(
                event(shown_url(self._endpoint.url), self._endpoint.client_id, **details)
            )
        except Exception:
            logger.warning("on_event failed at a %s", event.__name__, exc_info=True)


@dataclass
class _Failures:
    """Failed token requests in a row."""

    count: int
    error: Exception
    paused_until: float
    early_paused_until: float


@dataclass
class _Guard:
    """The last token that was asked for because an origin refused one."""

    access_token: str
    fetched_at: float
    refusals: int  # of such tokens, in a row
    is_refused: bool = False

    @property
    def paused_until(self) -> float:
        if not self.is_refused:
            return -inf
        return self.fetched_at + min(_LONGEST_GUARD, 2.0 ** (self.refusals - 1))


class TokenManager:
    """Always has a good token: asks for one, keeps it, renews it, shares it.

    :param token_endpoint: URL of the token endpoint.
    :param client_id: the client's identifier.
    :param client_secret: the client's secret, or a callable that is asked for it at each token
        request.
    :param token_storage: where to share the token: any object with ``get`` and ``set``, or a
        mutable mapping.
    :param token_storage_key: the key of the token's entry there; by default one that no other
        token has.
    :param token_retries: the name of ``token_retry`` in alf 0.7.
    :param token_request_params: a dict with the ``timeout`` of the token request, as in alf 0.7.
    :param token_retry: urllib3's ``Retry``, or a number of retries, for the token request.
    :param token_timeout: seconds for a request in all, or a pair: to connect, and for the rest.
    :param token_session: the session to ask with; by default one of its own.
    :param token_refresh: who renews a token early: a thread in the ``background``, or one of
        the callers, ``blocking``.
    :param token_settle_time: seconds that the API may take to know a new token: one refused
        earlier than that is tried once more before a new one is asked for.
    :param issuer: the issuer's URL, in place of ``token_endpoint``: its metadata says where that
        is (RFC 8414). It is read when the first token is asked for.
    :param revocation_endpoint: URL of the revocation endpoint (RFC 7009); an issuer may say it.
    :param client_auth: how the client says who it is: the name of a method, an object of
        :mod:`alf.client_auth`, or what requests takes as ``auth``.
    :param scope: the scope to ask for (RFC 6749 §3.3): a string, or a sequence of names.
    :param audience: the API that the token is for, where the server wants it said so.
    :param resource: the URI of the API that the token is for (RFC 8707), or a sequence of these.
    :param token_params: other parameters of the token request, a mapping or pairs; a
        ``grant_type`` takes the place of ``client_credentials``.
    :param token_headers: other headers of the token request.
    :param dpop: whether to have tokens bound to a key (RFC 9449), or the key to bind them to.
    :param token_cert: the client certificate of the token request, as ``cert`` of requests.
    :param on_event: called with what happens to tokens, see :mod:`alf.events`.
    :param clock: what tells the time; for tests.
    :raises TypeError: an argument is missing or of the wrong type.
    :raises ValueError: an argument has no usable value.

    All methods may be called by any number of threads at once.
    """

    def __init__(
        self,
        token_endpoint: str | None = None,
        client_id: str | None = None,
        client_secret: str | Callable[[], str] | None = None,
        token_storage: Any = None,
        token_retries: Retry | int | None = None,
        token_request_params: dict[str, Any] | None = None,
        *,
        token_retry: Retry | int | None = None,
        token_timeout: float | tuple[float | None, float | None] | None = None,
        token_session: requests.Session | None = None,
        token_refresh: Literal["background", "blocking"] = "background",
        token_settle_time: float = 0.0,
        issuer: str | None = None,
        revocation_endpoint: str | None = None,
        client_auth: str | tuple[str, str] | ClientAuth | Sign | None = None,
        scope: str | Sequence[str] | None = None,
        audience: str | None = None,
        resource: str | Sequence[str] | None = None,
        token_params: Mapping[str, str] | Sequence[tuple[str, str]] | None = None,
        token_headers: Mapping[str, str] | None = None,
        token_cert: str | tuple[str, str] | None = None,
        dpop: Any = None,
        token_storage_key: str | None = None,
        on_event: Callable[[Event], object] | None = None,
        clock: Clock = time,
    ) -> None:
        # Error reports show local variables, but not these.
        client_secret, token_params, token_headers = map(
            masked, (client_secret, token_params, token_headers)
        )
        token_endpoint, issuer, revocation_endpoint = map(
            masked_url, (token_endpoint, issuer, revocation_endpoint)
        )
        dpop = masked_key(dpop)
        if isinstance(client_auth, tuple):
            client_auth = masked(client_auth)
        if token_retry is not None and token_retries is not None:
            message = "token_retries is the old name of token_retry: give one of them"
            raise TypeError(message)
        if token_refresh not in ("background", "blocking"):
            message = f"token_refresh must be 'background' or 'blocking', got {token_refresh!r}"
            raise ValueError(message)
        if isinstance(token_settle_time, bool) or not isinstance(token_settle_time, (int, float)):
            message = f"token_settle_time must be seconds, got {token_settle_time!r}"
            raise TypeError(message)
        if not 0 <= token_settle_time < inf:
            message = f"token_settle_time must not be negative, got {token_settle_time!r}"
            raise ValueError(message)
        if token_session is not None and not isinstance(token_session, Session):
            message = f"token_session must be a requests.Session, got {token_session!r}"
            raise TypeError(message)
        if token_storage is None and token_storage_key is not None:
            message = "token_storage_key is the key of an entry in token_storage: give that, too"
            raise TypeError(message)
        if on_event is not None and not callable(on_event):
            message = f"on_event must be callable, got {on_event!r}"
            raise TypeError(message)
        client_id = check_text("client_id", client_id).strip()
        if client_secret is not None and not callable(client_secret):
            client_secret = _check_secret(client_secret, client_id)
        if issuer is not None and token_endpoint is not None:
            message = "issuer says where the token endpoint is: give issuer or token_endpoint"
            raise TypeError(message)
        url = check_url(token_endpoint) if issuer is None else check_issuer(issuer)
        # Where nothing else is said, the issuer is asked how it wants what the client has.
        has_something = client_secret is not None or token_cert is not None
        is_asked = issuer is not None and client_auth is None and has_something
        auth = None if is_asked else as_client_auth(client_auth, client_secret)
        if revocation_endpoint is not None:
            revocation_endpoint = check_url(revocation_endpoint, "revocation_endpoint")
        params = token_form(scope, audience, resource, token_params, auth)
        headers = check_headers(token_headers)
        self._endpoint = TokenEndpoint(
            url,
            Credentials(client_id, client_secret, audience=bare_url(url)),
            auth,
            is_issuer=issuer is not None,
            revocation_endpoint=revocation_endpoint,
            params=params,
            headers=headers,
            dpop_key=as_dpop_key(dpop),
            cert=check_cert(token_cert),
            retry=token_retries if token_retry is None else token_retry,
            timeout=_one_timeout(token_timeout, token_request_params),
            session=token_session,
            clock=clock,
        )
        endpoint = self._endpoint
        self._tell = _Teller(on_event, endpoint)
        self._storage: TokenStorage | None = None
        if token_storage is not None:
            key: str | EntryKey | None = token_storage_key
            if key is None:
                self._endpoint.check_identity()
                key = EntryKey(url, client_id, params, headers, lambda: endpoint.binding)
            self._storage = TokenStorage(
                token_storage,
                key,
                max_duration=self._endpoint.max_duration,
                secret=client_secret if isinstance(client_secret, str) else None,
                on_failure=partial(self._tell, StorageFailed),
                clock=clock,
            )
        self._is_background = token_refresh == "background"
        self._settle_time = token_settle_time
        self._clock = clock
        #: Orders token requests and refusals; clocks may show both at the same time.
        self._order = itertools.count()
        #: Read without a lock, replaced as a whole, never emptied.
        self._held: _Held | None = None
        #: For all below.
        self._lock = threading.Lock()
        self._flight: _Flight | None = None
        self._failures: _Failures | None = None
        self._guards: dict[str, _Guard] = {}
        #: The access token that reset_token() has put aside.
        self._distrusted: str | None = None
        register_after_fork(self)

    def token(self) -> Token:
        """The current token; a new one where there is none that is good.

        :raises TokenError: the endpoint gave none.
        :raises requests.exceptions.RequestException: the endpoint could not be reached.
        """
        held = self._held
        if held is not None and self._is_fresh(held):
            return held.token
        if held is None or not self._lives(held):
            return self._fetch_good("missing" if held is None else "expired")
        if not self._is_good(held) and self._failures is None:
            try:
                return self._fetch_good("expired")
            except requests.exceptions.RequestException as error:
                if not self._lives(held):
                    raise
                logger.warning("renewal failed, the token serves until it dies: %s", error)
        self._renew_early(held)
        # Renewed by now, where this caller was the one to do it.
        return (self._held or held).token

    def peek(self, *, is_fresh: bool = False) -> Token | None:
        """The current token, from memory; ``None`` if there is no token that is alive.

        :param is_fresh: only a token that is not due for renewal yet.
        """
        held = self._held
        is_usable = self._is_fresh if is_fresh else self._lives
        return held.token if held is not None and is_usable(held) else None

    def renew(self) -> Token:
        """A token that is asked for now, whatever there is in hand; raises as :meth:`token`."""
        since = next(self._order)
        return self._fetch(lambda held, _landed: held.asked > since, "forced").token

    def refusal(self, origin: str) -> Refusal:
        """What to do about a token that an API has just refused.

        :param origin: the API's scheme, host and port.
        """
        return Refusal(self, origin, next(self._order))

    def replace(self, refused: Token, origin: str = "") -> Token | None:
        """Another token than one that an API has refused.

        A newer one that is there already, or else one that is requested now. ``None``: there is
        no other, or this origin has refused too many.

        :param refused: the token that was refused.
        :param origin: the API's scheme, host and port.
        :raises TokenError: the token endpoint did not return a token.
        :raises requests.exceptions.RequestException: the token endpoint could not be reached.
        """
        return self.refusal(origin).replacement(refused)

    def get_token(self) -> str:
        """The current access token as a string; raises as :meth:`token`."""
        return self.token().access_token

    def reset_token(self) -> None:
        """Have the next call get another token than the current one, as in alf 0.7."""
        token = self._known_token(self._held)
        self._distrusted = None if token is None else token.access_token
        self._held = None

    def revoke(self) -> None:
        """Have the server revoke the current token, and forget it, here and in the storage.

        Where there is no token, nothing is done.

        :raises ValueError: the revocation endpoint is not known.
        :raises TokenError: the server did not revoke the token.
        :raises requests.exceptions.RequestException: the server could not be reached.
        """
        held = self._held
        token = self._known_token(held)
        if token is None:
            return
        self._endpoint.revoke(token.access_token)
        self._distrusted = token.access_token
        with self._lock:
            if self._held is held:
                self._held = None
        if self._storage is not None:
            self._storage.remove(token)

    def follow(self, session: requests.Session) -> None:
        """From now on ask with this session's ``verify``, ``cert``, ``proxies``, ``trust_env``."""
        self._endpoint.follow(session)

    def share_connections(self, other: TokenManager) -> None:
        """Use the token connection and the metadata of another manager of the same client."""
        self._endpoint.share(other._endpoint)

    def close(self) -> None:
        """Close the connections to the token endpoint; a later call opens new ones."""
        self._endpoint.close()

    def _after_fork(self) -> None:
        # The parent's threads are not here: who held the lock, who flew, who waited.
        self._lock = threading.Lock()
        self._flight = None
        self._endpoint.forget_connections()

    def _known_token(self, held: _Held | None) -> Token | None:
        """The token in hand, or else the one in storage, be they good or not."""
        if held is not None:
            return held.token
        return None if self._storage is None else self._storage.load()

    def _is_fresh(self, held: _Held) -> bool:
        return (
            self._clock.monotonic() < held.fresh_until
            and self._clock.time() < held.fresh_until_wall
        )

    def _is_good(self, held: _Held) -> bool:
        return (
            self._clock.monotonic() < held.good_until and self._clock.time() < held.good_until_wall
        )

    def _lives(self, held: _Held) -> bool:
        """Whether it has not died yet, be it expired as far as the leeway goes."""
        return self._clock.monotonic() < held.ends and self._clock.time() < held.ends_wall

    # -- one flight ------------------------------------------------------------------------

    def _fetch_good(self, reason: Reason) -> Token:
        return self._fetch(lambda held, landed: landed or self._is_good(held), reason).token

    def _fetch(self, wanted: _Wanted, reason: Reason) -> _Held:
        """What is wanted: from memory, from the flight under way, or by a flight of one's own."""
        while True:
            with self._lock:
                held = self._held
                if held is not None and wanted(held, False):
                    return held
                flight = self._flight
                is_leader = flight is None
                if flight is None:
                    flight = self._flight = _Flight(reason)
            if is_leader:
                return self._fly(flight, wanted)
            if flight.leader == threading.get_ident():
                message = f"asking {self._endpoint} for a token needs a token of the same client"
                raise RuntimeError(message)
            if not flight.landed.wait(self._endpoint.max_duration):
                # Its leader is dead or stuck: the next one to come takes over.
                self._land(flight)
            if flight.error is not None:
                raise _fresh_copy(flight.error) from flight.error
            if flight.held is not None and wanted(flight.held, True):
                return flight.held

    def _fly(self, flight: _Flight, wanted: _Wanted) -> _Held:
        try:
            held = flight.held = self._obtain(wanted, flight.reason)
        except Exception as error:
            flight.error = error
            raise
        finally:
            # With neither token nor error (an interrupt) one of those who wait takes over.
            self._land(flight, flight.held)
        return held

    def _land(self, flight: _Flight, held: _Held | None = None) -> None:
        """End the flight; the token that it brought, if any, is the current one from now on."""
        with self._lock:
            before = self._held
            is_current = self._flight is flight
            if is_current:
                self._flight = None
            if held is not None and (
                is_current or before is None or before.asked < held.asked  # not overtaken
            ):
                if self._is_good(held):
                    self._held = held
                elif before is not None:
                    # It is for the calls at hand only: asking early gains nothing here.
                    self._held = before.without_early_renewal()
        flight.landed.set()

    def _obtain(self, wanted: _Wanted, reason: Reason) -> _Held:
        """The flight itself: the storage's token, if it will do, or one from the endpoint."""
        if self._storage is None:
            self._raise_if_paused()
            return self._ask(reason)

        def is_wanted(token: Token) -> bool:
            return (
                token.access_token != self._distrusted
                and token.token_type == self._endpoint.token_type
                and token.issued_at <= self._clock.time() + _CLOCK_SKEW
                and wanted(self._hold(token), False)
            )

        stored = self._storage.load()
        if stored is None or not is_wanted(stored):
            self._raise_if_paused()
            with self._storage.exclusive(is_wanted) as stored:
                if stored is None:
                    return self._store(self._ask(reason))
        logger.debug("%s: token taken from storage", self._endpoint)
        return self._hold(stored)

    def _store(self, held: _Held) -> _Held:
        """Store the token; where that fails, a caller tries again after a while."""
        assert self._storage is not None
        retry_at = self._storage.save(held.token)
        if retry_at is None:
            return held
        return replace(held, fresh_until=min(held.fresh_until, retry_at), unstored=held)

    def _ask(self, reason: Reason) -> _Held:
        asked = next(self._order)
        started_at = self._clock.monotonic()
        try:
            answer = self._endpoint.request()
        except Exception as error:
            self._note_failure(error)
            duration = self._clock.monotonic() - started_at
            self._tell(RenewalFailed, reason=reason, duration=duration, error=error)
            if reason != "expiring":
                # Otherwise the token still serves, and a warning of its own says so.
                log_failure(error)
            raise
        self._failures = None
        token = answer.token
        self._tell(
            TokenObtained,
            reason=reason,
            duration=self._clock.monotonic() - started_at,
            lifetime=token.lifetime,
            scope=token.scope,
        )
        logger.info(
            "%s: token obtained, lifetime %s s, scope %r",
            self._endpoint,
            "unknown" if token.lifetime is None else round(token.lifetime),
            None if token.scope is None else shown(token.scope),
        )
        return self._hold(token, asked, answer.asked_at)

    def _hold(self, token: Token, asked: int = _NOT_ASKED, asked_at: float | None = None) -> _Held:
        """The token with its ends by both clocks; one without ``asked_at`` is a stored one."""
        life = inf if token.lifetime is None else token.lifetime
        ends_wall = inf if token.expires_at is None else token.expires_at
        if asked_at is None:
            ends = self._clock.monotonic() + (ends_wall - self._clock.time())
        else:
            ends = asked_at + life
        leeway, stretch = (min(most, life * part) for most, part in (_LEEWAY, _STRETCH))
        before = self._held
        was_due = before is not None and not self._is_fresh(before.unstored or before)
        if before is not None and was_due and ends <= before.ends + _GAIN:
            # Asking early has gained no life, and is not repeated.
            stretch = 0.0
            is_asked_again = asked_at is not None or token.issued_at > before.token.issued_at
            if is_asked_again and before.token.access_token == token.access_token:
                # Some servers hand the same token out until it is dead: then it lives that long,
                # and asking again before brings nothing.
                leeway = 0.0
                ends = max(ends, before.ends, self._clock.monotonic() + _REISSUED_LIFE)
                ends_wall = max(ends_wall, self._clock.time() + _REISSUED_LIFE)
        return _Held(
            token=token,
            asked=asked,
            fresh_until=ends - leeway - stretch,
            fresh_until_wall=ends_wall - leeway - stretch,
            good_until=ends - leeway,
            good_until_wall=ends_wall - leeway,
            ends=ends,
            ends_wall=ends_wall,
        )

    # -- early renewal ---------------------------------------------------------------------

    def _renew_early(self, held: _Held) -> None:
        """Have the held token renewed while it is still good, unless somebody is at it.

        Or have it stored, where that is what is due.
        """
        fly = self._fly_early
        if held.unstored is not None and self._is_fresh(held.unstored):
            fly = self._store_late
        failures = self._failures
        if failures is not None and self._clock.monotonic() < failures.early_paused_until:
            return
        with self._lock:
            if self._flight is not None or self._held is not held:
                return
            flight = self._flight = _Flight("expiring")
        if self._is_background:
            thread = threading.Thread(
                target=fly, args=(flight, held), name="alf-renewal", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:
                # No more threads, or the interpreter is on its way out: it is done here.
                logger.debug("no thread for the early renewal", exc_info=True)
            else:
                return
        fly(flight, held)

    def _fly_early(self, flight: _Flight, held: _Held) -> None:
        def wanted(other: _Held, _landed: bool) -> bool:
            # One that was asked for since is all that asking brings, be it no longer life.
            is_newer = other.token.issued_at > held.token.issued_at
            return (is_newer or other.ends > held.ends + _GAIN) and self._is_good(other)

        flight.leader = threading.get_ident()
        try:
            self._fly(flight, wanted)
        except Exception as error:
            # Told to nobody: the token in hand still serves.
            is_expected = isinstance(error, requests.exceptions.RequestException)
            logger.warning("early renewal failed: %s", error, exc_info=not is_expected)

    def _store_late(self, flight: _Flight, held: _Held) -> None:
        flight.leader = threading.get_ident()
        try:
            stored = self._store(held.unstored or held)
            with self._lock:
                if self._held is held:
                    self._held = stored
        finally:
            self._land(flight)

    # -- failures --------------------------------------------------------------------------

    def _note_failure(self, error: Exception) -> None:
        count = 1 if self._failures is None else self._failures.count + 1
        response = getattr(error, "response", None)
        asked_to_wait = None if response is None else retry_after(response)
        at_least = min(asked_to_wait or 0.0, _LONGEST_RETRY_AFTER)
        now = self._clock.monotonic()
        paused_until = -inf
        if count >= _PATIENCE:
            paused_until = now + max(at_least, _pause(count - _PATIENCE))
        self._failures = _Failures(
            count,
            _fresh_copy(error),
            paused_until,
            early_paused_until=now + max(at_least, _pause(count - 1)),
        )

    def _raise_if_paused(self) -> None:
        failures = self._failures
        if failures is not None and self._clock.monotonic() < failures.paused_until:
            raise _fresh_copy(failures.error)

    # -- refusals --------------------------------------------------------------------------

    def _replace(self, refused: set[str], since: int, origin: str) -> _Held | None:
        """Another token than the refused ones; ``None``: none is to be had for this origin."""

        def wanted(held: _Held, landed: bool) -> bool:
            if held.token.access_token in refused:
                # Asked for after the refusal and handed out again: that is the last word.
                return landed and held.asked > since
            return landed or self._is_good(held)

        held = self._held
        if held is None or not wanted(held, False):
            if self._is_guarded(origin):
                logger.debug("%s refuses fresh tokens: no new one is asked for yet", origin)
                return None
            held = self._fetch(wanted, "refused")
            if held.asked > since:
                # What was asked for before the refusal says nothing about fresh tokens.
                self._guard(origin, held, is_refused=held.token.access_token in refused)
        return None if held.token.access_token in refused else held

    def _is_guarded(self, origin: str) -> bool:
        guard = self._guards.get(origin)
        return guard is not None and self._clock.monotonic() < guard.paused_until

    def _guard(self, origin: str, held: _Held, *, is_refused: bool) -> None:
        """Remember which token was got for this origin, to see whether it refuses that one too."""
        now = self._clock.monotonic()
        with self._lock:
            old = self._guards.get(origin)
            if old is not None and old.access_token == held.token.access_token and not is_refused:
                return
            is_recent = old is not None and now - old.fetched_at <= 2 * _LONGEST_GUARD
            refusals = old.refusals if old is not None and is_recent else 0
            for other, guard in list(self._guards.items()):
                if now - guard.fetched_at > 2 * _LONGEST_GUARD:
                    del self._guards[other]
            self._guards[origin] = _Guard(
                held.token.access_token, now, refusals + is_refused, is_refused
            )

    def _note_refused(self, origin: str, token: Token) -> None:
        with self._lock:
            guard = self._guards.get(origin)
            if guard is None or guard.access_token != token.access_token or guard.is_refused:
                return
            guard.is_refused = True
            guard.refusals += 1

    def _note_accepted(self, origin: str, token: Token) -> None:
        with self._lock:
            guard = self._guards.get(origin)
            if guard is not None and guard.access_token == token.access_token:
                del self._guards[origin]


class Refusal:
    """One request's way through refused tokens: which token to try next, and when to stop.

    The request may be refused with a token only if that was asked for after its first refusal;
    what memory, a flight under way or the storage holds is tried before.
    """

    def __init__(self, manager: TokenManager, origin: str, since: int) -> None:
        self._manager = manager
        self._origin = origin
        self._since = since
        self._refused: set[str] = set()
        self._settled: set[str] = set()
        self._last: _Held | None = None

    def wait_to_settle(self, refused: Token) -> bool:
        """Wait for the API to know this token, where it may be too new; whether to try it again."""
        clock, settle_time = self._manager._clock, self._manager._settle_time
        age = clock.time() - refused.issued_at
        if not 0 <= age < settle_time or refused.access_token in self._settled:
            return False
        self._settled.add(refused.access_token)
        clock.sleep(settle_time - age)
        return True

    def replacement(self, refused: Token) -> Token | None:
        """The token to try after this one; ``None``: the refusal stands.

        :raises TokenError: the endpoint gave no token.
        :raises requests.exceptions.RequestException: the endpoint could not be reached.
        """
        manager = self._manager
        self._refused.add(Secret(refused.access_token))
        manager._note_refused(self._origin, refused)
        last = self._last
        is_fresh = last is not None and last.asked > self._since
        age = manager._clock.time() - refused.issued_at
        manager._tell(TokenRefused, origin=self._origin, age=age, is_fresh=is_fresh)
        if is_fresh:
            logger.warning("%s refuses a new token of %s", self._origin, manager._endpoint)
            return None
        logger.warning("%s refused the token of %s", self._origin, manager._endpoint)
        self._last = manager._replace(self._refused, self._since, self._origin)
        return None if self._last is None else self._last.token

    def accepted(self, token: Token) -> None:
        """The API took this replacement."""
        self._manager._note_accepted(self._origin, token)


def _pause(exponent: int) -> float:
    """1 s, 2 s, 4 s … up to the longest pause, with jitter so that a fleet spreads out."""
    longest = min(_LONGEST_PAUSE, 2.0**exponent) if exponent < 10 else _LONGEST_PAUSE
    return random.uniform(max(1.0, longest / 2), longest)  # noqa: S311


def _fresh_copy(error: Exception) -> Exception:
    """The error for one more caller: a traceback and a response of its own."""
    try:
        fresh = copy.copy(error)
    except Exception:  # an exception class of somebody else's that cannot be copied
        return error
    response = getattr(fresh, "response", None)
    if isinstance(response, requests.Response):
        fresh.response = copy.copy(response)  # type: ignore[attr-defined]
    return fresh.with_traceback(None)


def _check_secret(client_secret: str, client_id: str) -> Secret:
    secret = without_line_break(check_text("client_secret", client_secret))
    if secret != client_secret:
        logger.warning(
            "the client_secret of client_id %r ends with a line break, which was removed", client_id
        )
    return Secret(secret)


def _one_timeout(
    token_timeout: float | tuple[float | None, float | None] | None,
    token_request_params: dict[str, Any] | None,
) -> Any:
    if token_request_params is None:
        return DEFAULT_TIMEOUT if token_timeout is None else token_timeout
    unknown = sorted(set(token_request_params) - {"timeout"})
    if unknown:
        message = f"token_request_params may have a timeout only, got {', '.join(unknown)}"
        raise TypeError(message)
    timeout = token_request_params.get("timeout")
    if timeout is not None and token_timeout is not None:
        message = "token_timeout and token_request_params['timeout'] are the same: give one of them"
        raise TypeError(message)
    return _one_timeout(token_timeout if timeout is None else timeout, None)
