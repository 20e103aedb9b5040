#!/bin/sh
# Compile the part of Node's hooks that is not JavaScript, into a directory.
#
#   build.sh OUTPUT_DIRECTORY
set -eu

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)

${CC:-gcc} -std=gnu11 -Os -Wall -Wextra -Werror -fPIC -shared -nostdlib -fno-stack-protector -fvisibility=hidden \
    -Wl,-z,noexecstack,-z,noseparate-code -s -o "$out/reseed.node" "$here/reseed.c"
