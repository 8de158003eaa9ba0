"""Django OAuth Toolkit on loopback: run as a program, for the tests.

Reads a JSON object from stdin: the ``folder`` for its database, and ``clients``, each with
client_id, client_secret and, where its tokens are to live shorter than 300 seconds,
access_token_ttl. Prints its URL when it is ready.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.core.management import call_command
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
from django.core.wsgi import get_wsgi_application
from django.urls import include, path

#: Where the includes of the URLs are found.
urlpatterns: list[Any] = []


def serve(clients: list[dict[str, Any]], folder: Path) -> None:
    lifetimes = {client["client_id"]: client.get("access_token_ttl", 300) for client in clients}
    settings.configure(
        SECRET_KEY="not a secret",
        ALLOWED_HOSTS=["127.0.0.1"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": folder / "db"}},
        INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "oauth2_provider"],
        # The secrets are not worth the time that a good hash takes.
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
        ROOT_URLCONF=__name__,
        USE_TZ=True,
        OAUTH2_PROVIDER={
            "SCOPES": {"read": "Read", "write": "Write"},
            "EXTRA_SERVER_KWARGS": {
                "token_expires_in": lambda request: lifetimes[request.client.client_id]
            },
        },
    )
    django.setup()
    urlpatterns.append(path("", include("oauth2_provider.urls")))
    call_command("migrate", verbosity=0)

    from oauth2_provider.models import Application  # needs the setup above

    for client in clients:
        Application.objects.create(
            client_id=client["client_id"],
            client_secret=client["client_secret"],
            client_type=Application.CLIENT_CONFIDENTIAL,
            authorization_grant_type=Application.GRANT_CLIENT_CREDENTIALS,
        )
    server = ThreadedWSGIServer(("127.0.0.1", 0), WSGIRequestHandler)
    server.set_app(get_wsgi_application())
    print(f"http://127.0.0.1:{server.server_port}", flush=True)  # noqa: T201
    server.serve_forever()


if __name__ == "__main__":
    configuration = json.load(sys.stdin)
    serve(configuration["clients"], Path(configuration["folder"]))
