"""The manifest: what it says of exit codes, and its form.

With JOBSET_CRD=FILE (config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml of kubernetes-sigs/jobset) the whole manifest is
checked against the official schema; without it, its structure alone.
"""

import os
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from launch.command import Command
from launch.supervise import parse
from mri_fm.errors import EXIT_RESUMABLE, EXIT_USER_ERROR
from tests.end_to_end.commands import ROOT

MANIFEST = yaml.safe_load((ROOT / "launch" / "kubernetes.yaml").read_text())
JOB = MANIFEST["spec"]["replicatedJobs"][0]["template"]["spec"]
POD = JOB["template"]["spec"]
(CONTAINER,) = POD["containers"]


def test_exit_codes_mean_what_they_mean_elsewhere():
    rules = JOB["podFailurePolicy"]["rules"]
    by_code = {rule["onExitCodes"]["values"][0]: rule["action"] for rule in rules if "onExitCodes" in rule}
    assert by_code == {EXIT_USER_ERROR: "FailJob", EXIT_RESUMABLE: "Ignore"}
    assert MANIFEST["spec"]["failurePolicy"]["rules"][0] == {
        "name": "mistake",
        "action": "FailJobSet",
        "onJobFailureReasons": ["PodFailurePolicy"],
    }
    assert all(rule["onExitCodes"]["containerName"] == CONTAINER["name"] for rule in rules if "onExitCodes" in rule)
    assert (JOB["backoffLimit"], POD["restartPolicy"]) == (0, "Never")


def test_pods_nodes_and_gpus_agree():
    values = {entry["name"]: entry["value"] for entry in CONTAINER["env"]}
    assert int(values["NODES"]) == JOB["completions"] == JOB["parallelism"]
    assert int(values["GPUS"]) == CONTAINER["resources"]["limits"]["nvidia.com/gpu"]
    name, job = MANIFEST["metadata"]["name"], MANIFEST["spec"]["replicatedJobs"][0]["name"]
    assert values["MASTER"] == f"{name}-{job}-0-0.{name}"
    assert {mount["name"] for mount in CONTAINER["volumeMounts"]} == {volume["name"] for volume in POD["volumes"]}
    assert POD["terminationGracePeriodSeconds"] > parse([]).grace_s


def test_the_command_is_one_that_can_be_supervised(tmp_path):
    script = CONTAINER["args"][0].replace("\\\n", " ")
    words = script.split(" -- ")[1].replace('"$JOB_COMPLETION_INDEX"', "3").replace('"$MASTER"', "host").split()
    command = Command.read(words)
    assert command.node == "3"
    assert (command.config.model.name, command.config.train.global_batch % 64) == ("vit_large", 0)
    assert re.search(r"^exec ", script, re.MULTILINE)


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with unknown fields refused, as `kubectl --validate=strict` does."""
    if isinstance(schema, dict):
        schema = {key: closed(value) for key, value in schema.items()}
        if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
    return schema


@pytest.mark.skipif("JOBSET_CRD" not in os.environ, reason="needs the official schema: JOBSET_CRD=FILE")
def test_the_manifest_follows_the_official_schema():
    definition = yaml.safe_load(Path(os.environ["JOBSET_CRD"]).read_text())
    version = MANIFEST["apiVersion"].split("/")[1]
    (found,) = [entry for entry in definition["spec"]["versions"] if entry["name"] == version]
    schema = closed(found["schema"]["openAPIV3Schema"])
    jsonschema.validate(MANIFEST, schema)
    wrong = {**MANIFEST, "spec": {**MANIFEST["spec"], "failurePolicies": {}}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema)
