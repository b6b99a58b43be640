"""What every file of serving/deploy must fit: published validators where there are any, else the keys in use and no others."""

import json
import subprocess
import sysconfig
from pathlib import Path
from typing import Annotated, Literal

import kubernetes_validate
import yaml
from google.protobuf import text_format
from pydantic import BaseModel, ConfigDict, Field, HttpUrl
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from serving.server.config import message

Duration = Annotated[str, Field(pattern=r"^(\d+h)?(\d+m)?(\d+s)?$", min_length=2)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Global(Strict):
    scrape_interval: Duration


class Targets(Strict):
    targets: list[str]


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
    seriesQuery: str
    resources: Overrides
    name: MetricName
    metricsQuery: str


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
    expr: str
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


def _kubernetes(text: str) -> None:
    for manifest in yaml.safe_load_all(text):
        kubernetes_validate.validate(manifest, "1.31", strict=True)


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
