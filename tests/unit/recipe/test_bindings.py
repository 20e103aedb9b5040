"""Values of Secrets that `init` makes from the services of the build, and the services that only Secrets name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from warmstart.recipe.init.inputs import make_inputs
from warmstart.recipe.init.manifest import InitOptions, propose_recipe
from warmstart.recipe.init.text import Proposal

Block = dict[str, Any]


def from_secret(secret: str, *keys: str) -> list[Block]:
    return [{"name": key, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}} for key in keys]


def workload(name: str, image: str, **block: Any) -> Block:
    template = {
        "metadata": {"labels": {"app": name}},
        "spec": {"containers": [{"name": name, "image": image, **block}]},
    }
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {"template": template}}


def service(name: str, port: int) -> Block:
    spec = {"selector": {"app": name}, "ports": [{"port": port}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def propose(env: list[Block], *others: Block) -> Proposal:
    shop = workload("shop", "registry.test/shop:1", env=env, ports=[{"containerPort": 8080}])
    return propose_recipe(make_inputs("the input", [shop, *others], chosen=shop), InitOptions(None, Path()))


POSTGRES = (workload("pg", "postgres:17", env=from_secret("account", "POSTGRES_PASSWORD")), service("pg", 5432))
MYSQL = (
    workload(
        "db", "mysql:8", env=[{"name": "MYSQL_ROOT_PASSWORD", "value": "p/w"}, {"name": "MYSQL_DATABASE", "value": "d"}]
    ),
    service("db", 3306),
)
REDIS = (workload("cache", "redis:8"), service("cache", 6379))
ASKING_ENV = from_secret("account", "REDIS_PASSWORD")
ASKING = (workload("in", "redis:8", args=["--requirepass", "$(REDIS_PASSWORD)"], env=ASKING_ENV), service("in", 6379))
RABBIT = (workload("mq", "rabbitmq:4"), service("mq", 5672))
OWN_IMAGE = (workload("accounts", "registry.test/accounts", ports=[{"containerPort": 5432}]), service("accounts", 5432))
MONGO_ENV = [{"name": f"MONGO_INITDB_ROOT_{part}", "value": part[:4].lower()} for part in ("USERNAME", "PASSWORD")]
MONGO = (workload("docs", "mongo:8", env=MONGO_ENV), service("docs", 27017))


@pytest.mark.parametrize(
    ("variable", "others", "value"),
    [
        ("POSTGRES_HOST", POSTGRES, "pg"),
        ("mysqlHost", MYSQL, "db"),
        ("DB_PORT", MYSQL, '"3306"'),
        ("REDIS_ADDR", REDIS, "cache:6379"),
        ("DATABASE_URL", POSTGRES, "postgresql://postgres:build-only@pg:5432/postgres"),
        ("DATABASE_URL", MYSQL, "mysql://root:p%2Fw@db:3306/d"),
        ("SPRING_DATASOURCE_URL", MYSQL, "jdbc:mysql://db:3306/d"),
        ("REDIS_URL", REDIS, "redis://cache:6379"),
        ("REDIS_URL", ASKING, "redis://:build-only@in:6379"),
        ("RABBITMQ_URL", RABBIT, "amqp://guest:guest@mq:5672"),
        ("PGHOST", OWN_IMAGE, "accounts"),
        ("MONGO_URI", MONGO, "mongodb://user:pass@docs:27017/?authSource=admin"),
    ],
)
def test_a_secret_says_where_a_service_of_the_build_is(variable: str, others: tuple[Block, ...], value: str) -> None:
    made = propose(from_secret("own", variable), *others)
    assert made.to_do == ()
    assert f"{variable}: {value}\n" in made.text
    assert f"- name: {others[1]['metadata']['name']}\n" in made.text


def test_the_service_gets_the_password_of_the_address() -> None:
    made = propose(from_secret("own", "DATABASE_URL"), *POSTGRES)
    assert "account:\n      POSTGRES_PASSWORD: build-only\n" in made.text


@pytest.mark.parametrize(
    ("variable", "others"),
    [
        ("DATABASE_URL", REDIS),
        ("DATABASE_URL", (*POSTGRES, *MYSQL)),
        ("STRIPE_URL", POSTGRES),
        ("R2DBC_DATABASE_URL", POSTGRES),
        ("REDIS_URL", (workload("cache", "redis:8", args=["--requirepass", "x"]), service("cache", 6379))),
        ("REDIS_URL", (workload("cache", "redis:8", env=ASKING_ENV), service("cache", 6379))),
        ("DATABASE_URL", (workload("pg", "registry.test/own:1"), service("pg", 5432))),
    ],
)
def test_an_address_that_nothing_is_known_of_stays_a_task(variable: str, others: tuple[Block, ...]) -> None:
    (reason,) = propose(from_secret("own", variable), *others).to_do
    assert reason.startswith(f"a random text will hardly do for {variable} of Secret/own")


def test_keys_of_a_whole_secret() -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "own"}, "stringData": {"REDIS_URL": "real"}}
    shop = workload("shop", "s:1", envFrom=[{"secretRef": {"name": "own"}}], ports=[{"containerPort": 80}])
    inputs = make_inputs("the input", [shop, secret, *REDIS], chosen=shop)
    made = propose_recipe(inputs, InitOptions(None, Path()))
    assert (made.to_do, "real" in made.text) == ((), False)
    assert "REDIS_URL: redis://cache:6379\n" in made.text


def test_services_that_share_a_secret_are_found_once() -> None:
    env = [{"name": "HOSTS", "value": "redis://redis0,redis1,redis2"}, *from_secret("own", "PASSWORD")]
    names = [f"redis{number}" for number in range(24)]
    services = [made for name in names for made in (workload(name, "redis:8", env=env), service(name, 6379))]
    made = propose(env, *services)
    assert made.to_do == ()
    assert sorted(line.strip() for line in made.text.splitlines() if line.startswith("    - name: redis")) == sorted(
        f"- name: {name}" for name in names
    )


@pytest.mark.parametrize(("ports", "number"), [([], 8080), ([{"containerPort": 9000}], 9000)])
def test_a_service_of_knative_has_its_port(ports: list[Block], number: int) -> None:
    shop = workload("shop", "s:1", ports=ports)
    shop |= {"apiVersion": "serving.knative.dev/v1", "kind": "Service"}
    made = propose_recipe(make_inputs("the input", [shop], chosen=shop), InitOptions(None, Path()))
    assert made.to_do == ()
    assert f"port: {number}\n" in made.text
    assert f'- name: PORT\n      value: "{number}"\n' in made.text


@pytest.mark.parametrize(
    ("variable", "value", "image"),
    [
        ("REDIS_URL", "redis://redis:6379", "redis:8"),
        ("RABBITMQ_URL", "amqp://guest:guest@rabbitmq:5672", "rabbitmq:4"),
        ("POSTGRES_HOST", "postgresql", "postgres:17"),
    ],
)
def test_a_service_that_only_a_secret_names_is_proposed(variable: str, value: str, image: str) -> None:
    made = propose(from_secret("own", variable))
    told = [*made.to_do, *made.notes]
    assert any("the input has no workload for it" in text and f"{variable} of Secret/own" in text for text in told)
    # The account of a database is unknown: its service stays an example.
    assert bool(made.to_do) == image.startswith("postgres")
    assert f"{variable}: {value}\n" in made.text
    assert f"image: docker.io/library/{image}\n" in made.text + "".join(made.stanzas)


def test_no_service_is_proposed_twice_or_without_an_image() -> None:
    env = [{"name": "REDIS_HOST", "value": "cache"}, *from_secret("own", "REDIS_URL", "MSSQL_HOST", "DATABASE_URL")]
    made = propose(env)
    assert [reason[:40] for reason in made.to_do] == [
        "a random text will hardly do for REDIS_U",
    ]
    assert made.text.count("image: docker.io/library/redis:8") == 1


LITERAL_ENV = [{"name": f"MYSQL_{part}", "value": f"my-{part.lower()}"} for part in ("USER", "PASSWORD", "DATABASE")]
LITERAL = (workload("db", "mysql:8", env=LITERAL_ENV), service("db", 3306))


@pytest.mark.parametrize(
    ("others", "values"),
    [
        (LITERAL, ["DB_USER: my-user", "DB_PASSWORD: my-password", "DB_NAME: my-database"]),
        (POSTGRES, ["DB_USER: postgres", "DB_PASSWORD: build-only", "POSTGRES_PASSWORD: build-only"]),
        ((workload("db", "mysql:8", env=from_secret("own", "MYSQL_PASSWORD")), service("db", 3306)), ["DB_USER: root"]),
    ],
)
def test_the_application_has_the_account_of_the_service(others: tuple[Block, ...], values: list[str]) -> None:
    made = propose(from_secret("own", "DB_HOST", "DB_USER", "DB_PASSWORD", "DB_NAME"), *others)
    for value in values:
        assert f"      {value}\n" in made.text


def test_an_account_of_one_key_is_random() -> None:
    others = (workload("pg", "postgres:17", env=from_secret("own", "POSTGRES_PASSWORD")), service("pg", 5432))
    made = propose(from_secret("own", "DB_HOST", "POSTGRES_PASSWORD", "DB_ROOT_PASSWORD"), *others)
    assert "POSTGRES_PASSWORD: null\n" in made.text
    assert "DB_ROOT_PASSWORD: null\n" in made.text
