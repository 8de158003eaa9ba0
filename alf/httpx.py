"""A Client's token for httpx and its successor httpx2. Needs the extra ``httpx``."""

from __future__ import annotations

import importlib
import logging
from collections.abc import AsyncGenerator, Callable, Generator
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import requests
from requests.exceptions import RequestException

from alf._failure_log import is_logged
from alf._healing import Healing
from alf._inspection import reason
from alf._urls import origin_of
from alf.client import Client
from alf.tokens import Token

__all__ = ["TokenAuth"]

logger = logging.getLogger("alf")


def _installed(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


_modules = [module for module in map(_installed, ("httpx", "httpx2")) if module is not None]

if TYPE_CHECKING:
    _Base = object
else:
    # Each of them requires an instance of its own class.
    _Base = type("_Base", tuple(dict.fromkeys(module.Auth for module in _modules)), {})

#: A step of the flow: a request to send, or a function that may block.
_Step = Any


class TokenAuth(_Base):
    """``auth=TokenAuth(client)`` of an ``httpx.Client`` or ``httpx.AsyncClient``.

    >>> api = httpx.AsyncClient(auth=TokenAuth(client))

    The Client requests one token for all callers, renews it before it expires, and replaces it when
    an API refuses it. The refused response is in ``response.history``. Under asyncio and trio the
    event loop is never blocked: a token in memory is read directly, and everything else happens in
    a thread.

    After a refusal a body of bytes, text, JSON or form is sent again; files, multipart and
    generators are not. The Client's ``is_token_refused()`` gets status and headers.

    :param client: the Client that has the token.
    :raises ImportError: neither httpx nor httpx2 is installed.
    :raises TokenError: while sending, if no token could be obtained. If none can be obtained after
        a refusal, the API's answer is returned and one WARNING is logged.
    """

    def __init__(self, client: Client) -> None:
        if not _modules:
            message = "TokenAuth needs httpx or httpx2: pip install 'alf[httpx]'"
            raise ImportError(message)
        self._client = client

    def sync_auth_flow(self, request: Any) -> Generator[Any, Any, None]:
        """Called by httpx for a ``Client``."""
        steps = self._steps(request)
        step = next(steps)
        while True:
            go_on: Callable[[], _Step]
            if not isinstance(step, _Blocking):
                go_on = partial(steps.send, (yield step))
            else:
                try:
                    go_on = partial(steps.send, step.function())
                except Exception as error:
                    go_on = partial(steps.throw, error)
            try:
                step = go_on()
            except StopIteration:
                return

    async def async_auth_flow(self, request: Any) -> AsyncGenerator[Any, Any]:
        """Called by httpx for an ``AsyncClient``."""
        # a dependency of both
        to_thread: Any = importlib.import_module("anyio.to_thread")
        steps = self._steps(request)
        step = next(steps)
        while True:
            go_on: Callable[[], _Step]
            if not isinstance(step, _Blocking):
                go_on = partial(steps.send, (yield step))
            else:
                try:
                    go_on = partial(
                        steps.send, await to_thread.run_sync(step.function, abandon_on_cancel=True)
                    )
                except Exception as error:
                    go_on = partial(steps.throw, error)
            try:
                step = go_on()
            except StopIteration:
                return

    def _steps(self, request: Any) -> Generator[_Step, Any, None]:
        """Yields the requests to send and the functions that may block; receives their results."""
        manager = self._client.manager
        if not self._client._token_auth.allows(str(request.url)):
            yield request
            return
        token = manager.peek(is_fresh=True)
        if token is None:
            token = yield _Blocking(manager.token)
        healing: Healing | None = None
        while token is not None:
            self._write(request, token)
            response = yield request
            request = response.request
            if request.headers.get("Authorization") != token.authorization:
                # A redirect removed the token.
                return
            answer = _as_requests(response)
            if not self._client._token_auth.is_refused(answer):
                if healing is not None:
                    healing.accepted(token)
                return
            healing = healing or Healing(manager, origin_of(str(request.url)))
            try:
                token = yield _Blocking(
                    partial(
                        self._client._token_auth.next_token,
                        *(healing, token, answer),
                        can_send_again=_is_in_memory(request.stream),
                    )
                )
            except RequestException as error:
                logger.log(
                    logging.DEBUG if is_logged(error) else logging.WARNING,
                    "%s refused the token, and it was not renewed: %s",
                    *(origin_of(str(request.url)), reason(error)),
                )
                return

    def _write(self, request: Any, token: Token) -> None:
        request.headers["Authorization"] = token.authorization
        key = self._client._dpop_key
        if key is not None:
            proved: Any = SimpleNamespace(
                method=request.method, url=str(request.url), headers=request.headers
            )
            key.attach_proof(proved, token)


class _Blocking:
    """A step that may block."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function


def _is_in_memory(body: Any) -> bool:
    """Whether a body can be sent again."""
    return any(isinstance(body, module.ByteStream) for module in _modules)


def _as_requests(response: Any) -> requests.Response:
    """A response of requests with the status and headers."""
    answer = requests.Response()
    answer.status_code = response.status_code
    answer.headers.update(response.headers)
    answer.url = str(response.request.url)
    request: Any = SimpleNamespace(url=answer.url, method=response.request.method)
    answer.request = request
    answer._content = b""
    return answer
