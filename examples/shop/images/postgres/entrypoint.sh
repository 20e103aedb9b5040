#!/bin/sh
# Run PostgreSQL. The first time, make a cluster in $PGDATA from POSTGRES_USER, POSTGRES_PASSWORD and POSTGRES_DB, and
# run the scripts in /docker-entrypoint-initdb.d, as the official image does.
set -eu

make_cluster() {
    [ -n "${POSTGRES_PASSWORD:-}" ] || {
        echo "POSTGRES_PASSWORD is not set: the superuser needs a password" >&2
        exit 1
    }
    printf '%s\n' "$POSTGRES_PASSWORD" |
        initdb --pgdata="$PGDATA" --username="$user" --pwfile=/dev/stdin --encoding=UTF8 --locale=C.UTF-8 \
            --auth-local=trust --auth-host=scram-sha-256
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
}

# run_scripts: on a server that nobody else can reach, since it listens on no address.
run_scripts() {
    pg_ctl --pgdata="$PGDATA" --wait --options="-c listen_addresses=''" start
    if [ "$database" != postgres ]; then
        psql --quiet --username="$user" --dbname=postgres --set=ON_ERROR_STOP=1 --set=name="$database" <<'SQL'
CREATE DATABASE :"name";
SQL
    fi
    for script in /docker-entrypoint-initdb.d/*.sql; do
        [ ! -e "$script" ] ||
            psql --username="$user" --dbname="$database" --no-psqlrc --set=ON_ERROR_STOP=1 --file="$script"
    done
    pg_ctl --pgdata="$PGDATA" --wait --mode=fast stop
}

if [ "${1:-}" = postgres ]; then
    user=${POSTGRES_USER:-postgres}
    database=${POSTGRES_DB:-$user}
    umask 077
    mkdir -p "$PGDATA"
    if [ ! -s "$PGDATA/PG_VERSION" ]; then
        make_cluster
        run_scripts
    fi
    shift
    set -- postgres -c listen_addresses='*' "$@"
fi
exec "$@"
