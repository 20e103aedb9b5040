#!/bin/sh
# Builds the launcher into a directory. Its criu is built by criu/build.sh.
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
