#!/bin/sh
# Builds the launcher and its criu into a directory: `launcher`, `criu`, and `source`, which goes with criu wherever it
# goes (see criu/build.sh).
#
#   build.sh OUTPUT_DIRECTORY
#
# To be run in a Debian tree (forky) with the packages of `build-packages`, in an empty directory to work in.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)

musl-gcc -std=gnu11 -D_GNU_SOURCE -Os -Wall -Wextra -Werror -ffunction-sections -fdata-sections -Wl,--gc-sections \
    -static -s -o "$out/launcher" "$here"/src/*.c
"$here/criu/build.sh" "$out"
