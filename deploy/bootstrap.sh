#!/bin/sh
# Make a checkout ready to run: Python, the system's tools, and .venv with all dependencies.
#
#   deploy/bootstrap.sh [VENV [PYTHON [GROUP]]]
#
# VENV is .venv unless given; PYTHON the interpreter to make it with, else the best that is found; GROUP a group
# of pyproject.toml's dependencies that is wanted too.
# Needs only a Debian or Ubuntu with apt-get (or the tools in place already). Does nothing, quickly, when
# everything is there. It respects a pip configuration that it finds and names no package index itself.
set -eu

cd "$(dirname "$0")/.."
venv=${1:-.venv}
python=${2:-}
group=${3:-}
stamp=$venv/.bootstrapped${group:+-$group}

say() { echo "bootstrap: $*" >&2; }
has() { command -v "$1" >/dev/null 2>&1; }

# Root's tools are not in everyone's PATH.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif has sudo; then
        sudo "$@"
    else
        say "\"$*\" needs root; run it as root, then try again."
        exit 1
    fi
}

is_updated=
install() {
    if ! has apt-get; then
        say "Please install $* (this system has no apt-get), then try again."
        exit 1
    fi
    say "Installing $*."
    if [ -z "$is_updated" ]; then
        as_root apt-get -qq update || say "\"apt-get update\" failed; trying with the lists that are there."
        is_updated=yes
    fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "$@" >/dev/null
}

find_python() {
    for name in python3.13 python3.12 python3.11 python3 python3.14; do
        if has "$name" && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
}

# What the lab runs, and the package of each. ps and ping are for its tests.
need_tools() {
    packages=
    has ip || packages="$packages iproute2"
    has nft || packages="$packages nftables"
    has unshare || packages="$packages util-linux"
    has mount || packages="$packages mount"
    has ps || packages="$packages procps"
    has ping || packages="$packages iputils-ping"
    if [ -n "$packages" ]; then
        # shellcheck disable=SC2086 # a list of package names
        install $packages
    fi
}

need_python() {
    [ -n "$python" ] || python=$(find_python)
    if [ -z "$python" ]; then
        install python3 python3-venv
        python=$(find_python)
    fi
    if [ -z "$python" ]; then
        # This release's python3 is too old; some have a newer one beside it.
        for version in 3.13 3.12 3.11; do
            if apt-cache show "python$version-venv" >/dev/null 2>&1; then
                install "python$version" "python$version-venv"
                python=$(find_python)
                break
            fi
        done
    fi
    if [ -z "$python" ]; then
        say "SwarmPy needs Python 3.11 or newer, and this system offers none."
        exit 1
    fi
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        install "python$version-venv" || install python3-venv
    fi
}

make_venv() {
    if ! "$venv"/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        say "Making $venv with $python."
        rm -rf "$venv"
        "$python" -m venv "$venv"
    fi
    if ! "$venv"/bin/python -m pip --version >/dev/null 2>&1; then
        "$venv"/bin/python -m ensurepip
    fi
}

# uv installs exactly what uv.lock names, from where uv.lock says. Where only pip knows the way to a package
# index, pip installs the same versions.
fill_venv() {
    if [ ! -x "$venv"/bin/uv ]; then
        "$venv"/bin/python -m pip -q install --disable-pip-version-check uv
    fi
    # --inexact: uv and pip live in the venv and are no dependencies of ours.
    if UV_PROJECT_ENVIRONMENT="$PWD/$venv" UV_PYTHON_DOWNLOADS=never UV_HTTP_TIMEOUT=20 \
        "$venv"/bin/uv sync -q --frozen --inexact ${group:+--group "$group"} --python "$venv"/bin/python; then
        return
    fi
    say "uv could not fetch what uv.lock names; pip installs the same versions."
    "$venv"/bin/uv export -q --frozen --no-hashes --no-emit-project ${group:+--group "$group"} >"$venv"/locked.txt
    "$venv"/bin/python -m pip -q install --disable-pip-version-check -r "$venv"/locked.txt
    "$venv"/bin/python -m pip -q install --disable-pip-version-check --no-deps -e .
}

is_current() {
    [ -e "$stamp" ] && [ -x "$venv"/bin/python ] &&
        [ -z "$(find pyproject.toml uv.lock deploy/bootstrap.sh -newer "$stamp")" ]
}

need_tools
if ! is_current; then
    need_python
    make_venv
    fill_venv
    touch "$stamp"
    say "Ready."
fi
