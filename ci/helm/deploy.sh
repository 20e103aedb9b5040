#!/bin/sh
# Helm 4 keeps to itself what a post-renderer says, even why it failed. Where Helm speaks to a terminal or a pipe that
# /proc shows, it is said there.
said=/proc/$PPID/fd/2
if [ ! -f "$said" ] && (: 2>"$said") 2>/dev/null; then
    exec 2>"$said"
fi
exec warmstart deploy --from - "$@"
