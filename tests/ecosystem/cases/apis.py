"""Libraries for a kind of API, and tools that take an auth object."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.ecosystem.cases.registry import case

Call = Callable[[int], Any]

XML = {"Content-Type": "text/xml"}

WSDL = """<?xml version="1.0"?>
<definitions xmlns="http://schemas.xmlsoap.org/wsdl/" xmlns:s="http://www.w3.org/2001/XMLSchema"
    xmlns:soap="http://schemas.xmlsoap.org/wsdl/soap/" xmlns:t="urn:alf" targetNamespace="urn:alf">
  <types><s:schema targetNamespace="urn:alf" elementFormDefault="qualified">
    <s:element name="Ask"><s:complexType><s:sequence>
      <s:element name="name" type="s:string"/></s:sequence></s:complexType></s:element>
    <s:element name="Answer"><s:complexType><s:sequence>
      <s:element name="text" type="s:string"/></s:sequence></s:complexType></s:element>
  </s:schema></types>
  <message name="In"><part name="p" element="t:Ask"/></message>
  <message name="Out"><part name="p" element="t:Answer"/></message>
  <portType name="Port"><operation name="Ask">
    <input message="t:In"/><output message="t:Out"/></operation></portType>
  <binding name="Binding" type="t:Port">
    <soap:binding style="document" transport="http://schemas.xmlsoap.org/soap/http"/>
    <operation name="Ask"><soap:operation soapAction="ask"/>
      <input><soap:body use="literal"/></input><output><soap:body use="literal"/></output>
    </operation></binding>
  <service name="Service"><port name="Port" binding="t:Binding">
    <soap:address location="URL/soap"/></port></service>
</definitions>"""

ANSWER = """<?xml version="1.0"?>
<e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/"><e:Body>
<Answer xmlns="urn:alf"><text>hello</text></Answer></e:Body></e:Envelope>"""

EDMX = """<?xml version="1.0" encoding="utf-8"?>
<edmx:Edmx Version="1.0" xmlns:edmx="http://schemas.microsoft.com/ado/2007/06/edmx"
    xmlns:m="http://schemas.microsoft.com/ado/2007/08/dataservices/metadata"
    xmlns:sap="http://www.sap.com/Protocols/SAPData">
 <edmx:DataServices m:DataServiceVersion="2.0">
  <Schema Namespace="ALF" xmlns="http://schemas.microsoft.com/ado/2008/09/edm">
   <EntityType Name="Report"><Key><PropertyRef Name="ID"/></Key>
    <Property Name="ID" Type="Edm.String" Nullable="false"/>
    <Property Name="Title" Type="Edm.String" Nullable="false"/></EntityType>
   <EntityContainer Name="C" m:IsDefaultEntityContainer="true">
    <EntitySet Name="Reports" EntityType="ALF.Report"/></EntityContainer>
  </Schema></edmx:DataServices></edmx:Edmx>"""

CAPABILITIES = """<?xml version="1.0"?>
<WMS_Capabilities version="1.3.0" xmlns="http://www.opengis.net/wms"
    xmlns:xlink="http://www.w3.org/1999/xlink">
 <Service><Name>WMS</Name><Title>maps</Title><OnlineResource xlink:href="URL/wms"/></Service>
 <Capability><Request/><Exception/><Layer><Title>all</Title></Layer></Capability>
