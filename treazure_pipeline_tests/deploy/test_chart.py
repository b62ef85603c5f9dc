"""The chart, rendered by Helm's own engine and checked against Kubernetes' own schemas."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from treazure_pipeline.cli import COMMANDS
from treazure_pipeline_tests.deploy.shipped import DEPLOY, PLAIN, SECRETS, SETTINGS, WITHOUT_TOOLS

helm = pytest.importorskip("helm_python", reason=WITHOUT_TOOLS)
kubernetes = pytest.importorskip("kubernetes_validate", reason=WITHOUT_TOOLS)

CHART = DEPLOY / "helm" / "treazure-pipeline"
ALL: dict[str, Any] = {
    "image": {"digest": "sha256:" + "0" * 64, "pullSecrets": [{"name": "registry"}]},
    "settings": {"TREAZURE_BASE_URL": "https://retailer.example", "ENGAGE_BATCH_SIZE": 500},
    "programmes": "- name: points\n  loyalty_id: points\n",
    "secrets": {"externalSecret": {"enabled": True, "store": "vault", "remoteKey": "treazure"}},
    "receiver": {"replicas": 3, "ingress": {"enabled": True, "host": "hooks.example", "tlsSecret": "hooks"}},
    "worker": {"replicas": 2},
    "console": {"enabled": True, "replicas": 2},
    "networkPolicy": {
        "receiverFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}],
        "databaseTo": [{"ipBlock": {"cidr": "10.0.0.0/8"}}],
        "receiverReachesOut": True,
    },
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "apps", "operator": "Exists"}],
    "podAnnotations": {"prometheus.io/scrape": "true"},
}
VALUES = pytest.mark.parametrize("values", [{}, ALL], ids=["defaults", "everything"])


def rendered(values: dict[str, Any]) -> list[dict[str, Any]]:
    with helm.Chart.load(CHART) as chart:
        files = chart.render(values, name="shop", namespace="loyalty")
    texts = [text for name, text in files.items() if name.endswith(".yaml")]
    return [document for text in texts for document in yaml.safe_load_all(text) if document]


def pods(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The pod of each role."""
    templates = [
        document["spec"]["template"] for document in rendered(values) if document["kind"] in {"Deployment", "Job"}
    ]
    return {pod["metadata"]["labels"]["app.kubernetes.io/component"]: pod["spec"] for pod in templates}


@VALUES
@pytest.mark.parametrize("version", ["1.27", "1.31", "1.37"])
def test_every_object_is_one_that_kubernetes_takes(values: dict[str, Any], version: str) -> None:
    objects = rendered(values)
    assert {"Deployment", "Service", "Job", "NetworkPolicy", "PodDisruptionBudget"} <= {one["kind"] for one in objects}
    for one in objects:
        if one["kind"] != "ExternalSecret":  # the operator's own kind
            kubernetes.validate(one, version, strict=True)


@VALUES
def test_the_linter_finds_nothing(values: dict[str, Any]) -> None:
    found = helm.lint(CHART, values, strict=True)
    assert [message for message in found["messages"] if message["severity"] > 1] == []
    assert found["errors"] == []


@VALUES
def test_every_pod_may_do_no_more_than_it_has_to(values: dict[str, Any]) -> None:
    for pod in pods(values).values():
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["securityContext"]["runAsNonRoot"]
        assert not pod["automountServiceAccountToken"]
        [container] = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


@VALUES
def test_every_setting_and_command_is_one_that_there_is_and_secrets_are_files(values: dict[str, Any]) -> None:
    for role, pod in pods(values).items():
        [container] = pod["containers"]
        settings = {one["name"]: one["value"] for one in container["env"]}
        [secrets] = [volume["secret"]["items"] for volume in pod["volumes"] if "secret" in volume]
        files = {f"{item['path']}_FILE": f"/run/secrets/treazure/{item['path']}" for item in secrets}
        assert files.items() <= settings.items()
        known = {*SETTINGS, "OTEL_SERVICE_NAME", "TREAZURE_PIPELINE_PROGRAMMES"}
        assert {name.removesuffix("_FILE") for name in settings} <= known
        assert container["args"][0] in COMMANDS
        assert role in {"receiver", "worker", "console", "upgrade"}


