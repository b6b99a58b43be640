"""serving/deploy: every file is read by what reads it in earnest, or by its schema, since no container engine runs here."""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from deploy_schemas import CHECKS
from google.protobuf import text_format

from serving.server.config import PROMETHEUS_PATH, message, read_batching, read_models, read_monitoring
from serving.server.options import OWN, UNSUPPORTED, ServerOptions, described

DEPLOY = Path(__file__).parents[2] / "serving" / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "docker-compose.yml").read_text())["services"]
MANIFESTS = [
    document
    for file in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    for document in yaml.safe_load_all(file.read_text())
]
CONFIG_MAP = next(one for one in MANIFESTS if one["kind"] == "ConfigMap")["data"]
DEPLOYMENT = next(one for one in MANIFESTS if one["kind"] == "Deployment")
CONTAINER = DEPLOYMENT["spec"]["template"]["spec"]["containers"][0]
STOCK_FLAGS = {flag.name for flag in fields(ServerOptions) if not described(flag.name)[1]} | set(UNSUPPORTED)


def flags(words):
    return dict(word.removeprefix("--").split("=", 1) for word in words)


def test_every_file_has_a_schema():
    files = {path.relative_to(DEPLOY).as_posix() for path in DEPLOY.rglob("*") if path.is_file()}
    assert files - set(CHECKS) == {"README.md", "Dockerfile.dockerignore"}


@pytest.mark.parametrize("file", CHECKS)
def test_files_fit_their_schemas(file):
    CHECKS[file]((DEPLOY / file).read_text())


@pytest.mark.parametrize(
    ("file", "right", "wrong", "complaint"),
    [
        ("docker-compose.yml", "restart: unless-stopped", "restrat: unless-stopped", "restrat"),
        ("docker-compose.yml", "read_only: true", "read_onyl: true", "read_onyl"),
        ("docker-compose.yml", "tmpfs: [/tmp]", "healthcheck: [nonsense]", "healthcheck"),
        ("docker-compose.yml", "services:", "servces:", "servces"),
        ("Dockerfile", "RUN pip install", "RUNN pip install", "stdin:7:"),
        ("Dockerfile", "HEALTHCHECK --start-period", "HEALTHCHECK --start-perid", "start-perid"),
        ("kubernetes/serving.yaml", "replicas: 2", "replica: 2", "replica"),
        ("kubernetes/autoscaling.yaml", "maxReplicas: 10", "maxReplicas: ten", "maxReplicas"),
        ("docker-compose.yml", "127.0.0.1:8511:8501", "127.0.0.1:85110:8501", "85110 has no port"),
        ("kubernetes/serving.yaml", 'cpu: "2"', 'cpu: "two"', "'two' is no quantity"),
        ("kubernetes/serving.yaml", "memory: 2Gi", "memory: 5Gi", "requests.memory is above limits.memory"),
        ("kubernetes/serving.yaml", "containerPort: 8500", "containerPort: 85000", "85000 has no port"),
        ("kubernetes/serving.yaml", "grpc: {port: 8500}", "grpc: {port: 0}", "0 has no port"),
        ("kubernetes/bundle.yaml", "storage: 10Gi", "storage: 10GB", "'10GB' is no quantity"),
        ("kubernetes/autoscaling.yaml", "minReplicas: 2", "minReplicas: 11", "minReplicas is above"),
        ("kubernetes/autoscaling.yaml", '"50000"', '"fifty"', "'fifty' is no quantity"),
        ("config/batching.config", "max_batch_size", "max_batch_sise", "max_batch_sise"),
        ("config/models.config", "version_labels", "version_lables", "version_lables"),
        ("config/monitoring.config", "enable: true", "enable: maybe", "maybe"),
        ("monitoring/prometheus.yml", "scrape_interval: 15s", "scrap_interval: 15s", "scrap_interval"),
        ("monitoring/prometheus.yml", "scrape_interval: 15s", "scrape_interval: fifteen", "scrape_interval"),
        ("monitoring/prometheus.yml", "static_configs", "static_config", "static_config"),
        ("monitoring/prometheus.yml", "serving:8501", "serving:85010", "85010 has no port"),
        ("monitoring/prometheus-adapter.yaml", "[2m]", "[2x]", "metricsQuery"),
        ("monitoring/prometheus-adapter.yaml", '{__name__=":', "{__name__=:", "seriesQuery"),
        ("monitoring/prometheus-adapter.yaml", "metricsQuery", "metricQuery", "metricQuery"),
        ("monitoring/grafana.yml", "isDefault", "isDefalt", "isDefalt"),
        ("monitoring/dashboards.yml", "options:", "option:", "option"),
        ("monitoring/dashboard.json", '"gridPos"', '"gridPoss"', "gridPoss"),
        ("monitoring/dashboard.json", '"expr"', '"exprr"', "exprr"),
        ("monitoring/dashboard.json", "histogram_quantile", "histogram_quantil", "unknown function"),
        ("monitoring/dashboard.json", "sum by (le) (rate(", "sum by (le) ((rate(", "unclosed"),
        ("monitoring/dashboard.json", "[$__rate_interval]", "", "expected type matrix"),
        ("monitoring/dashboard.json", '"h": 8', '"h": "8"', "gridPos.h"),
    ],
)
def test_misspellings_do_not_fit(file, right, wrong, complaint):
    text = (DEPLOY / file).read_text()
    assert right in text
    with pytest.raises(Exception, match=complaint):
        CHECKS[file](text.replace(right, wrong))


