"""Clients of one service each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.ecosystem.cases.registry import case

Call = Callable[[int], Any]

JSON = {"Content-Type": "application/json"}
XML = {"Content-Type": "text/xml"}


@case("python-gitlab", "services", "``gitlab.Gitlab(url, session=client)``")
def python_gitlab(lab: Any) -> Call:
    import gitlab

    lab.pages({"/api/v4/projects": [200, JSON, '[{"id": 1, "name": "alf"}]']})
    server = gitlab.Gitlab(lab.url, session=lab.session())
    return lambda number: [project.name for project in server.projects.list(get_all=False)]


@case(
    "jira",
    "services",
    "``class JiraSession(Client, ResilientSession)``; ``jira._session = session``",
    note="It has no argument for it. Setting ``jira._session.auth = client.auth`` works, too.",
)
def jira(lab: Any) -> Call:
    from jira import JIRA
    from jira.resilientsession import ResilientSession

    lab.pages(
        {"/rest/api/2/issue/ALF-1": {"id": "1", "key": "ALF-1", "fields": {"summary": "token"}}}
    )
    server = JIRA(lab.url, get_server_info=False, max_retries=0)
    server._session = lab.session(ResilientSession)
    return lambda number: server.issue("ALF-1").fields.summary


@case("jira", "services", "``jira._session.auth = client.auth``", name="jira, its own Session")
def jira_auth(lab: Any) -> Call:
    from jira import JIRA

    lab.pages(
        {"/rest/api/2/issue/ALF-1": {"id": "1", "key": "ALF-1", "fields": {"summary": "token"}}}
    )
    server = JIRA(lab.url, get_server_info=False, max_retries=0)
    server._session.auth = lab.auth()
    return lambda number: server.issue("ALF-1").fields.summary


@case("atlassian-python-api", "services", "``Confluence(url, session=client)``")
def atlassian(lab: Any) -> Call:
    from atlassian import Confluence

    lab.pages({"/rest/api/content/7": {"id": "7", "title": "page"}})
    server = Confluence(lab.url, session=lab.session())
    return lambda number: server.get_page_by_id("7")["title"]


@case(
    "simple-salesforce",
    "services",
    '``Salesforce(instance_url=…, session_id="-", session=client)``',
    note="``session_id`` is required, but not used.",
)
def simple_salesforce(lab: Any) -> Call:
    from simple_salesforce import Salesforce

    path = "/services/data/v59.0/query/"
    lab.pages({path: {"totalSize": 1, "done": True, "records": [{"Name": "alf"}]}})
    server = Salesforce(instance_url=lab.url, session_id="-", session=lab.session(), version="59.0")
    server.base_url = f"{lab.url}/services/data/v59.0/"
    return lambda number: server.query("SELECT Name FROM Account")["records"][0]["Name"]


@case("hvac", "services", "``hvac.Client(url, session=client)``")
def hvac(lab: Any) -> Call:
    import hvac

    lab.pages({"/v1/secret/data/alf": {"data": {"data": {"key": "value"}}}})
    server = hvac.Client(lab.url, session=lab.session())

    def call(number: int) -> Any:
        secrets = server.secrets.kv.v2
        answer = secrets.read_secret_version(path="alf", raise_on_deleted_version=True)
        return answer["data"]["data"]

    return call


@case("pysolr", "services", "``pysolr.Solr(url, session=client)``")
def pysolr(lab: Any) -> Call:
    import pysolr

    lab.pages({"/solr/select/": {"response": {"numFound": 1, "docs": [{"id": "alf"}]}}})
    server = pysolr.Solr(f"{lab.url}/solr", session=lab.session())
    return lambda number: [found["id"] for found in server.search("alf")]


@case(
    "spotipy",
    "services",
    "``spotipy.Spotify(requests_session=client)``",
)
def spotipy(lab: Any) -> Call:
    import spotipy

    lab.pages({"/v1/albums/7": {"name": "alf"}})
    server = spotipy.Spotify(requests_session=lab.session())
    server.prefix = f"{lab.url}/v1/"
    return lambda number: server.album("7")["name"]


@case(
    "stripe",
    "services",
    '``StripeClient("-", http_client=stripe.RequestsClient(session=client))``',
    note="An API key is required, but not used.",
)
def stripe(lab: Any) -> Call:
    import stripe

    lab.pages({"/v1/customers/cus_1": {"id": "cus_1", "object": "customer", "name": "alf"}})
    server = stripe.StripeClient(
        "-",
        http_client=stripe.RequestsClient(session=lab.session()),
        base_addresses={"api": lab.url},
    )
    return lambda number: server.v1.customers.retrieve("cus_1").name


@case("pynetbox", "services", "``netbox = pynetbox.api(url)``; ``netbox.http_session = client``")
def pynetbox(lab: Any) -> Call:
    import pynetbox

    lab.pages({"/api/dcim/devices/7/": {"id": 7, "name": "alf", "url": "", "display": "alf"}})
    server = pynetbox.api(lab.url)
    server.http_session = lab.session()
    return lambda number: server.dcim.devices.get(7).name


@case("pystac-client", "services", "``api = StacApiIO()``; ``api.session = client``")
def pystac_client(lab: Any) -> Call:
    from pystac_client import Client as Catalog
    from pystac_client.stac_api_io import StacApiIO

    lab.pages(
        {
            "/stac": {
                "type": "Catalog",
                "id": "alf",
                "stac_version": "1.0.0",
                "description": "tokens",
                "links": [],
                "conformsTo": ["https://api.stacspec.org/v1.0.0/core"],
            }
        }
    )
    api = StacApiIO()
    api.session = lab.session()
    return lambda number: Catalog.open(f"{lab.url}/stac", stac_io=api).description


@case(
    "huggingface_hub",
    "services",
    "``configure_http_backend(lambda: client)``",
    note="Below version 1.0, which uses httpx.",
)
def huggingface_hub(lab: Any) -> Call:
    from huggingface_hub import HfApi, configure_http_backend

    lab.pages({"/api/models/alf/alf": {"id": "alf/alf", "_id": "1", "sha": "1"}})
    session = lab.session()
    configure_http_backend(lambda: session)
    api = HfApi(endpoint=lab.url, token=False)
    return lambda number: api.model_info("alf/alf").id


@case(
    "opensearch-py",
    "services",
    "``OpenSearch(url, http_auth=client.auth, connection_class=RequestsHttpConnection)``",
)
def opensearch(lab: Any) -> Call:
    from opensearchpy import OpenSearch, RequestsHttpConnection

    lab.pages({"/alf/_doc/1": {"_id": "1", "found": True, "_source": {"name": "alf"}}})
    server = OpenSearch(
        lab.url, http_auth=lab.auth(), connection_class=RequestsHttpConnection, max_retries=0
    )
    return lambda number: server.get(index="alf", id="1")["_source"]


@case("trino", "services", "``trino.dbapi.connect(http_session=client)``")
def trino(lab: Any) -> Call:
    from urllib.parse import urlsplit

    import trino

    done = {
        "id": "query",
        "infoUri": lab.url,
        "columns": [
            {
                "name": "n",
                "type": "integer",
                "typeSignature": {"rawType": "integer", "arguments": []},
            }
        ],
        "data": [[7]],
        "stats": {"state": "FINISHED"},
    }
    queued = {
        "id": "query",
        "infoUri": lab.url,
        "nextUri": f"{lab.url}/v1/statement/query/1",
        "stats": {"state": "QUEUED"},
    }
    lab.pages({"POST /v1/statement": queued, "GET /v1/statement/query/1": done})
    address = urlsplit(lab.url)
    connection = trino.dbapi.connect(
        host=address.hostname, port=address.port, user="alf", http_session=lab.session()
    )

    def call(number: int) -> Any:
        cursor = connection.cursor()
        return cursor.execute("SELECT 7").fetchall()

    return call
