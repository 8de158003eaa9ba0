"""Processes that share a storage also share an endpoint's refusal of their client."""

from __future__ import annotations

import io
import json

import requests

from alf._endpoint import Answer, TokenEndpoint
from alf._entries import LONGEST_REFUSAL, StoredRefusal
from alf._retries import retry_after
from alf._token_storage import TokenStorage
from alf._urls import shown_url
from alf.tokens import TokenError

__all__ = ["SharedRefusals"]

#: Errors that reject the credential or the client (RFC 6749 §5.2). Repeating the request soon is
#: useless, from any process.
_OF_THE_CLIENT = frozenset(("invalid_client", "unauthorized_client"))

#: Seconds for which a 429 without ``Retry-After`` is shared.
_PAUSE = 10.0


class SharedRefusals:
    """Shares refusals of the client through the storage; never failures of any other kind.

    Nothing is shared if the secret is a callable, because it may return another secret by now.

    :param storage: the token's storage.
    :param endpoint: the token endpoint.
    """

    def __init__(self, storage: TokenStorage, endpoint: TokenEndpoint) -> None:
        self._storage = storage
        self._endpoint = endpoint
        storage.credential = endpoint.fixed_secret

    def request(self, *, is_forced: bool) -> Answer:
        """Request a token, unless another process was recently refused with the same secret.

        :param is_forced: request it even then.
        :raises TokenError: the client was refused, here or there, or the endpoint failed.
        :raises requests.exceptions.RequestException: there was no answer.
        """
        secret = self._endpoint.fixed_secret
        if secret is None:
            return self._endpoint.request()
        refusal = None if is_forced else self._storage.load_refusal(secret)
        if refusal is not None:
            raise self._as_error(refusal)
        try:
            return self._endpoint.request()
        except TokenError as error:
            self._share(secret, error)
            raise

    def _share(self, secret: str, error: TokenError) -> None:
        response = error.response
        status = 0 if response is None else response.status_code
        if response is not None and status == 429:
            wait = retry_after(response)
            seconds = _PAUSE if wait is None else wait
        elif error.error in _OF_THE_CLIENT and 400 <= status < 500:
            seconds = LONGEST_REFUSAL
        else:
            return
        self._storage.save_refusal(
            secret, status, error.error, error.error_description, seconds=seconds
        )

    def _as_error(self, refusal: StoredRefusal) -> TokenError:
        message = (
            f"{self._endpoint} recently refused the client in another process: "
            f"{refusal.error or refusal.status}"
        )
        return TokenError(
            message,
            self._as_response(refusal),
            error=refusal.error,
            error_description=refusal.description,
        )

    def _as_response(self, refusal: StoredRefusal) -> requests.Response:
        """The refusal as the endpoint's response, for callers that do not get exceptions."""
        members = {"error": refusal.error, "error_description": refusal.description}
        body = json.dumps({name: text for name, text in members.items() if text is not None})
        response = requests.Response()
        response.status_code = refusal.status
        response.url = shown_url(self._endpoint.url)
        response.headers["Content-Type"] = "application/json"
        response.encoding = "utf-8"
        response.raw = io.BytesIO(body.encode())
        response.request = requests.Request("POST", response.url).prepare()
        return response
