#!/bin/sh
# Helm 4 discards a post-renderer's standard error, even when it fails. So write to Helm's own standard error if it is a
# terminal or a pipe that /proc lets us open.
said=/proc/$PPID/fd/2
if [ ! -f "$said" ] && (: 2>"$said") 2>/dev/null; then
    exec 2>"$said"
fi
exec warmstart deploy --from - "$@"
