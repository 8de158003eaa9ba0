"""Shows a token's life, with one line for each event: ``make run``."""

from __future__ import annotations

import time

from alf import Client
from examples.authorization_server import AuthorizationServer, running

LIFETIME = 2  # seconds


class Story:
    """Calls the API, and prints the status and whether a token was requested."""

    def __init__(self, server: AuthorizationServer, client: Client) -> None:
        self._server = server
        self._client = client

    def tell(self, occasion: str, expected_status: int, expected_tokens: int) -> None:
        before = len(self._server.tokens)
        response = self._client.put(self._server.api, data="hello")
        tokens = len(self._server.tokens) - before
        result = "a new token" if tokens else "no new token"
        print(f"{occasion:36} {response.status_code} from {response.url}, {result}")
        if (response.status_code, tokens) != (expected_status, expected_tokens):
            message = f"expected a {expected_status} and {expected_tokens} new tokens: {occasion}"
            raise SystemExit(message)


def main() -> None:
    with (
        running(LIFETIME) as server,
        Client(
            token_endpoint=server.token_endpoint,
            client_id=server.client.client_id,
            client_secret=server.client.client_secret,
            # With such a short life, early renewal would be too quick to show.
            token_refresh="blocking",
        ) as client,
    ):
        story = Story(server, client)
        story.tell("first call: token fetched", 200, 1)
        story.tell("second call: token reused", 200, 0)
        time.sleep(LIFETIME)
        story.tell("token expired: renewed", 200, 1)
        server.revoke_all()
        story.tell("token revoked: 401 healed", 200, 1)
        server.is_down = True
        story.tell("endpoint down: good token reused", 200, 0)
        time.sleep(LIFETIME)
        story.tell("endpoint down, token expired: error", 503, 0)
        server.is_down = False
        story.tell("endpoint up again", 200, 1)


if __name__ == "__main__":
    main()
