"""Well-known services that applications need when they start: databases, caches, brokers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ServiceKind:
    """A kind of service.

    Attributes:
        name: its name for people.
        words: a regular expression for names of images, hosts and variables.
        schemes: schemes of URLs.
        port: its usual port.
        image: an image for a stand-in; empty if there is no obvious one.
        env: the variables that this image needs.
        login: the variables for a user besides root, and the password.
        fixed: variables with values that do not depend on the application; `{host}` stands for the service's name.
        check: the command that tells whether it is ready; an open port tells it if there is none.
    """

    name: str
    words: str
    schemes: tuple[str, ...]
    port: int
    image: str = ""
    env: tuple[tuple[str, str], ...] = ()
    check: tuple[str, ...] = ()
    login: tuple[str, ...] = ()
    fixed: tuple[tuple[str, str], ...] = ()


KINDS = (
    ServiceKind(
        "PostgreSQL", r"postgres|postgis|pgsql|psql|timescale|\bpg\b", ("postgresql", "postgres", "pgsql"), 5432,
        "docker.io/library/postgres:17",
        (("POSTGRES_USER", "USER"), ("POSTGRES_PASSWORD", "PASSWORD"), ("POSTGRES_DB", "DATABASE")),
        ("pg_isready", "-h", "127.0.0.1"),
    ),
    ServiceKind(
        "MySQL", r"mysql|percona", ("mysql", "mysql2"), 3306, "docker.io/library/mysql:8.4",
        (("MYSQL_ROOT_PASSWORD", "PASSWORD"), ("MYSQL_DATABASE", "DATABASE")),
        ("mysqladmin", "ping", "-h", "127.0.0.1"),
        ("MYSQL_USER", "MYSQL_PASSWORD"),
    ),
    ServiceKind(
        "MariaDB", r"maria", ("mariadb",), 3306, "docker.io/library/mariadb:11",
        (("MARIADB_ROOT_PASSWORD", "PASSWORD"), ("MARIADB_DATABASE", "DATABASE")),
        ("healthcheck.sh", "--connect"),
        ("MARIADB_USER", "MARIADB_PASSWORD"),
    ),
    ServiceKind("SQL Server", r"mssql|sql-?server|sqldata|azure-sql", ("sqlserver", "mssql"), 1433),
    ServiceKind("Oracle", r"oracle", ("oracle",), 1521),
    ServiceKind("MongoDB", r"mongo", ("mongodb",), 27017, "docker.io/library/mongo:8"),
    ServiceKind(
        "Redis", r"redis|valkey|keydb", ("redis", "rediss"), 6379, "docker.io/library/redis:8", (),
        ("redis-cli", "ping"),
    ),
    ServiceKind(
        "RabbitMQ", r"rabbit|amqp", ("amqp", "amqps"), 5672, "docker.io/library/rabbitmq:4", (),
        ("rabbitmq-diagnostics", "-q", "check_port_listener", "5672"),
    ),
    ServiceKind(
        "Kafka", r"kafka|redpanda", ("kafka",), 9092, "docker.io/apache/kafka:4.1.0",
        fixed=(
            ("KAFKA_NODE_ID", "1"),
            ("KAFKA_PROCESS_ROLES", "broker,controller"),
            ("KAFKA_LISTENERS", "PLAINTEXT://:9092,CONTROLLER://:9093"),
            ("KAFKA_ADVERTISED_LISTENERS", "PLAINTEXT://{host}:9092"),
            ("KAFKA_CONTROLLER_LISTENER_NAMES", "CONTROLLER"),
            ("KAFKA_LISTENER_SECURITY_PROTOCOL_MAP", "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT"),
            ("KAFKA_CONTROLLER_QUORUM_VOTERS", "1@127.0.0.1:9093"),
            ("KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR", "1"),
        ),
    ),
    ServiceKind("ZooKeeper", r"zookeeper|\bzk\b", ("zookeeper", "zk"), 2181, "docker.io/library/zookeeper:3.9"),
    ServiceKind(
        "Elasticsearch", r"elastic|opensearch", (), 9200, "docker.io/library/elasticsearch:8.19.0",
        fixed=(("discovery.type", "single-node"), ("xpack.security.enabled", "false")),
    ),
    ServiceKind("Memcached", r"memcache", ("memcached",), 11211, "docker.io/library/memcached:1.6"),
    ServiceKind("NATS", r"\bnats\b", ("nats",), 4222, "docker.io/library/nats:2"),
    ServiceKind("Cassandra", r"cassandra|scylla", ("cassandra",), 9042, "docker.io/library/cassandra:5"),
    ServiceKind("MinIO", r"minio", (), 9000),
    ServiceKind("etcd", r"\betcd\b", (), 2379),
    ServiceKind("ClickHouse", r"clickhouse", ("clickhouse",), 8123),
    ServiceKind("Neo4j", r"neo4j", ("bolt", "neo4j"), 7687),
    ServiceKind("InfluxDB", r"influx", (), 8086),
    ServiceKind("ActiveMQ", r"activemq|artemis", (), 61616),
    ServiceKind("CockroachDB", r"cockroach", (), 26257),
    ServiceKind("LDAP", r"\bldap", ("ldap", "ldaps"), 389),
    ServiceKind("Vault", r"vault", (), 8200),
    ServiceKind("Consul", r"consul", (), 8500),
    ServiceKind("Eureka", r"eureka", (), 8761),
    ServiceKind("Config Server", r"config-?server", (), 8888),
)  # fmt: skip
#: A database of an unknown kind, by the names of variables and hosts.
DATABASE = ServiceKind("a database", r"database|datasource|\bdb\b|(?<![a-z])db(?![a-z])|jdbc", ("jdbc",), 0)

_OF_DATABASES = ("PostgreSQL", "MySQL", "MariaDB", "SQL Server", "Oracle", "MongoDB", "CockroachDB")


def kind_of_image(image: str) -> ServiceKind | None:
    """Return the kind of the service that an image runs; None if it is none of these."""
    *path, last = image.partition("@")[0].split("/")
    repository = "/".join([*path, last.partition(":")[0]])
    if re.search(r"exporter|operator|admin|backup|metrics|-ui\b|commander|express|proxy", repository):
        return None
    name = repository.rpartition("/")[2].lower()
    return next((kind for kind in KINDS if re.search(kind.words, name)), None)


def kind_of_container(container: Mapping[str, Any]) -> ServiceKind | None:
    """Return the kind of the service that a container runs: by its image, else by the port that it names."""
    if (kind := kind_of_image(str(container.get("image", "")))) is not None:
        return kind
    ports = container.get("ports")
    numbers = [port.get("containerPort") for port in ports if isinstance(port, dict)] if isinstance(ports, list) else []
    return next((kind for kind in KINDS if kind.schemes and kind.port in numbers), None)


def kind_of_use(scheme: str, port: int | None, *names: str) -> ServiceKind | None:
    """Return the kind of service that is meant by an URL's scheme, a port, or the name of a host or of a variable."""
    if scheme and (found := next((kind for kind in KINDS if scheme in kind.schemes), None)):
        return found
    if port and (found := next((kind for kind in KINDS if port == kind.port), None)):
        return found
    if scheme.startswith("http"):
        return None
    text = " ".join(map(parted, names))
    return next((kind for kind in (*KINDS, DATABASE) if re.search(kind.words, text)), None)


def is_kind(kind: ServiceKind | None, wanted: ServiceKind) -> bool:
    """Tell whether a kind is the wanted one; any database is one of an unknown kind."""
    if kind is None or wanted is DATABASE:
        return kind is not None and kind.name in _OF_DATABASES
    return kind is wanted or {kind.name, wanted.name} == {"MySQL", "MariaDB"}


def parted(name: str) -> str:
    """Return a name in lower case, with hyphens between its words; those of libpq, such as PGHOST, have two."""
    name = re.sub(r"^PG(?=HOST|PORT)", "PG_", name)
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower())
