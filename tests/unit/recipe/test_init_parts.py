"""Parts of `init`: init containers that only wait, hosts in texts, kinds of services, and Secrets' keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from warmstart.recipe.init.hosts import Text, find_hosts
from warmstart.recipe.init.inputs import make_inputs
from warmstart.recipe.init.kinds import kind_of_container, kind_of_image, kind_of_use
from warmstart.recipe.init.needs import Use, secret_keys, supply
from warmstart.recipe.init.waiting import only_waits


@pytest.mark.parametrize(
    "script",
    [
        "until nc -z db 5432; do echo waiting for db; sleep 2; done",
        "until nslookup db.default.svc.cluster.local; do echo waiting; sleep 2; done;",
        "while ! nc -z postgres 5432; do sleep 1; done",
        "until pg_isready -h db -U app > /dev/null 2>&1; do sleep 1; done",
        "for i in $(seq 1 60); do nc -zvw1 redis 6379 && exit 0 || sleep 3; done; exit 1",
        "sleep 30",
        "until wget -qO- http://config:8888/health; do sleep 1; done",
        "until curl -sf http://x:1/ -o /dev/null; do sleep 1; done",
        "set -e\nuntil [ \"$(curl -s -o /dev/null -w '%{http_code}' http://a)\" = 200 ]\ndo\n  sleep 2\ndone",
        "# waits\nuntil mysqladmin ping -h mysql --silent; do sleep 1; done",
        "until (echo > /dev/tcp/db/5432) 2>/dev/null; do sleep 1; done",
        "./wait-for-it.sh db:5432 -t 60",
        "echo starting",
    ],
)
def test_scripts_that_only_wait(script: str) -> None:
    assert only_waits({"image": "busybox", "command": ["sh", "-c", script]})
    assert only_waits({"image": "busybox", "command": ["/bin/sh"], "args": ["-ec", script]})


@pytest.mark.parametrize(
    "script",
    [
        "python manage.py migrate",
        "until nc -z db 5432; do sleep 1; done; python manage.py migrate",
        "until nc -z db 5432; do sleep 1; done && ./migrate",
        "cp -r /app/static /shared",
        "chown -R 1000 /data",
        "wget -O /plugins/a.jar http://x/a.jar",
        "curl -o /x http://y",
        "curl -X POST http://registry/register",
        "echo hi > /work/x",
        "cat /a >> /b",
        "psql -h db -f /schema.sql",
        'psql -h db -c "CREATE TABLE t (i int)"',
        "kubectl delete pod x",
        "sysctl -w vm.max_map_count=262144",
    ],
)
def test_scripts_that_do_something(script: str) -> None:
    assert not only_waits({"image": "busybox", "command": ["sh", "-c", script]})


@pytest.mark.parametrize(
    ("block", "waits"),
    [
        ({"image": "groundnuty/k8s-wait-for:v2", "args": ["job", "migrate"]}, True),
        ({"image": "ghcr.io/team/wait-for:1"}, True),
        ({"image": "busybox", "command": ["nc", "-z", "db", "5432"]}, True),
        ({"image": "app", "command": ["./wait-for-it.sh", "db:1"]}, True),
        ({"image": "app", "command": ["./wait-for-it.sh", "db:1", "--", "./migrate"]}, False),
        ({"image": "app", "command": ["/bin/true"]}, False),
        ({"image": "app"}, False),
        ({"image": "app", "args": ["migrate"]}, False),
        ({"image": 5, "command": "sh"}, False),
    ],
)
def test_init_containers_without_a_script(block: dict[str, object], waits: bool) -> None:
    assert only_waits(block) == waits


@pytest.mark.parametrize(
    ("variable", "value", "hosts"),
    [
        ("SPRING_DATASOURCE_URL", "jdbc:postgresql://db:5432/shop", [("db", 5432, "PostgreSQL")]),
        ("URL", "jdbc:sqlserver://mssql:1433;databaseName=x", [("mssql", 1433, "SQL Server")]),
        ("URL", "jdbc:oracle:thin:@ora:1521:XE", [("ora", 1521, "Oracle")]),
        ("URL", "jdbc:mysql:loadbalance://a,b/x", [("a", None, "MySQL"), ("b", None, "MySQL")]),
        ("REDIS_URL", "redis://:pw@redis.shop.svc:6379/0", [("redis.shop.svc", 6379, "Redis")]),
        ("DB_HOST", "postgres", [("postgres", None, "PostgreSQL")]),
        ("db_host", "Data", [("data", None, "a database")]),
        ("spring.data.redis.host", "cache", [("cache", None, "Redis")]),
        ("KAFKA_BROKERS", "k1:9092,k2:9092", [("k1", 9092, "Kafka"), ("k2", 9092, "Kafka")]),
        ("ConnectionStrings__X", "Server=sqldata,1433;Database=x;Password=p", [("sqldata", 1433, "SQL Server")]),
        ("CS", "Host=pg;Port=5432;Username=u", [("pg", 5432, "PostgreSQL")]),
        ("M", "mongodb+srv://u:p@m0,m1:27017/x", [("m0", None, "MongoDB"), ("m1", 27017, "MongoDB")]),
        ("SQLALCHEMY", "postgresql+psycopg://u:p@db/x", [("db", None, "PostgreSQL")]),
        ("JAVA_OPTS", "-Xmx1g -Ddb.url=jdbc:mysql://mysql/x", [("mysql", None, "MySQL")]),
        ("X", "http://orders:8080/a", [("orders", 8080, None)]),
        ("X", "http://localhost:80", []),
        ("X", "redis://127.0.0.1:6379", []),
        ("SPRING_PROFILES_ACTIVE", "postgres", []),
        ("START", "08:30", []),
        ("INSTANCE", "tcp:5432", []),
        ("CACHE_TYPE", "redis", []),
        ("HOST", "0.0.0.0", []),
    ],
)
def test_hosts_in_variables(variable: str, value: str, hosts: list[tuple[str, int | None, str | None]]) -> None:
    found = [
        (use.host, use.port, kind.name if (kind := kind_of_use(use.scheme, use.port, use.host, use.variable)) else None)
        for use in find_hosts(Text("variable", value, "place", variable))
    ]
    assert found == hosts


@pytest.mark.parametrize(
    ("command", "hosts"),
    [
        ("until nc -z -w 2 db 5432; do sleep 1; done", [("db", 5432)]),
        ("nslookup db.ns.svc.cluster.local.", [("db.ns.svc.cluster.local", None)]),
        ("pg_isready -U x -h db", [("db", None)]),
        ("mysqladmin ping --host=mysql", [("mysql", None)]),
        ("wait-for-it.sh db:5432 -- x", [("db", 5432)]),
        ("echo > /dev/tcp/db/5432", [("db", 5432)]),
        ("java -jar app.jar --spring.datasource.url=jdbc:postgresql://db/x", [("db", None)]),
        ("nginx -g daemon off;", []),
    ],
)
def test_hosts_in_commands(command: str, hosts: list[tuple[str, int | None]]) -> None:
    assert [(use.host, use.port) for use in find_hosts(Text("command", command, "place"))] == hosts


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("postgres", "PostgreSQL"),
        ("docker.io/bitnami/postgresql:17.0.0-debian", "PostgreSQL"),
        ("registry.test:5000/team/redis@sha256:0", "Redis"),
        ("prometheuscommunity/postgres-exporter:0.15", None),
        ("registry.test/redis-operator:1", None),
        ("registry.test/postgres/app:1", None),
        ("", None),
    ],
)
def test_kinds_of_images(image: str, name: str | None) -> None:
    kind = kind_of_image(image)
    assert (kind.name if kind else None) == name


@pytest.mark.parametrize(
    ("block", "name"),
    [
        ({"image": "shop/orders-db", "ports": [{"containerPort": 5432}]}, "PostgreSQL"),
        ({"image": "redis:8", "ports": [{"containerPort": 5432}]}, "Redis"),
        ({"image": "shop/web", "ports": [5432, {"containerPort": 8500}]}, None),
        ({"ports": 5432}, None),
    ],
)
def test_kinds_of_containers(block: dict[str, object], name: str | None) -> None:
    kind = kind_of_container(block)
    assert (kind.name if kind else None) == name


def use(key: str | None, place: str = "X", *, optional: bool = False) -> Use:
    return Use("Secret", "db", key, optional, place)


def test_the_keys_of_a_secret_have_no_values() -> None:
    inputs = make_inputs(
        "the input", [{"kind": "Secret", "metadata": {"name": "db"}, "data": {"a": "c2VjcmV0", "b": ""}}]
    )
    assert secret_keys("db", inputs) == ["a", "b"]
    assert secret_keys("other", inputs) is None
    supplies = supply([use(None)], [], {}, inputs, Path())
    assert supplies.secrets == {"db": {"a": None, "b": None}}


@pytest.mark.parametrize(
    ("own", "services", "to_do", "notes"),
    [
        ([use("password")], [], 0, 0),
        ([use("url")], [], 1, 0),
        ([use("x", "DATABASE_URL")], [], 1, 0),
        ([use("username")], [], 0, 1),
        ([use("username")], [use("username")], 0, 0),
        ([use("username")], [use(None)], 0, 0),
        ([], [use("url")], 0, 0),
    ],
)
def test_random_values_that_will_not_do(own: list[Use], services: list[Use], to_do: int, notes: int) -> None:
    supplies = supply(own, services, {}, make_inputs("the input", []), Path())
    assert (len(supplies.to_do), len(supplies.notes)) == (to_do, notes)


def test_values_of_a_binding_are_those_of_the_service() -> None:
    supplies = supply(
        [use("host"), use("password")], [], {"db": {"host": "postgres", "port": "5432"}}, make_inputs("i", []), Path()
    )
    assert (supplies.secrets, supplies.to_do) == ({"db": {"host": "postgres", "password": None}}, [])


@pytest.mark.timeout(120)
@pytest.mark.parametrize("part", ['"\\', "psql ", "curl -", "wget "])
def test_a_long_script_takes_no_square_of_its_length(part: str) -> None:
    only_waits({"image": "busybox", "command": ["sh", "-c", part * 30_000]})
