"""What every file of serving/deploy must fit: published validators where there are any, else the keys in use and no others."""

import json
import re
import subprocess
import sysconfig
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import kubernetes_validate
import promql_parser
import yaml
from google.protobuf import text_format
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, HttpUrl
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from serving.server.config import message

Duration = Annotated[str, Field(pattern=r"^(\d+h)?(\d+m)?(\d+s)?$", min_length=2)]
PLACEHOLDERS = {  # what Grafana and prometheus-adapter put in before Prometheus sees the query
    "$__rate_interval": "1m",
    "<<.Series>>": "series",
    "<<.LabelMatchers>>": 'pod="a"',
    "<<.GroupBy>>": "pod",
}
QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(m|[kMGTPE]|[KMGTPE]i)?")
UNITS = {
    None: Decimal(1),
    "m": Decimal("0.001"),
    **{name: Decimal(1000) ** power for power, name in enumerate("kMGTPE", 1)},
    **{f"{name}i": Decimal(1024) ** power for power, name in enumerate("KMGTPE", 1)},
}
PORTS = {"port", "targetPort", "containerPort", "hostPort", "nodePort"}


def promql(text: str) -> str:
    """The query itself, if Prometheus's own grammar, functions and types allow it."""
    query = text
    for name, value in PLACEHOLDERS.items():
        query = query.replace(name, value)
    promql_parser.parse(query)
    return text


def port(text: str | int) -> str | int:
    """The port itself, or an address that ends in one; a name of a port passes."""
    number = str(text).rpartition(":")[2]
    if number.isdecimal() and not 1 <= int(number) <= 65_535:
        raise ValueError(f"{text} has no port from 1 to 65535")
    return text


def amount(quantity: str | int) -> Decimal:
    """kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity, without exponents"""
    found = QUANTITY.fullmatch(str(quantity))
    if found is None:
        raise ValueError(f"{quantity!r} is no quantity such as 500m, 2 or 4Gi")
    return Decimal(found[1]) * UNITS[found[2]]


PromQL = Annotated[str, AfterValidator(promql)]
Address = Annotated[str, Field(pattern=r"^[\w.-]+:\d+$"), AfterValidator(port)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Global(Strict):
    scrape_interval: Duration


class Targets(Strict):
    targets: list[Address]


class Job(Strict):
    job_name: str
    metrics_path: str
    static_configs: list[Targets]


class Prometheus(Strict):
    """prometheus.io/docs/prometheus/latest/configuration/configuration"""

    everywhere: Global = Field(alias="global")
    scrape_configs: list[Job]


class Resource(Strict):
    resource: str


class Overrides(Strict):
    overrides: dict[str, Resource]


class MetricName(Strict):
    matches: str
    replaced: str = Field(alias="as")


class Rule(Strict):
    seriesQuery: PromQL
    resources: Overrides
    name: MetricName
    metricsQuery: PromQL


class Rules(Strict):
    custom: list[Rule]


class Adapter(Strict):
    """github.com/kubernetes-sigs/prometheus-adapter, docs/config.md"""

    rules: Rules


class Source(Strict):
    name: str
    uid: str
    type: Literal["prometheus"]
    url: HttpUrl
    isDefault: bool


class Sources(Strict):
    """grafana.com/docs/grafana/latest/administration/provisioning"""

    apiVersion: Literal[1]
    datasources: list[Source]


class Folder(Strict):
    path: str


class Provider(Strict):
    name: str
    options: Folder


class Providers(Strict):
    """grafana.com/docs/grafana/latest/administration/provisioning"""

    apiVersion: Literal[1]
    providers: list[Provider]


class Place(Strict):
    h: int = Field(gt=0)
    w: int = Field(gt=0, le=24)
    x: int = Field(ge=0, lt=24)
    y: int = Field(ge=0)


class SourceName(Strict):
    type: Literal["prometheus"]
    uid: str


class Unit(Strict):
    unit: Literal["reqps", "percentunit", "µs", "short"]


class Fields(Strict):
    defaults: Unit
    overrides: list[str] = Field(max_length=0)


class Query(Strict):
    refId: str
    expr: PromQL
    legendFormat: str


class Panel(Strict):
    id: int
    title: str
    type: Literal["timeseries"]
    gridPos: Place
    datasource: SourceName
    fieldConfig: Fields
    targets: list[Query] = Field(min_length=1)


class Span(Strict):
    start: str = Field(alias="from", pattern=r"^now-\d+[mhd]$")
    end: Literal["now"] = Field(alias="to")


class Dashboard(Strict):
    """grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model"""

    uid: str
    title: str
    schemaVersion: int
    tags: list[str]
    time: Span
    refresh: Duration
    panels: list[Panel]


def _tool(name: str, *arguments: str, text: str) -> None:
    command = [Path(sysconfig.get_path("scripts"), name), *arguments, "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(done.stdout + done.stderr)


def _compose(text: str) -> None:
    flags = ("--builtin-schema=vendor.compose-spec", "--force-filetype=yaml")
    _tool("check-jsonschema", *flags, text=text)
    for service in yaml.safe_load(text)["services"].values():
        for address in service.get("ports", []):
            for number in address.split(":")[1:]:
                port(number)


def _kubernetes(text: str) -> None:
    for manifest in yaml.safe_load_all(text):
        kubernetes_validate.validate(manifest, "1.31", strict=True)
        for node in _objects(manifest):
            _kubernetes_values(node)


def _objects(node: Any) -> Iterator[dict[str, Any]]:
    """Every object of a manifest."""
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _objects(child)


def _kubernetes_values(node: dict[str, Any]) -> None:
    """What the API server checks beyond the schema: ports, quantities, and bounds in their order."""
    for name in PORTS & set(node):
        if not isinstance(node[name], dict):
            port(node[name])
    if "averageValue" in node:
        amount(node["averageValue"])
    requests, limits = (
        {name: amount(value) for name, value in node.get(key, {}).items()} for key in ("requests", "limits")
    )
    for name in requests.keys() & limits:
        if requests[name] > limits[name]:
            raise ValueError(f"requests.{name} is above limits.{name}")
    if node.get("minReplicas", 1) > node.get("maxReplicas", node.get("minReplicas", 1)):
        raise ValueError("minReplicas is above maxReplicas")


CHECKS = {  # each raises where the text of the file does not fit
    "Dockerfile": lambda text: _tool("hadolint", text=text),
    "docker-compose.yml": _compose,
    "kubernetes/autoscaling.yaml": _kubernetes,
    "kubernetes/bundle.yaml": _kubernetes,
    "kubernetes/serving.yaml": _kubernetes,
    "config/batching.config": lambda text: text_format.Parse(text, message("BatchingParameters")),
    "config/models.config": lambda text: text_format.Parse(text, ModelServerConfig()),
    "config/monitoring.config": lambda text: text_format.Parse(text, message("MonitoringConfig")),
    "monitoring/dashboard.json": lambda text: Dashboard.model_validate(json.loads(text)),
    "monitoring/dashboards.yml": lambda text: Providers.model_validate(yaml.safe_load(text)),
    "monitoring/grafana.yml": lambda text: Sources.model_validate(yaml.safe_load(text)),
    "monitoring/prometheus-adapter.yaml": lambda text: Adapter.model_validate(yaml.safe_load(text)),
    "monitoring/prometheus.yml": lambda text: Prometheus.model_validate(yaml.safe_load(text)),
}
