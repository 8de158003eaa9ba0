from __future__ import annotations

import pytest
import requests
from urllib3.util.retry import Retry

from alf.adapters import mount_retry_adapter
from tests.servers import Reply, TokenServer


@pytest.mark.parametrize("retries", [2, Retry(2, status_forcelist=[503], allowed_methods=None)])
def test_mounting_retries_on_any_session(tokens: TokenServer, retries: int | Retry) -> None:
    tokens.replies = [Reply(503), Reply(503)]
    with requests.Session() as session:
        mount_retry_adapter(session, retries)
        status = session.post(tokens.endpoint).status_code
    assert (status, len(tokens.requests)) == ((503, 1) if retries == 2 else (200, 3))
