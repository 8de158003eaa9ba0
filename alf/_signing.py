"""What every kind of client authentication is made of: who the client is, and what signs a form."""

from __future__ import annotations

import base64
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Generator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

import requests

from alf._answers import find_error
from alf._redaction import Secret
from alf._texts import check_text, has_outer_blanks, without_line_break

__all__ = [
    "Basic",
    "ClientAuth",
    "Credentials",
    "Flow",
    "InForm",
    "Sign",
    "encoded",
    "is_refused",
    "with_secret",
]

logger = logging.getLogger("alf")

#: Signs a token request, as an ``auth=`` of requests.
Sign = Callable[[requests.PreparedRequest], requests.PreparedRequest]

#: What is tried, one after the other, each for the answer to the one before; in the end the
#: answer that counts.
Flow = Generator[Sign, requests.Response, requests.Response]


@dataclass(frozen=True, eq=False, repr=False)
class Credentials:
    """The client's identifier and secret.

    :param client_id: the client's identifier.
    :param client_secret: its secret, or a callable that returns it, called for each token request.
    :param audience: the default audience of an assertion: the issuer if it is known, or else the
        token endpoint.
    :param is_issuer: whether the audience is the issuer.
    """

    client_id: str
    client_secret: str | Callable[[], str] | None = field(default=None, repr=False)
    audience: str = ""
    is_issuer: bool = False

    def secret(self) -> str:
        """The current secret.

        :raises TypeError: the callable gave none. What the callable raises is passed on.
        :raises ValueError: it has control characters inside, or cannot be encoded.
        """
        name = f"the client_secret of client_id {self.client_id!r}"
        if not callable(self.client_secret):
            return Secret(check_text(name, self.client_secret))
        given: Any = self.client_secret()
        secret = Secret(without_line_break(given)) if isinstance(given, str) else None
        if not secret or not secret.strip():
            message = f"{name} must be a non-empty str, the callable gave {type(given).__name__}"
            raise TypeError(message)
        del given  # error reports show local variables
        return Secret(check_text(name, secret))


class ClientAuth(ABC):
    """A way for the client to authenticate."""

    #: Its name, as RFC 7591 §2 registers it.
    method: str
    #: Whether it takes a ``client_secret``.
    has_secret = False
    #: Whether it is a matter of the connection, which has to be https then.
    needs_tls = False
    #: The parameters that it adds to the form.
    params: Collection[str] = ("client_id",)

    @property
    def identity(self) -> str | None:
        """What tells its tokens from those of another; ``None``: that is not known."""
        return self.method

    @abstractmethod
    def flow(self, credentials: Credentials, url: str, now: float) -> Flow:
        """What signs the request, one try after the other.

        :param credentials: who the client is.
        :param url: where the request goes.
        :param now: monotonic time, in seconds.
        """
        ...


def is_refused(response: requests.Response) -> bool:
    """Whether the server refused the client's authentication (RFC 6749 §5.2)."""
    return response.status_code == 401 or find_error(response)[0] == "invalid_client"


def with_secret(
    credentials: Credentials, sign_with: Callable[[str], Sign]
) -> Generator[Sign, requests.Response, tuple[str, requests.Response]]:
    """Sign with the secret; where it is refused and has changed meanwhile, with the new one."""
    secret = credentials.secret()
    response = yield sign_with(secret)
    if callable(credentials.client_secret) and is_refused(response):
        fresh = credentials.secret()
        if fresh != secret:
            secret = fresh
            response = yield sign_with(secret)
    if is_refused(response) and has_outer_blanks(secret):
        logger.warning(
            "the client_secret of client_id %r, which was refused, begins or ends with white space",
            credentials.client_id,
        )
    return secret, response


def encoded(text: str) -> str:
    # A blank as %20: form decoders read that and "+" alike, but some servers decode percent
    # signs only.
    return quote(text, safe="")


class Basic:
    """Writes the header of HTTP Basic, id and secret encoded or as they are (RFC 7617)."""

    def __init__(self, client_id: str, client_secret: str, is_raw: bool) -> None:
        encode = str if is_raw else encoded
        self.username = client_id
        self._pair = f"{encode(client_id)}:{encode(client_secret)}"

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        credentials = base64.b64encode(self._pair.encode()).decode()
        request.headers["Authorization"] = f"Basic {credentials}"
        return request


class InForm:
    """Adds these pairs to the form."""

    def __init__(self, *pairs: tuple[str, str]) -> None:
        self._pairs = pairs

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        form = request.body
        assert form is None or isinstance(form, str)
        request.body = "&".join(filter(None, (form, urlencode(self._pairs))))
        return request
