#!/bin/sh
# Install streamcls for all users of this machine, or upgrade it.
#
#   deploy/install.sh [--from WHAT] [--extras LIST] [--python PROGRAM]
#   deploy/install.sh --uninstall
#
# WHAT is anything that pip installs: a wheel, a folder, a requirement; without it, the checkout
# that this script lies in. LIST names extras: network (RTSP, HTTP and compressed files), train.
# Makes a virtual environment in /opt/streamcls and links from /usr/local to its command, manual
# pages and completion. Safe to repeat. Touches no configuration and starts no service:
# `streamcls service install` does that; services that run already are restarted.
set -eu

PREFIX=/opt/streamcls
LINKS=/usr/local
SYSTEM_PACKAGES='python3-venv libportaudio2'

say() { printf 'install: %s\n' "$*" >&2; }
die() { say "$*"; exit 2; }

usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "$0"; }

# A service is another user: it cannot use a Python that lies in somebody's home.
usable() {
    path=$(command -v "$1" 2>/dev/null) || return 1
    path=$(readlink -f "$path")
    case $path in /root/* | /home/*) return 1 ;; esac
    "$path" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$path"
}

find_python() {
    if [ -n "$python" ]; then
        usable "$python" || die "--python $python: must be Python 3.11 or newer, outside of homes"
        return
    fi
    for one in python3 /usr/local/bin/python3 /usr/bin/python3; do
        usable "$one" && return
    done
    die "no Python 3.11 or newer outside of homes; name one with --python"
}

install_system_packages() {
    command -v apt-get >/dev/null 2>&1 || { say "no apt-get: install PortAudio yourself"; return; }
    for package in $SYSTEM_PACKAGES; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' && continue
        DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$package" \
            >/dev/null || say "$package could not be installed"
    done
}

install() {
    interpreter=$(find_python)
    # uv does in seconds what pip does in a minute; it needs no python3-venv either.
    if command -v uv >/dev/null 2>&1; then
        [ -x "$PREFIX/bin/python" ] || uv venv -q --python "$interpreter" "$PREFIX"
        uv pip install -q --compile-bytecode --python "$PREFIX/bin/python" --upgrade "$1"
    else
        install_system_packages
        [ -x "$PREFIX/bin/python" ] || "$interpreter" -m venv "$PREFIX"
        "$PREFIX/bin/pip" install -q --disable-pip-version-check --upgrade "$1"
    fi
    # Read by every service, whatever the umask of whoever called us.
    chmod -R go+rX "$PREFIX"
    link
}

link() {
    mkdir -p "$LINKS/bin" "$LINKS/share/man/man1" "$LINKS/share/bash-completion/completions"
    ln -sf "$PREFIX/bin/streamcls" "$LINKS/bin/streamcls"
    for page in "$PREFIX"/share/man/man1/streamcls*.1; do
        ln -sf "$page" "$LINKS/share/man/man1/"
    done
    "$PREFIX/bin/streamcls" completion bash >"$LINKS/share/bash-completion/completions/streamcls"
}

restart_services() {
    [ ! -d /run/systemd/system ] || systemctl try-restart 'streamcls.service' 'streamcls@*.service'
}

uninstall() {
    for unit in /etc/systemd/system/streamcls*.service; do
        [ ! -e "$unit" ] || die "first remove the services: streamcls service uninstall"
    done
    rm -rf "$PREFIX"
    for link in "$LINKS/bin/streamcls" "$LINKS"/share/man/man1/streamcls*.1; do
        [ ! -L "$link" ] || rm "$link"
    done
    rm -f "$LINKS/share/bash-completion/completions/streamcls"
    say "removed; the configuration in /etc/streamcls stays"
}

what='' extras='' python='' action=install
while [ $# -gt 0 ]; do
    case $1 in
        --from) what=${2:?--from needs a value}; shift ;;
        --extras) extras=${2:?--extras needs a value}; shift ;;
        --python) python=${2:?--python needs a value}; shift ;;
        --uninstall) action=uninstall ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
    shift
done
[ "$(id -u)" -eq 0 ] || die "must be root: sudo $0"
if [ "$action" = uninstall ]; then
    uninstall
    exit
fi
checkout=$(cd "$(dirname "$0")/.." && pwd)
[ -n "$what" ] || what=$checkout
case $what in
    *.whl | */*) what=$(readlink -f "$what") ;;
esac
install "$what${extras:+[$extras]}"
restart_services
"$LINKS/bin/streamcls" --version >&2
say "next: streamcls doctor; then, to run at every boot: streamcls service install"
