#!/usr/bin/env bash
# Every metric that deploy/ asks for, and every setting that it makes, exists in the programs.
# A misspelt metric would be an alert that never fires, a misspelt setting a default nobody chose.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

metric_sources=(relay-agent/src/metrics.rs control-plane/src/metrics.rs)
setting_sources=(relay-agent/src control-plane/src daemon/src cli/src)
faults=0

fault() {
    printf '%s\n' "$*" >&2
    faults=$((faults + 1))
}

metrics=$(grep -hoE '"(pg_tide|tide_control_plane)_[a-z0-9_]+"' "${metric_sources[@]}" |
    tr -d '"' | sort -u) || fault "no metric is defined in ${metric_sources[*]}"

while read -r name; do
    # A histogram is asked for by the names of its parts.
    base=$(sed -E 's/_(bucket|sum|count)$//' <<<"$name")
    if ! grep -qxF -e "$name" -e "$base" <<<"$metrics"; then
        fault "unknown metric $name in: $(grep -rlwF "$name" deploy | tr '\n' ' ')"
    fi
done < <(grep -rhoE '\b(pg_tide|tide_control_plane)_[a-z0-9_]+' \
    deploy/prometheus deploy/grafana | sort -u)

while read -r name; do
    if ! grep -rqF "\"$name\"" "${setting_sources[@]}"; then
        fault "unknown setting $name in: $(grep -rlwF "$name" deploy | tr '\n' ' ')"
    fi
done < <(grep -rhoE '\bTIDE_[A-Z_]+\b' \
    deploy/compose.yaml deploy/systemd deploy/kubernetes/*.yaml | sort -u)

exit $((faults > 0))
