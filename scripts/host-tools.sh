#!/bin/sh
# Check for the system packages that the tests and the demo need, and install missing ones if possible.
set -eu

missing=
for pair in mmdebstrap:mmdebstrap nsenter:util-linux gcc:gcc; do
    command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair##*:}"
done
# Only Debian has its archive keys preinstalled.
[ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || missing="$missing debian-archive-keyring"
python3 -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
[ -n "$missing" ] || exit 0

echo "missing on this machine:$missing"
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing with apt-get"
    apt-get update -qq
    # shellcheck disable=SC2086
    apt-get install -y -qq --no-install-recommends $missing
else
    echo "install these packages, or run as root on a Debian or Ubuntu machine" >&2
    exit 1
fi
