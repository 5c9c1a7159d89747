#!/usr/bin/env bash
# check-mutations.sh [SECONDS [NAME...]]: whether torture finds the bugs in tests/mutations.
#
# Each patch breaks one promise on purpose. It is applied to a throw-away copy, an agent is built
# there, and fault runs of at most a minute, with seeds 1, 2, …, go on until one is red or SECONDS
# (300) are over. A patch that does not apply any more is an error too: the bug must be moved along
# with the code.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

limit=${1:-300}
shift || true
run=60
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
mkdir "$copy/source" "$copy/bin"

patches=()
for name in "${@:-}"; do
    [[ -n $name ]] && patches+=("$PWD/tests/mutations/$name.patch")
done
((${#patches[@]})) || patches=("$PWD"/tests/mutations/*.patch)

git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$copy/source"
for patch in "${patches[@]}"; do
    # All of them before the first long run.
    git -C "$copy/source" apply --check "$patch" || {
        echo "$patch does not apply any more: move the bug along with the code" >&2
        exit 2
    }
done

cargo build --locked --quiet --workspace --bins
cp "$target"/debug/{tide-agent,tide-control-plane,tidectl} "$copy/bin/"
# What is not ours is the same there, and need not be compiled again.
rm -rf "$target/mutations"
mkdir -p "$target/mutations/debug"
cp -al "$target"/debug/{.fingerprint,build,deps} "$target/mutations/debug/"

failed=0
for patch in "${patches[@]}"; do
    name=$(basename "$patch" .patch)
    git -C "$copy/source" apply "$patch"
    (cd "$copy/source" &&
        CARGO_TARGET_DIR="$target/mutations" cargo build --locked --quiet --workspace --bin tide-agent)
    cp "$target/mutations/debug/tide-agent" "$copy/bin/"
    git -C "$copy/source" apply --reverse "$patch"

    verdict=green spent=0 seed=0
    while [[ $verdict == green ]] && ((spent < limit)); do
        seed=$((seed + 1))
        seconds=$((limit - spent < run ? limit - spent : run))
        status=0
        TIDE_BIN_DIR="$copy/bin" "$target/debug/tide-torture" --seconds "$seconds" --seed "$seed" \
            >"$copy/log" 2>&1 || status=$?
        case $status in
            0) ;;
            1) verdict=red ;;
            *)
                cat "$copy/log" >&2
                echo "$name: the run itself did not work" >&2
                exit 2
                ;;
        esac
        spent=$((spent + seconds))
        # What a bug that we put in leaves behind is worth nothing.
        evidence=$(sed -n 's/^evidence: //p' "$copy/log")
        [[ -z $evidence ]] || rm -rf "$evidence"
    done
    echo "$name: $verdict after $spent s (seed $seed)"
    if [[ $verdict == red ]]; then
        sed -n '/^total:/,/verdict:/p' "$copy/log" | head -8 | sed 's/^/    /'
    else
        failed=$((failed + 1))
    fi
done
if ((failed)); then
    echo "$failed of ${#patches[@]} bugs were not found" >&2
    exit 1
fi
