#!/bin/sh
# Run Redis, with the arguments if they are options, as the official image does.
set -eu

case ${1:-} in
-* | *.conf) set -- redis-server "$@" ;;
esac
if [ "${1:-}" = redis-server ]; then
    shift
    # Inside a pod's network, its Service decides who reaches it.
    set -- redis-server --protected-mode no --bind '* -::*' "$@"
fi
exec "$@"
