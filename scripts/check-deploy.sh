#!/usr/bin/env bash
# Checks deploy/ and the shell scripts, as far as that goes without a container engine or a cluster.
# Runs every check even if one fails, and fails if any did. `scripts/setup.sh test` brings the tools.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

tools=$PWD/.tools/venv/bin
# The oldest and the newest Kubernetes whose schemas the manifests must meet.
kubernetes_versions=(1.29 1.37)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failed=()

# check NAME COMMAND...: shows the output only of what fails.
check() {
    local name=$1
    shift
    if "$@" >"$scratch/output" 2>&1; then
        printf 'ok      %s\n' "$name"
    else
        printf 'FAILED  %s\n' "$name"
        cat "$scratch/output"
        failed+=("$name")
    fi
}

kubernetes() {
    local version
    for version in "${kubernetes_versions[@]}"; do
        "$tools/kubernetes-validate" --strict --quiet --kubernetes-version "$version" \
            deploy/kubernetes/*.yaml deploy/kubernetes/examples/*.yaml || return
    done
}

# The commands named by the units are not installed here, and verify insists on them. It complains
# on stderr and exits with 0, even for a setting it does not know.
systemd_units() {
    local unit copy complaints status=0
    for unit in deploy/systemd/*.service; do
        copy=$scratch/${unit##*/}
        sed -E 's#^ExecStart=[^ ]+#ExecStart=/bin/true#' "$unit" >"$copy"
        complaints=$(systemd-analyze verify "$copy" 2>&1) || status=1
        if [[ -n $complaints ]]; then
            printf '%s\n' "$complaints"
            status=1
        fi
    done
    return "$status"
}

# 15 is an exposure of 1.5 out of 10; Internet sockets alone, which Tide is about, are 0.8.
systemd_exposure() {
    local unit
    for unit in deploy/systemd/*.service; do
        systemd-analyze security --no-pager --offline=true --threshold=15 "$unit" || return
    done
}

dashboard() {
    "$tools/python" scripts/check_dashboard.py "$scratch/dashboard.yaml" &&
        promtool check rules "$scratch/dashboard.yaml"
}

check 'shell scripts (shellcheck)' shellcheck scripts/*.sh .ci/run
check 'YAML (yamllint)' "$tools/yamllint" --strict -c .config/yamllint.yaml buf.yaml .config deploy
check 'Dockerfile (hadolint)' "$tools/hadolint" --no-color deploy/Dockerfile
check 'compose file (check-jsonschema)' \
    "$tools/check-jsonschema" --builtin-schema vendor.compose-spec deploy/compose.yaml
check "Kubernetes ${kubernetes_versions[*]} (kubernetes-validate)" kubernetes
check 'systemd units (systemd-analyze verify)' systemd_units
check 'systemd exposure (systemd-analyze security)' systemd_exposure
check 'Prometheus configuration and rules (promtool)' \
    promtool check config deploy/prometheus/prometheus.yaml
check 'alerts fire and stay silent (promtool)' \
    promtool test rules deploy/prometheus/alerts_test.yaml
check 'Grafana dashboard and its queries (promtool)' dashboard
check 'alerts tested, shutdown times, Kubernetes wiring' "$tools/python" scripts/check_deploy.py
check 'metrics and settings exist' scripts/check-names.sh

if ((${#failed[@]} > 0)); then
    printf '%d of the deployment checks failed\n' "${#failed[@]}" >&2
    exit 1
fi