</WMS_Capabilities>"""


@case("zeep", "services", "``zeep.Client(wsdl, transport=zeep.Transport(session=client))``")
def zeep(lab: Any) -> Call:
    import zeep

    lab.pages({"/wsdl": [200, XML, WSDL.replace("URL", lab.url)], "POST /soap": [200, XML, ANSWER]})
    transport = zeep.Transport(session=lab.session())
    return lambda number: zeep.Client(f"{lab.url}/wsdl", transport=transport).service.Ask("alf")


@case("pyodata", "services", "``pyodata.Client(url, client)``")
def pyodata(lab: Any) -> Call:
    import pyodata

    lab.pages(
        {
            "/odata/$metadata": [200, {"Content-Type": "application/xml"}, EDMX],
            "/odata/Reports('7')": {"d": {"ID": "7", "Title": "May"}},
        }
    )
    session = lab.session()

    def call(number: int) -> Any:
        service = pyodata.Client(f"{lab.url}/odata", session)
        return service.entity_sets.Reports.get_entity("7").execute().Title

    return call


@case("gql", "services", "``RequestsHTTPTransport(url, auth=client.auth)``")
def gql(lab: Any) -> Call:
    from gql import Client as GraphQL
    from gql import gql as parse
    from gql.transport.requests import RequestsHTTPTransport

    lab.pages({"POST /graphql": {"data": {"name": "alf"}}})
    transport = RequestsHTTPTransport(f"{lab.url}/graphql", auth=lab.auth())
    client = GraphQL(transport=transport)
    return lambda number: client.execute(parse("{ name }"))


@case("uplink", "services", "``Consumer(base_url=url, client=client)``")
def uplink(lab: Any) -> Call:
    import uplink

    lab.pages({"/reports/7": {"title": "May"}})

    class Reports(uplink.Consumer):
        @uplink.returns.json
        @uplink.get("reports/{number}")
        def report(self, number: int) -> Any:
            """A report."""

    reports = Reports(base_url=lab.url, client=lab.session())
    return lambda number: reports.report(7)


@case(
    "azure-core", "services", "``PipelineClient(url, transport=RequestsTransport(session=client))``"
)
def azure_core(lab: Any) -> Call:
    from azure.core import PipelineClient
    from azure.core.pipeline.policies import RetryPolicy
    from azure.core.pipeline.transport import RequestsTransport
    from azure.core.rest import HttpRequest

    lab.pages({"/reports": {"title": "May"}})
    transport = RequestsTransport(session=lab.session(), session_owner=False)
    client = PipelineClient(lab.url, policies=[RetryPolicy()], transport=transport)

    def call(number: int) -> Any:
        response = client.send_request(HttpRequest("GET", f"{lab.url}/reports"))
        response.raise_for_status()
        return response.json()

    return call


@case("keystoneauth1", "services", "``keystoneauth1.session.Session(session=client)``")
def keystoneauth(lab: Any) -> Call:
    from keystoneauth1 import adapter, noauth, session

    lab.pages({"/servers": {"servers": ["alf"]}})
    api = adapter.Adapter(
        session.Session(auth=noauth.NoAuth(endpoint=lab.url), session=lab.session()),
        endpoint_override=lab.url,
    )
    return lambda number: api.get("/servers").json()


@case("OWSLib", "services", "``Authentication(auth_delegate=client.auth)``")
def owslib(lab: Any) -> Call:
    from owslib.util import Authentication
    from owslib.wms import WebMapService

    lab.pages({"/wms": [200, XML, CAPABILITIES.replace("URL", lab.url)]})
    auth = Authentication(auth_delegate=lab.auth())

    def call(number: int) -> Any:
        server = WebMapService(f"{lab.url}/wms", version="1.3.0", auth=auth)
        return server.identification.title

    return call


@case("httpie", "services", "an ``AuthPlugin`` whose ``get_auth()`` returns ``client.auth``")
def httpie(lab: Any) -> Call:
    import io

    from httpie.context import Environment
    from httpie.core import main
    from httpie.plugins import AuthPlugin
    from httpie.plugins.registry import plugin_manager

    lab.pages({"/reports": {"title": "May"}})
    auth = lab.auth()

    class Plugin(AuthPlugin):
        name = "alf"
        auth_type = "alf"
        auth_require = False
        auth_parse = False

        def get_auth(self, username: str | None = None, password: str | None = None) -> Any:
            return auth

    plugin_manager[:] = [known for known in plugin_manager if known.name != "alf"]
    plugin_manager.register(Plugin)

    def call(number: int) -> Any:
        with io.BytesIO() as stdout, io.TextIOWrapper(stdout) as out:
            environment = Environment(stdout=out, stderr=out, stdout_isatty=False)
            arguments = ["--ignore-stdin", "--check-status", "-A", "alf", f"{lab.url}/reports"]
            status = main(["http", *arguments], environment)
            out.flush()
            assert status == 0, (status, stdout.getvalue())
            return stdout.getvalue().decode()

    return call
