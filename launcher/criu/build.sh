#!/bin/sh
# Build a static criu with the patches in this directory. Next to it, write everything that its license (GPL-2.0) requires
# in a copy to `source`: the source as in Debian, the patches, and this script.
#
#   build.sh OUTPUT_DIRECTORY
#
# Run it in a Debian root (forky) with the packages of ../build-packages, from an empty working directory. It uses the apt
# sources of that root. WARMSTART_DEBIAN_EXPIRED=1 accepts a mirror with an expired Release file.
set -eu

version=4.2.1
sha256=29ec0ee09e296479fe7048c80980e8ef1d0684d0b0204c2b101dfea19f6725b9
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1/source"
out=$(cd "$1" && pwd)

# Use separate package lists: those of the root have no source packages, and should not be changed.
mkdir -p apt/lists/partial apt/cache/archives/partial
sed 's/^deb /deb-src /' /etc/apt/sources.list > apt/sources.list
expired=
case ${WARMSTART_DEBIAN_EXPIRED:-0} in 0) ;; *) expired="-o Acquire::Check-Valid-Until=false" ;; esac
# shellcheck disable=SC2086
apt() {
    apt-get -q -o Dir::Etc::SourceList="$PWD/apt/sources.list" -o Dir::Etc::SourceParts=- \
        -o Dir::State::Lists="$PWD/apt/lists" -o Dir::Cache="$PWD/apt/cache" \
        -o APT::Sandbox::User=root $expired "$@"
}
apt update
# Without Debian's own changes: they concern packaging only.
apt source --tar-only criu
source=criu_$version.orig.tar.xz
[ -e "$source" ] || { echo "Debian has another criu than $version, which the patches are for:" criu_*; exit 1; }
echo "$sha256  $source" | sha256sum --check --quiet

mkdir criu
tar -x -f "$source" -C criu --strip-components=1
patch -d criu -p1 < "$here/restore-without-capabilities.patch"
patch -d criu -p1 < "$here/keep-more-state.patch"
# The Makefiles add GMONLDOPT only when they link the program. -static anywhere else would also change the build of the
# code that criu injects into other processes.
make -C criu GMONLDOPT=-static criu
strip -o "$out/criu" criu/criu/criu
cp "$source" "$here"/*.patch "$here/build.sh" "$out/source/"