@pytest.mark.parametrize("service", sorted(COMPOSE))
def test_compose_services_are_closed_to_the_outside(service):
    described_as = COMPOSE[service]
    assert all(port.startswith("127.0.0.1:") for port in described_as["ports"])
    for volume in described_as["volumes"]:
        assert volume.endswith(":ro")
        source = volume.split(":")[0]
        assert source.startswith("${BUNDLE") or (DEPLOY / source).exists(), volume
    assert "build" in described_as or re.fullmatch(r"[\w/-]+:v?\d+\.\d+\.\d+", described_as["image"]), (
        "a pinned image"
    )


@pytest.mark.parametrize(
    "words", [COMPOSE["serving"]["command"], CONTAINER["args"]], ids=["compose", "kubernetes"]
)
def test_the_stock_server_gets_flags_that_it_has(words):
    given = flags(words)
    assert set(given) <= STOCK_FLAGS
    assert {Path(given[name]).name for name in given if name.endswith("_file")} == set(CONFIG_MAP)


@pytest.mark.parametrize(
    "words", [COMPOSE["serving"]["command"], CONTAINER["args"]], ids=["compose", "kubernetes"]
)
def test_requests_of_different_widths_do_not_meet(words):
    """The real server fails a batch whose lists differ in width, and ours are of any width."""
    assert not {"enable_batching", "batching_parameters_file"} & set(flags(words))


def test_the_embedded_server_moves_to_the_stock_one_unchanged():
    own = {flag.name for flag in fields(ServerOptions) if described(flag.name)[1]}
    embedded = flags(COMPOSE["embedded"]["command"])
    assert {name: value for name, value in embedded.items() if name not in own} == flags(
        COMPOSE["serving"]["command"]
    )
    assert OWN is not None


def test_the_config_files_say_what_the_server_reads():
    options = ServerOptions(
        model_config_file=DEPLOY / "config" / "models.config",
        enable_batching=True,
        batching_parameters_file=DEPLOY / "config" / "batching.config",
        monitoring_config_file=DEPLOY / "config" / "monitoring.config",
    )
    (model,) = read_models(options)
    assert (model.name, str(model.base_path)) == ("recommender", "/bundle/models/recommender")
    assert dict(model.labels) == {"stable": 1, "canary": 2}
    batching = read_batching(options)
    assert batching is not None
    assert (batching.max_batch_size, batching.batch_timeout_micros) == (256, 0)
    assert read_monitoring(options) == PROMETHEUS_PATH


def test_the_config_map_holds_the_same_files():
    from tensorflow_serving.config import model_server_config_pb2

    kinds = {
        "models.config": model_server_config_pb2.ModelServerConfig,
        "monitoring.config": lambda: message("MonitoringConfig"),
    }
    for name, empty in kinds.items():
        here = text_format.Parse(CONFIG_MAP[name], empty())
        there = text_format.Parse((DEPLOY / "config" / name).read_text(), empty())
        assert text_format.MessageToString(here) == text_format.MessageToString(there)


