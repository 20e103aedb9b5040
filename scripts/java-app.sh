#!/bin/sh
# Copy examples/java-app to build/java-app-VERSION, with another JRE in its image. recipes/build-image.sh builds it.
#
#   scripts/java-app.sh VERSION
#
# Debian 13 has JRE 21 and 25. Others come from Debian's next release, forky, with its C library.
set -eu

[ $# = 1 ] || {
    sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
    exit 2
}
cd "$(dirname "$0")/.."
copy=build/java-app-$1
mkdir -p "$copy"
cp -r examples/java-app/. "$copy"
case $1 in
    21 | 25) sed -i "/^run:/s/openjdk-21/openjdk-$1/" "$copy/debian-packages" ;;
    *)
        sed -i '/^run:/s/openjdk-21-jre-headless/apt/' "$copy/debian-packages"
        cat >"$copy/install" <<EOF
RUN echo 'deb [check-valid-until=no] http://deb.debian.org/debian forky main' >/etc/apt/sources.list && \\
    apt-get --quiet update && \\
    DEBIAN_FRONTEND=noninteractive apt-get --quiet --yes --no-install-recommends install openjdk-$1-jre-headless && \\
    rm -rf /var/lib/apt/lists /var/cache/apt
EOF
        sed -i "/^FROM \${RUN_IMAGE}/r $copy/install" "$copy/Containerfile"
        rm "$copy/install"
        ;;
esac
