#!/bin/sh
# Builds criu, static and with the patch beside this script, into a directory, and puts into `source` below it what its
# licence (GPL-2.0) wants to go with it: the source as Debian has it, the patch, and this script.
#
#   build.sh OUTPUT_DIRECTORY
#
# To be run in a Debian tree (forky) with the packages of ../build-packages. apt's sources are those of the tree; the
# directory it is run in is where it works. WARMSTART_DEBIAN_EXPIRED=1 accepts a mirror whose Release file is out of date.
set -eu

version=4.2.1
sha256=29ec0ee09e296479fe7048c80980e8ef1d0684d0b0204c2b101dfea19f6725b9
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1/source"
out=$(cd "$1" && pwd)

# A package list of our own: the tree's has no sources, and is not ours to change.
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
# Without Debian's own changes, which are about packaging.
apt source --tar-only criu
source=criu_$version.orig.tar.xz
[ -e "$source" ] || { echo "Debian has another criu than $version, which the patch is for:" criu_*; exit 1; }
echo "$sha256  $source" | sha256sum --check --quiet

mkdir criu
tar -x -f "$source" -C criu --strip-components=1
patch -d criu -p1 < "$here/restore-without-capabilities.patch"
# GMONLDOPT is what the Makefiles add where they link the program, and only there: -static anywhere else would change
# how the code is built that criu injects into other processes.
make -C criu GMONLDOPT=-static criu
strip -o "$out/criu" criu/criu/criu
cp "$source" "$here/restore-without-capabilities.patch" "$here/build.sh" "$out/source/"