@pytest.mark.parametrize(
    ("role", "secrets"),
    [("receiver", {"ENGAGE_WEBHOOK_SECRET"}), ("console", {"CONSOLE_OIDC_CLIENT_SECRET", "CONSOLE_SECRET"})],
)
def test_receiver_and_console_see_no_credentials_of_the_two_systems(role: str, secrets: set[str]) -> None:
    [container] = pods({"console": {"enabled": True}})[role]["containers"]
    given = {one["name"].removesuffix("_FILE") for one in container["env"] if one["name"].endswith("_FILE")}
    assert given == {"TREAZURE_PIPELINE_DATABASE_URL", *secrets}


@VALUES
def test_the_schema_is_upgraded_before_any_pod_is_replaced_and_what_that_needs_is_there(values: dict[str, Any]) -> None:
    weights = {
        (one["kind"], one["metadata"]["name"]): int(one["metadata"]["annotations"].get("helm.sh/hook-weight", 0))
        for one in rendered(values)
        if one["metadata"].get("annotations", {}).get("helm.sh/hook") == "pre-install,pre-upgrade"
    }
    upgrade = weights.pop(("Job", "shop-upgrade"))
    assert all(weight < upgrade for weight in weights.values())
    needed = {("NetworkPolicy", "shop-upgrade")}
    if values:
        needed |= {("ConfigMap", "shop-programmes"), ("ExternalSecret", "treazure-pipeline")}
    assert weights.keys() == needed


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"settings": {"ENGAGE_API_KEY": "in plain sight"}}, "ENGAGE_API_KEY"),
        ({"settings": {"TREAZURE_PIPELINE_DATABASE_URL": "postgresql://u:p@db/l"}}, "TREAZURE_PIPELINE_DATABASE_URL"),
        ({"settings": {"OTEL_EXPORTER_OTLP_HEADERS": "authorization=plain"}}, "OTEL_EXPORTER_OTLP_HEADERS"),
        ({"settings": {"ENGAGE_BATCH_SISE": 500}}, "ENGAGE_BATCH_SISE"),
        ({"secrets": {"keys": {"worker": {"ENGAGE_KEY": "engage_api_key"}}}}, "ENGAGE_KEY"),
        ({"image": {"tag": "latest"}}, "tag"),
        ({"receiver": {"replicas": 0}}, "replicas"),
        ({"reciever": {}}, "reciever"),
    ],
)
def test_values_that_can_not_be_meant_are_refused_by_name(values: dict[str, Any], named: str) -> None:
    with helm.Chart.load(CHART) as chart, pytest.raises(helm.HelmValuesError, match=named):
        chart.validate_schema(values)


def test_every_setting_may_be_given_and_every_secret_only_as_a_file() -> None:
    others = {"HTTPS_PROXY": "http://proxy.example:3128", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}
    files = dict.fromkeys(SECRETS, "key")
    with helm.Chart.load(CHART) as chart:
        chart.validate_schema({"settings": dict.fromkeys(PLAIN, "1") | others, "secrets": {"keys": {"worker": files}}})
        for secret in SECRETS:
            with pytest.raises(helm.HelmValuesError, match=secret):
                chart.validate_schema({"settings": {secret: "in plain sight"}})


def test_only_the_receivers_are_reached_and_metrics_not_from_outside() -> None:
    policies = {one["metadata"]["name"]: one["spec"] for one in rendered({}) if one["kind"] == "NetworkPolicy"}
    assert [name for name, policy in policies.items() if policy["ingress"]] == ["shop-receiver"]
    [ingress] = [one["spec"] for one in rendered(ALL) if one["kind"] == "Ingress"]
    assert [path["path"] for path in ingress["rules"][0]["http"]["paths"]] == ["/webhooks/engage"]
