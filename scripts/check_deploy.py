#!/usr/bin/env python3
"""Checks what no ready-made linter knows about deploy/: prints every fault, exits 1 if there is one.

- Alerts: the unit tests show each one both firing and silent.
- Shutdown: whoever may kill a Tide program waits longer than its own shutdown timeout.
- Kubernetes: selectors, port names and secret keys lead somewhere, and pods meet the restricted
  standard that their namespace enforces.
"""

import re
import sys
from pathlib import Path

import yaml

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
DEFAULT_SHUTDOWN_TIMEOUT = 30
# What a program may need to exit after it gave up waiting.
MARGIN = 5


def main():
    manifests = [
        document
        for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
    ]
    faults = [
        *alert_faults(),
        *systemd_faults(),
        *compose_faults(),
        *grace_period_faults(manifests),
        *wiring_faults(manifests),
        *restriction_faults(manifests),
    ]
    for fault in faults:
        print(fault, file=sys.stderr)
    sys.exit(1 if faults else 0)


def alert_faults():
    rules = yaml.safe_load((DEPLOY / "prometheus/alerts.yaml").read_text())
    tests = yaml.safe_load((DEPLOY / "prometheus/alerts_test.yaml").read_text())
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    cases = [case for test in tests["tests"] for case in test["alert_rule_test"]]
    firing = {case["alertname"] for case in cases if case["exp_alerts"]}
    silent = {case["alertname"] for case in cases if not case["exp_alerts"]}
    for name in sorted(alerts - firing):
        yield f"prometheus: no test shows {name} firing"
    for name in sorted(alerts - silent):
        yield f"prometheus: no test shows {name} silent"
    # promtool finds an unknown alert silent, so a misspelt test would pass.
    for name in sorted((firing | silent) - alerts):
        yield f"prometheus: a test names {name}, which is no alert"


def systemd_faults():
    for path in sorted((DEPLOY / "systemd").glob("*.service")):
        settings = path.read_text()
        timeouts = re.findall(r"^Environment=TIDE_SHUTDOWN_TIMEOUT=(\d+)$", settings, re.M)
        environment = re.search(r"^EnvironmentFile=/etc/tide/(.+)$", settings, re.M)
        if environment:
            example = (path.parent / environment[1]).read_text()
            timeouts += re.findall(r"^TIDE_SHUTDOWN_TIMEOUT=(\d+)$", example, re.M)
        stop = re.search(r"^TimeoutStopSec=(\d+)$", settings, re.M)
        yield from patience_fault(f"systemd: {path.stem}", stop and stop[1], timeouts)


def compose_faults():
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    for name, service in services.items():
        environment = service.get("environment", {})
        if "TIDE_METRICS_ADDR" not in environment:
            continue  # no daemon of ours
        grace = re.fullmatch(r"(\d+)s", service.get("stop_grace_period", "10s"))
        timeouts = [environment.get("TIDE_SHUTDOWN_TIMEOUT")]
        yield from patience_fault(f"compose: {name}", grace and grace[1], timeouts)


def grace_period_faults(manifests):
    for name, template in pod_templates(manifests, "Deployment"):
        pod = template["spec"]
        timeouts = [
            variable.get("value")
            for container in pod["containers"]
            for variable in container["env"]
            if variable["name"] == "TIDE_SHUTDOWN_TIMEOUT"
        ]
        grace = pod.get("terminationGracePeriodSeconds", 30)
        yield from patience_fault(f"kubernetes: {name}", grace, timeouts)


def patience_fault(who, patience, timeouts):
    longest = max((int(value) for value in timeouts if value), default=DEFAULT_SHUTDOWN_TIMEOUT)
    if patience is None or int(patience) < longest + MARGIN:
        yield (
            f"{who} may take {longest} s to shut down, "
            f"but is killed after {patience or 'an unknown time'}"
        )


def pod_templates(manifests, *kinds):
    for manifest in manifests:
        if manifest["kind"] in kinds:
            yield manifest["metadata"]["name"], manifest["spec"]["template"]


def wiring_faults(manifests):
    pods = [template for _, template in pod_templates(manifests, "Deployment", "Job")]
    for manifest in manifests:
        kind, spec = manifest["kind"], manifest.get("spec", {})
        who = f"kubernetes: {kind} {manifest['metadata']['name']}"
        if kind == "Service":
            labels, ports = spec["selector"], [port["targetPort"] for port in spec["ports"]]
        elif kind in ("Deployment", "PodDisruptionBudget"):
            labels, ports = spec["selector"]["matchLabels"], []
        elif kind == "NetworkPolicy":
            labels = spec["podSelector"].get("matchLabels", {})
            rules = spec.get("ingress", [])
            ports = [port["port"] for rule in rules for port in rule["ports"]]
        else:
            continue
        selected = [pod for pod in pods if labels.items() <= pod["metadata"]["labels"].items()]
        if not selected:
            yield f"{who} selects no pod"
        offered = {
            port["name"]
            for pod in selected
            for container in pod["spec"]["containers"]
            for port in container.get("ports", [])
        }
        for port in ports:
            if port not in offered:
                yield f"{who} names the port {port}, which its pods do not have"

    for name, template in pod_templates(manifests, "Deployment", "Job"):
        for container in template["spec"]["containers"]:
            offered = {port["name"] for port in container.get("ports", [])}
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                if probe in container and container[probe]["httpGet"]["port"] not in offered:
                    yield f"kubernetes: the {probe} of {name} asks a port it does not have"

    example = yaml.safe_load((DEPLOY / "kubernetes/examples/secret.yaml").read_text())
    for name, template in pod_templates(manifests, "Deployment", "Job"):
        for container in template["spec"]["containers"]:
            for variable in container["env"]:
                wanted = variable.get("valueFrom", {}).get("secretKeyRef")
                if wanted and (
                    wanted["name"] != example["metadata"]["name"]
                    or wanted["key"] not in example["stringData"]
                ):
                    yield f"kubernetes: {name} wants {wanted}, which the example does not have"


def restriction_faults(manifests):
    for name, template in pod_templates(manifests, "Deployment", "Job"):
        pod = template["spec"]
        context = pod.get("securityContext", {})
        if context.get("runAsNonRoot") is not True:
            yield f"kubernetes: {name} may run as root"
        if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"kubernetes: {name} has no seccomp profile"
        for container in pod["containers"]:
            context = container.get("securityContext", {})
            if context.get("allowPrivilegeEscalation") is not False:
                yield f"kubernetes: {name} may gain privileges"
            if context.get("capabilities", {}).get("drop") != ["ALL"]:
                yield f"kubernetes: {name} keeps capabilities"
            if context.get("readOnlyRootFilesystem") is not True:
                yield f"kubernetes: {name} may write to its own image"


if __name__ == "__main__":
    main()
