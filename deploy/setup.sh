#!/bin/sh
# Installs what is missing on Debian 12 or newer, without questions: deploy/setup.sh build|test|bench|soak
# Quick when everything is there: dpkg-query alone is asked.
set -eu

build="gcc libc6-dev make meson ninja-build pkg-config liburing-dev libjemalloc-dev libxxhash-dev libyaml-dev
libcrypt-dev libargon2-dev android-libboringssl-dev zlib1g-dev libcmocka-dev openssl curl python3"
test="clang clang-format libclang-rt-dev llvm gdb isync neomutt tmux patch
python3-yaml python3-cryptography iproute2 systemd"
soak="buildah podman crun runc thunderbird xvfb"
bench="dovecot-imapd dovecot-lmtpd libnginx-mod-mail haproxy"

case "${1:-build}" in
build) wanted="$build" ;;
test) wanted="$build $test" ;;
bench) wanted="$build $bench" ;;
soak) wanted="$build $test $soak" ;;
*) echo "usage: deploy/setup.sh build|test|bench|soak" >&2; exit 64 ;;
esac

command -v dpkg-query >/dev/null || { # Another system: whoever builds there has seen to it.
    echo "setup: no dpkg here; needed are: $wanted" >&2
    exit 0
}

missing=""
for package in $wanted; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

echo "setup: installing$missing"
as_root=""
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "setup: needs root or sudo to install$missing" >&2; exit 69; }
    as_root="sudo"
fi
$as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
# shellcheck disable=SC2086 # A list of words.
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
