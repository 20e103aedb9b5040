#!/bin/sh
# Build the images that the recipes start from, out of Debian's packages alone: no registry is asked for a base.
#
#   recipes/build-image.sh recipes/python examples/java-app ...
#
# For each directory, its file debian-packages names the packages of two root file systems: `build` (compilers,
# package managers) and `run` (what the application needs; it may be absent). mmdebstrap makes them, buildah
# makes an image of each and then builds the directory's Containerfile with them as BUILD_IMAGE and RUN_IMAGE.
# The result is build/images/NAME.tar, an OCI archive; it is left alone while nothing it is made of has changed.
#
# Needs root, mmdebstrap and buildah. Kept between runs, in $IMAGE_CACHE or build/cache/images: packages, root file
# systems, the caches of the build tools, and the images. Delete it to take up newer Debian packages.
set -eu

suite=trixie
# 2025-01-01: the time of every file in the images, so that equal inputs give equal bytes. (All but one: Java's store of
# certificates holds the time at which it was made.)
epoch=1735689600
ca_bundle=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}

script=$(realpath "$0")
top=$(dirname "$(dirname "$script")")
images=$top/build/images
cache=${IMAGE_CACHE:-$top/build/cache/images}

die() {
    printf '%s: %s\n' "${script##*/}" "$1" >&2
    exit 1
}

hash_of() { sha256sum | cut -c 1-16; }

# packages_for KIND DIRECTORY: the packages of the line "KIND: ...", separated by commas.
packages_for() { sed -n "s/^$1: *//p" "$2/debian-packages" | tr -s ' ' ','; }

# inputs_of DIRECTORY: a hash of all that its image is made of.
inputs_of() {
    {
        cat "$script"
        cd "$1"
        find . -name target -prune -o -name node_modules -prune -o -name __pycache__ -prune -o \
            -path './*.md' -prune -o -path './*recipe.yaml' -prune -o -type f -print |
            LC_ALL=C sort | xargs -d '\n' sha256sum
    } | hash_of
}

# make_root KIND PACKAGES: print the path of a tar of a Debian root file system with these packages.
make_root() {
    # A build goes out to package registries, so it trusts whom this machine trusts. What runs trusts whom Debian
    # trusts.
    if [ "$1" = build ]; then
        set -- "$2,ca-certificates" \
            --customize-hook="upload '$ca_bundle' /tmp/host.pem" \
            --customize-hook='chroot "$1" csplit -s -z -f /usr/local/share/ca-certificates/host- -b %03d.crt \
                /tmp/host.pem "/BEGIN CERTIFICATE/" "{*}"' \
            --customize-hook='chroot "$1" update-ca-certificates >/dev/null 2>&1' \
            --customize-hook='rm "$1/tmp/host.pem"'
        trusted=$ca_bundle
    else
        set -- "$2"
        trusted=/dev/null
    fi
    tar=$cache/roots/$(printf '%s\n' "$@" "$suite" | cat - "$script" "$trusted" | hash_of).tar
    if [ ! -e "$tar" ]; then
        packages=$1
        shift
        SOURCE_DATE_EPOCH=$epoch mmdebstrap --quiet --variant=essential --include="$packages" --mode=root \
            --aptopt='Acquire::Retries "3"' --dpkgopt=force-unsafe-io \
            --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
            --dpkgopt='path-exclude=/usr/share/man/*.gz' --dpkgopt='path-exclude=/usr/share/info/*' \
            --dpkgopt='path-exclude=/usr/share/locale/*' \
            --skip=download/empty --skip=essential/unlink --skip=cleanup/apt \
            --setup-hook='mkdir -p "$1/var/cache/apt/archives"' \
            --setup-hook="mount --bind '$cache/debs' \"\$1/var/cache/apt/archives\"" \
            "$@" \
            --customize-hook='umount "$1/var/cache/apt/archives"' \
            --customize-hook='rm -rf "$1/var/cache/apt" "$1/var/lib/apt"' \
            --customize-hook='echo "app:x:1000:1000::/app:/usr/sbin/nologin" >>"$1/etc/passwd"' \
            --customize-hook='echo "app:x:1000:" >>"$1/etc/group"' \
            "$suite" "$tar.new.tar" >&2
        mv "$tar.new.tar" "$tar"
    fi
    echo "$tar"
}