def test_kubernetes_probes_need_nothing_in_the_image():
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert {"httpGet", "grpc"} & set(CONTAINER[probe])
        assert "exec" not in CONTAINER[probe]


def test_kubernetes_parts_find_each_other():
    names = {(one["kind"], one["metadata"]["name"]) for one in MANIFESTS}
    pod = DEPLOYMENT["spec"]["template"]
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    assert ("PersistentVolumeClaim", volumes["bundle"]["persistentVolumeClaim"]["claimName"]) in names
    assert ("ConfigMap", volumes["config"]["configMap"]["name"]) in names
    loader = next(one for one in MANIFESTS if one["kind"] == "Pod")
    assert loader["spec"]["volumes"] == [
        {"name": "bundle", "persistentVolumeClaim": {"claimName": "recommender-bundle"}}
    ]
    assert loader["metadata"]["name"] in (DEPLOY / "README.md").read_text()
    assert {mount["name"] for mount in CONTAINER["volumeMounts"]} == set(volumes)
    listening = {flags(CONTAINER["args"])[name] for name in ("port", "rest_api_port")}
    assert {str(port["containerPort"]) for port in CONTAINER["ports"]} == listening
    assert CONTAINER["livenessProbe"]["grpc"]["port"] == CONTAINER["ports"][0]["containerPort"]
    for service in (one for one in MANIFESTS if one["kind"] == "Service"):
        assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
        ports = {port["name"] for port in CONTAINER["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    scaler = next(one for one in MANIFESTS if one["kind"] == "HorizontalPodAutoscaler")["spec"]
    assert ("Deployment", scaler["scaleTargetRef"]["name"]) in names
    adapter = yaml.safe_load((DEPLOY / "monitoring" / "prometheus-adapter.yaml").read_text())["rules"][
        "custom"
    ]
    assert [rule["name"]["as"] for rule in adapter] == [scaler["metrics"][0]["pods"]["metric"]["name"]]


def test_prometheus_scrapes_the_server():
    (job,) = yaml.safe_load((DEPLOY / "monitoring" / "prometheus.yml").read_text())["scrape_configs"]
    assert job["metrics_path"] == PROMETHEUS_PATH
    ports = {name: flags(COMPOSE[name]["command"])["rest_api_port"] for name in ("serving", "embedded")}
    (targets,) = job["static_configs"]
    assert targets == {"targets": [f"{name}:{port}" for name, port in ports.items()]}
    assert CONTAINER["ports"][1]["containerPort"] == int(
        DEPLOYMENT["spec"]["template"]["metadata"]["annotations"]["prometheus.io/port"]
    )


def test_the_dashboard_draws_what_the_server_counts():
    board = json.loads((DEPLOY / "monitoring" / "dashboard.json").read_text())
    source = "".join(path.read_text() for path in (DEPLOY.parent / "server").glob("*.py"))
    for panel in board["panels"]:
        for target in panel["targets"]:
            names = re.findall(r":tensorflow:([\w:]+)", target["expr"])
            assert names
            for name in names:
                assert f'"{re.sub("_(bucket|sum|count)$", "", name)}"' in source or f'"{name}"' in source, (
                    name
                )
    provider = yaml.safe_load((DEPLOY / "monitoring" / "dashboards.yml").read_text())["providers"][0]
    assert any(provider["options"]["path"] in volume for volume in COMPOSE["grafana"]["volumes"])
    datasource = yaml.safe_load((DEPLOY / "monitoring" / "grafana.yml").read_text())["datasources"][0]
    assert {panel["datasource"]["uid"] for panel in board["panels"]} == {datasource["uid"]}


def test_the_image_runs_as_nobody_and_has_what_it_copies():
    lines = [line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    user = next(line.split()[1] for line in lines if line.startswith("USER"))
    assert user.isdecimal()
    assert int(user) > 0
    for line in lines:
        if line.startswith("COPY"):
            for source in line.split()[1:-1]:
                assert (DEPLOY.parents[1] / source).exists(), source
    assert 'ENTRYPOINT ["python", "-m", "serving", "serve"]' in lines
