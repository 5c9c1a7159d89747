#!/usr/bin/env bash
# Bans, licences and sources of all dependencies, by the rules in deny.toml, without the network.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! cargo deny --version >/dev/null 2>&1; then
    echo 'skipped: cargo-deny is not installed, and set-up does not build it, which takes minutes.'
    echo 'To check: cargo install cargo-deny --locked && make deny'
    exit 0
fi
exec cargo deny --offline check --allow duplicate bans licenses sources
