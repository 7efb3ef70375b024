#!/bin/sh
# Boot a throw-away copy of this machine with systemd as PID 1, streamcls installed as a user would.
#
#   unshare --mount --propagation private machine.sh FOLDER WHEEL CHECKOUT
#
# MACHINE_ROOT names the root of another system to boot instead, as debootstrap makes it.
# FOLDER/out receives what checks.py found. Nothing outside FOLDER and this mount namespace changes:
# the root is an overlay whose upper layer is in memory.
set -eu

folder=$1 wheel=$2 checkout=$3
mkdir -p "$folder/out" "$folder/memory"
mount -t tmpfs none "$folder/memory"
mkdir "$folder/memory/upper" "$folder/memory/work" "$folder/memory/root"
root=$folder/memory/root
mount -t overlay overlay \
    -o "lowerdir=${MACHINE_ROOT:-/},upperdir=$folder/memory/upper,workdir=$folder/memory/work" "$root"

# With the network of this machine, which the booted one does not have.
mkdir "$root/ci"
cp "$wheel" "$checkout"/deploy/install.sh "$checkout"/tests/service/checks.py "$root/ci/"
if [ -n "${MACHINE_ROOT:-}" ]; then
    cp "$(command -v uv)" "$root/usr/local/bin/"
    rm -rf "$root/etc/ssl/certs"
    cp -aL /etc/ssl/certs "$root/etc/ssl/certs"
fi
[ -z "${UV_CONSTRAINT:-}" ] || cp "$UV_CONSTRAINT" "$root/ci/constraints.txt"
for each in dev proc sys; do mount --rbind "/$each" "$root/$each"; done
UV_CONSTRAINT=${UV_CONSTRAINT:+/ci/constraints.txt} UV_LINK_MODE=copy \
    chroot "$root" /bin/sh /ci/install.sh --from "/ci/$(basename "$wheel")" >&2
for each in dev proc sys; do umount -l "$root/$each"; done

cat >"$root/etc/systemd/system/ci.target" <<'UNIT'
[Unit]
Requires=basic.target ci.service
After=basic.target
AllowIsolate=yes
UNIT
cat >"$root/etc/systemd/system/ci.service" <<'UNIT'
[Unit]
After=basic.target
[Service]
Type=oneshot
ExecStart=/opt/streamcls/bin/python /ci/checks.py /ci/out
ExecStopPost=/bin/systemctl --force poweroff
StandardOutput=file:/ci/out/output
StandardError=inherit
UNIT
exec systemd-nspawn -q -D "$root" --register=no --keep-unit --private-network \
    --bind="$folder/out:/ci/out" --boot systemd.unit=ci.target systemd.mask=systemd-udevd.service \
    </dev/null