# buildah on a storage of its own, which is thrown away at the end.
store() {
    buildah --root "$work/storage" --runroot "$work/run" "$@"
}

# limit NAME: this process's own limit, as --ulimit wants it. buildah's defaults are higher, and to raise a hard
# limit takes CAP_SYS_RESOURCE.
limit() { sed -n "s/^Max $1 *\\([^ ]*\\) *\\([^ ]*\\) .*/\\1:\\2/p" /proc/self/limits | sed 's/unlimited/-1/g'; }

# import_root TAR: print the name of an image of one layer that has this root file system.
import_root() {
    image=localhost/$(basename "$1" .tar)
    if ! store inspect --type image "$image" >/dev/null 2>&1; then
        container=$(store from scratch)
        store add --quiet "$container" "$1" / >/dev/null
        store config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin --cmd /bin/sh "$container"
        store commit --quiet --timestamp "$epoch" --rm "$container" "$image" >/dev/null
    fi
    echo "$image"
}

discard_work() {
    # A build that fails leaves its containers mounted.
    store umount --all >/dev/null 2>&1 || true
    rm -rf --one-file-system "$work"
}

build_image() {
    directory=$1
    name=$2
    result=$3
    set --
    for kind in build run; do
        packages=$(packages_for "$kind" "$directory")
        [ -n "$packages" ] || continue
        root=$(make_root "$kind" "$packages")
        image=$(import_root "$root")
        set -- "$@" --build-arg "$(echo "$kind" | tr a-z A-Z)_IMAGE=$image"
    done
    store build --isolation chroot --network host --pull=never --layers --timestamp "$epoch" \
        --ulimit "nproc=$(limit processes)" --ulimit "nofile=$(limit 'open files')" \
        "$@" --tag "localhost/$name:latest" "$directory" >&2
    rm -f "$result.new"
    store push --quiet "localhost/$name:latest" "oci-archive:$result.new:localhost/$name:latest"
    mv "$result.new" "$result"
}

[ $# -gt 0 ] || die "name at least one directory that has a Containerfile and a file debian-packages"
for program in mmdebstrap buildah; do
    command -v "$program" >/dev/null || die "no $program on this machine: install it, or run me by warmstart node run -- $script"
done
[ "$(id -u)" = 0 ] || die "only root can make a root file system: run me as root"
[ -r "$ca_bundle" ] || die "no certificates in $ca_bundle: install ca-certificates, or set SSL_CERT_FILE"

mkdir -p "$images" "$cache/debs" "$cache/roots" "$cache/tmp" "$cache/done"
exec 9>"$cache/lock"
flock 9
export TMPDIR=$cache/tmp
rm -rf --one-file-system "$TMPDIR"/tmp.* "$TMPDIR"/mmdebstrap.* # of a run that was killed
work=$(mktemp -d)
trap discard_work EXIT
trap 'exit 130' INT TERM

for directory; do
    [ -e "$directory/debian-packages" ] || die "$directory has no file debian-packages"
    directory=$(realpath "$directory")
    name=${directory##*/}
    inputs=$(inputs_of "$directory")
    if [ -e "$images/$name.tar" ] && [ "$(cat "$images/$name.inputs" 2>/dev/null)" = "$inputs" ]; then
        echo "build/images/$name.tar is up to date"
        continue
    fi
    kept=$cache/done/$name-$inputs.tar
    if [ ! -e "$kept" ]; then
        build_image "$directory" "$name" "$kept"
    fi
    cp --reflink=auto "$kept" "$images/$name.tar.new"
    mv "$images/$name.tar.new" "$images/$name.tar"
    echo "$inputs" >"$images/$name.inputs"
    echo "build/images/$name.tar is built"
done
