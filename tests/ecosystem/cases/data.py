"""Data catalogues and pipelines, load and API tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.ecosystem.cases.registry import case

Call = Callable[[int], Any]


@case(
    "pyiceberg",
    "data",
    "``class Catalog(RestCatalog)`` whose ``_create_session()`` returns the Client",
)
def pyiceberg(lab: Any) -> Call:
    from pyiceberg.catalog.rest import RestCatalog

    lab.pages(
        {
            "/v1/config": {"defaults": {}, "overrides": {}},
            "/v1/namespaces": {"namespaces": [["alf"]]},
        }
    )

    session = lab.session()

    class Catalog(RestCatalog):
        def _create_session(self) -> Any:
            self._config_headers(session)
            return session

    return lambda number: [list(name) for name in Catalog("alf", uri=lab.url).list_namespaces()]


@case("dlt", "data", "``RESTClient(base_url=url, session=client)``")
def dlt(lab: Any) -> Call:
    from dlt.sources.helpers.rest_client import RESTClient

    lab.pages({"/reports": [{"title": "May"}]})
    client = RESTClient(base_url=lab.url, session=lab.session())
    return lambda number: [list(page) for page in client.paginate("/reports")]


@case("schemathesis", "data", "``case.call(session=client)``")
def schemathesis(lab: Any) -> Call:
    import schemathesis

    lab.pages({"/reports": {"title": "May"}})
    answers = {"200": {"description": "fine"}}
    schema = schemathesis.openapi.from_dict(
        {
            "openapi": "3.0.0",
            "info": {"title": "alf", "version": "1"},
            "paths": {"/reports": {"get": {"responses": answers}}},
        }
    )
    session = lab.session()

    def call(number: int) -> Any:
        made = schema["/reports"]["GET"].Case()
        response = made.call(base_url=lab.url, session=session)
        made.validate_response(response)
        return response.json()

    return call


def _patch_gevent() -> None:
    import gevent.monkey

    gevent.monkey.patch_all()


@case(
    "locust", "data", "``self.client.auth = client.auth`` in ``on_start()``", before=_patch_gevent
)
def locust(lab: Any) -> Call:
    from locust import HttpUser, task
    from locust.env import Environment

    lab.pages({"/reports": {"title": "May"}})

    class Reader(HttpUser):
        host = lab.url

        def on_start(self) -> None:
            self.client.auth = lab.auth()

        @task
        def read(self) -> None:
            """Called by hand."""

    user = Reader(Environment(user_classes=[Reader]))
    user.on_start()

    def call(number: int) -> Any:
        with user.client.get("/reports", catch_response=True, name="reports") as response:
            response.raise_for_status()
            return response.json()

    return call


def _import_grequests() -> None:
    import grequests  # noqa: F401  (which patches gevent in, all but threads)


@case(
    "grequests",
    "data",
    "``grequests.get(url, session=client)``",
    before=_import_grequests,
    otherwise={"revoked_refused": range(1, 9)},
    note="Eight calls at once make one token request.",
)
def grequests(lab: Any) -> Call:
    import grequests

    lab.pages({f"/reports/{number}": number for number in range(8)})
    session = lab.session()

    def fail(request: Any, error: Exception) -> None:
        raise error

    def call(number: int) -> Any:
        calls = [grequests.get(f"{lab.url}/reports/{n}", session=session) for n in range(8)]
        answers = grequests.map(calls, exception_handler=fail, gtimeout=20)
        for answer in answers:
            answer.raise_for_status()
        return [answer.json() for answer in answers]

    return call
