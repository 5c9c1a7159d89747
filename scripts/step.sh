#!/usr/bin/env bash
# step.sh TITLE COMMAND...: prints the title and the time since `make` started, then runs the command.
set -euo pipefail
elapsed=$(($(date +%s) - ${TIDE_STEPS_SINCE:-$(date +%s)}))
printf '\n==> %2d:%02d  %s\n' $((elapsed / 60)) $((elapsed % 60)) "$1"
shift
exec "$@"
