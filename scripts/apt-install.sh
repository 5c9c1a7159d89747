#!/usr/bin/env bash
# Installs Debian packages without starting the services inside them, now or at the next boot:
# Tide's tests run their own servers on their own ports. Run as root; the arguments are packages.
set -euo pipefail

policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
    # Maintainer scripts ask this program before they start a service; 101 forbids it.
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# Some hundred lines of unpacking tell nobody anything, unless it fails.
log=$(mktemp)
if ! apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=120 "$@" >"$log" 2>&1
then
    cat "$log" >&2
    exit 1
fi
rm -f "$log"

if command -v systemctl >/dev/null; then
    for package in "$@"; do
        case $package in
        postgresql | pgbouncer | prometheus | nats-server | redis-server)
            systemctl disable --quiet "$package"
            ;;
        # The name service of Erlang comes with it.
        rabbitmq-server) systemctl disable --quiet rabbitmq-server epmd.service epmd.socket ;;
        esac
    done
fi
