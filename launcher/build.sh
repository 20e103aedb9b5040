#!/bin/sh
# Build the launcher into a directory. criu/build.sh builds its CRIU.
#
#   build.sh OUTPUT_DIRECTORY
#
# Run it in a Debian root (forky) with the packages of `build-packages`, from an empty working directory.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)

musl-gcc -std=gnu11 -D_GNU_SOURCE -Os -Wall -Wextra -Werror -ffunction-sections -fdata-sections -Wl,--gc-sections \
    -static -s -o "$out/launcher" "$here"/src/*.c
