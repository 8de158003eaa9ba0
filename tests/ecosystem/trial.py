"""One library, with a Client and with a plain Session: what the API and the caller see.

``python -m tests.ecosystem.trial NAME`` prints a line of JSON; run in the library's environment.
"""

from __future__ import annotations

import functools
import json
import sys
import traceback
from typing import Any

from tests.ecosystem.cases import CASES, Case
from tests.ecosystem.server import Remote
from tests.servers import TurnedClock

STATIC = "static-token"


class Lab:
    """What a case gets: the API, and a Session or an auth object to put into the library."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self.url: str = remote.url

    def pages(self, pages: dict[str, Any]) -> None:
        """What the API answers, by path: a JSON value, a text, or [status, headers, text]."""
        self._remote.pages(pages)

    def session(self, *bases: type, **arguments: Any) -> Any:
        """The Session; ``bases`` are mixed in, and get the arguments.

        A mixin comes before the Client, as it would before a Session; another Session after it.
        """
        raise NotImplementedError

    def auth(self) -> Any:
        """An auth object, for a library that takes no Session."""
        raise NotImplementedError

    def token_session(self, session: Any) -> Any:
        """The Session, which requests its tokens with this one."""
        raise NotImplementedError


class PlainLab(Lab):
    """A plain Session with a token that stays: what the library does by itself."""

    def session(self, *bases: type, **arguments: Any) -> Any:
        import requests

        session = type("PlainSession", (*bases, requests.Session), {})(**arguments)
        session.auth = self.auth()
        return session

    def auth(self) -> Any:
        import requests

        class StaticAuth(requests.auth.AuthBase):
            def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
                request.headers["Authorization"] = f"Bearer {STATIC}"
                return request

        return StaticAuth()

    def token_session(self, session: Any) -> Any:
        return self.session()


class ClientLab(Lab):
    def __init__(self, remote: Remote) -> None:
        super().__init__(remote)
        self.clock = TurnedClock()

    def session(self, *bases: type, **arguments: Any) -> Any:
        from alf import Client, TokenManager

        manager = staticmethod(functools.partial(TokenManager, clock=self.clock))
        bases = tuple(sorted((*bases, Client), key=_place))
        cls = type("TheClient", bases, {"token_manager_class": manager})
        return cls(
            token_endpoint=self._remote.endpoint,
            client_id="client-id",
            client_secret="secret",
            **arguments,
        )

    def auth(self) -> Any:
        return self.session().auth

    def token_session(self, session: Any) -> Any:
        return self.session(token_session=session)


def try_out(case: Case) -> dict[str, Any]:
    """What was seen of this library, by name of the observation."""
    remote = Remote()
    try:
        if case.before is not None:
            case.before()
        plain = _with_plain_session(case, remote)
        return {**plain, **_with_client(case, remote)}
    finally:
        remote.stop()


def _with_plain_session(case: Case, remote: Remote) -> dict[str, Any]:
    call = case.make(PlainLab(remote))
    remote.accept(STATIC)
    remote.seen()
    result = call(1)
    api = remote.seen()["api"]
    remote.revoke_all()
    try:
        error = f"returns {call(2)!r}"
    except BaseException as raised:  # schemathesis raises a group of these
        error = type(raised).__name__
    refused = [status for *_, status in remote.seen()["api"] if status == 401]
    return {
        "result": result,
        "plain_requests": len(api),
        "plain_refused": len(refused),
        "plain_error": error,
    }


def _with_client(case: Case, remote: Remote) -> dict[str, Any]:
    lab = ClientLab(remote)
    call = case.make(lab)
    seen: dict[str, Any] = {"client_result": call(3)}
    first = remote.seen()
    seen["client_requests"] = len(first["api"])
    seen["client_tokens"] = first["tokens"]
    seen["client_refused"] = _refused(first)
    lab.clock.turn(7200)
    remote.revoke_all()
    seen["expired_result"] = call(4)
    seen["expired_refused"] = _refused(expired := remote.seen())
    seen["expired_tokens"] = expired["tokens"]
    remote.revoke_all()
    seen["revoked_result"] = call(5)
    seen["revoked_refused"] = _refused(revoked := remote.seen())
    seen["revoked_requests"] = len(revoked["api"])
    seen["revoked_tokens"] = revoked["tokens"]
    return seen


def _place(base: type) -> int:
    """Where it stands among the bases of a class."""
    import requests

    from alf import Client

    if base is Client:
        return 1
    return 2 if issubclass(base, requests.Session) else 0


def _refused(seen: dict[str, Any]) -> int:
    return sum(status == 401 for *_, status in seen["api"])


def _main() -> int:
    case = CASES[sys.argv[1]]
    try:
        seen = try_out(case)
    except Exception:
        traceback.print_exc()
        return 1
    print(json.dumps(seen))
    return 0


if __name__ == "__main__":
    sys.exit(_main())
