#!/bin/sh
# Set up .venv from uv.lock on a machine that has nothing but python3 and make.
#
#   scripts/bootstrap.sh run       what `streamcls` itself needs
#   scripts/bootstrap.sh dev       that, the tools and the training extra
#   scripts/bootstrap.sh system    Debian packages that the audio tests use, where we may install
#   scripts/bootstrap.sh voices    Debian packages with the synthetic voices that training uses
#
# Safe to repeat. uv is taken from PATH or brought through pip into .uv/; neither the system's
# Python nor the user's home is changed.
set -eu
cd "$(dirname "$0")/.."

UV_REQUIREMENT='uv>=0.6'
SYSTEM_PACKAGES='libportaudio2 pulseaudio pulseaudio-utils libasound2-plugins espeak-ng
systemd systemd-container stress-ng'

VOICE_PACKAGES='espeak-ng flite festival festvox-kallpc16k festvox-kdlpc16k festvox-us-slt-hts'

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# Prints the command prefix that makes us root; fails where that needs a password.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then echo env
    elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then echo 'sudo -n env'
    else return 1
    fi
}

apt_install() {
    command -v apt-get >/dev/null 2>&1 || { say "no apt-get here"; return 1; }
    root=$(as_root) || { say "not root and no password-less sudo"; return 1; }
    install="$root DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends"
    # The package lists may be absent or too old: refresh them only if the first try fails.
    $install "$@" >&2 || { $root apt-get update -q >&2 && $install "$@" >&2; }
}

works() { "$1" --version >/dev/null 2>&1; }

# uv reads this lock file from 0.6 on; an older one is passed over.
new_enough() {
    works "$1" && "$1" --version | python3 -c '
import re, sys
found = re.search(r"(\d+)\.(\d+)", sys.stdin.read())
sys.exit(found is None or tuple(map(int, found.groups())) < (0, 6))'
}

# Runs pip, whatever there is of it. Debian's python3 comes without pip and without ensurepip:
# then the package python3-pip, or else pip's own wheel from PyPI (checked by its digest), which
# runs without being installed.
any_pip() {
    export PIP_ROOT_USER_ACTION=ignore
    if has_pip; then
        python3 -m pip "$@"
    elif python3 -m venv .uv/bootstrap >/dev/null 2>&1; then
        .uv/bootstrap/bin/python -m pip "$@"
    elif apt_install python3-pip && has_pip; then
        python3 -m pip "$@"
    else
        say "fetching pip itself"
        python3 scripts/fetch_pip.py .uv/pip.whl && python3 .uv/pip.whl/pip "$@"
    fi
}

has_pip() { python3 -m pip --version >/dev/null 2>&1; }

find_uv() {
    for uv in uv .uv/bin/uv; do
        if new_enough "$uv"; then echo "$uv"; return; fi
    done
    say "bringing uv into .uv/ through pip"
    mkdir -p .uv
    # --target leaves the system alone, so it works without root and where PEP 668 forbids more.
    any_pip install --quiet --disable-pip-version-check --upgrade --target .uv "$UV_REQUIREMENT" \
        >&2 || die "could not install uv; install it yourself (pip install uv) and retry"
    works .uv/bin/uv || die "pip has installed uv, but .uv/bin/uv does not run on this machine"
    echo .uv/bin/uv
}

sync_environment() {
    command -v python3 >/dev/null 2>&1 || die "python3 not found; install Python 3.11 or newer"
    uv=$(find_uv)
    # --inexact keeps what an earlier, larger setup has installed. Without bytecode every start
    # would compile JAX's sources where PYTHONDONTWRITEBYTECODE is set: 1.6 s of 3.4.
    "$uv" sync --frozen --inexact --compile-bytecode "$@" || die "uv could not set up .venv \
(see above); it needs the packages of uv.lock and Python 3.11 or newer, from PATH or downloaded"
}

missing_packages() {
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || echo "$package"
    done
}

case "${1:-}" in
    run) sync_environment --no-dev ;;
    dev) sync_environment --all-extras ;;
    system)
        # shellcheck disable=SC2046,SC2086  # lists of words are what we want
        set -- $(missing_packages $SYSTEM_PACKAGES)
        [ $# -eq 0 ] || apt_install "$@" || say "without $*: the tests that need them are skipped"
        ;;
    voices)
        # shellcheck disable=SC2046,SC2086
        set -- $(missing_packages $VOICE_PACKAGES)
        [ $# -eq 0 ] || apt_install "$@" || say "without $*: fewer synthetic speakers to train on"
        ;;
    *) die "usage: $0 run|dev|system|voices" ;;
esac
