"""Workflows of clusters that are not at hand are at least what those clusters accept."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from click.testing import CliRunner
from distributed.cli.dask_scheduler import main as dask_scheduler
from distributed.cli.dask_worker import main as dask_worker

from qmgen.generate import load_config

ROOT = Path(__file__).parents[1]
KUBERNETES = ROOT / "workflows" / "kubernetes"
_RESOURCES = "operator/deployment/helm/dask-kubernetes-operator/crds"


def manifests() -> list[dict[str, Any]]:
    return [
        manifest
        for name in ("cluster.yaml", "job.yaml")
        for manifest in yaml.safe_load_all((KUBERNETES / name).read_text(encoding="utf-8"))
    ]


def of_kind(kind: str) -> dict[str, Any]:
    (found,) = (manifest for manifest in manifests() if manifest["kind"] == kind)
    return found


def test_the_run_has_work_for_all_workers_of_the_autoscaler() -> None:
    run = load_config(KUBERNETES / "run.yaml").cluster
    cluster, autoscaler = of_kind("DaskCluster"), of_kind("DaskAutoscaler")
    name = cluster["metadata"]["name"]
    ports = cluster["spec"]["scheduler"]["service"]["ports"]
    (port,) = (p["port"] for p in ports if p["name"] == "tcp-comm")
    # The operator names the service after the cluster.
    assert run.scheduler == f"tcp://{name}-scheduler:{port}"
    assert run.workers == autoscaler["spec"]["maximum"]
    assert autoscaler["spec"]["cluster"] == name


@pytest.mark.parametrize(
    ("part", "command"), [("worker", dask_worker), ("scheduler", dask_scheduler)]
)
def test_dask_knows_the_options(part: str, command: Any) -> None:
    (container,) = of_kind("DaskCluster")["spec"][part]["spec"]["containers"]
    options = container["args"][2:]
    assert container["args"][:2] == ["dask", part]
    result = CliRunner().invoke(command, [*options, "--help"])
    assert result.exit_code == 0, result.output
    known = {name for parameter in command.params for name in parameter.opts}
    assert {option for option in options if option.startswith("--")} <= known


@pytest.mark.parametrize("kind", ["DaskCluster", "DaskAutoscaler"])
def test_the_operator_accepts_the_resources(kind: str) -> None:
    spec = find_spec("dask_kubernetes")
    if spec is None or spec.origin is None:
        pytest.skip("dask-kubernetes, which has the schemas, is not installed")
    path = Path(spec.origin).parent / _RESOURCES / f"{kind.lower()}.yaml"
    definition = yaml.safe_load(path.read_text(encoding="utf-8"))
    manifest = of_kind(kind)
    (version,) = definition["spec"]["versions"]
    assert manifest["apiVersion"] == f"{definition['spec']['group']}/{version['name']}"
    jsonschema.validate(manifest, strict(version["schema"]["openAPIV3Schema"]))


def strict(schema: Any) -> Any:
    """The same schema where nothing may be in an object that it does not name."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema:
        names = schema["properties"]
        top = {"apiVersion": {}, "kind": {}, "metadata": {}} if "spec" in names else {}
        result["properties"] = {**top, **result["properties"]}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            result["additionalProperties"] = False
    return result
