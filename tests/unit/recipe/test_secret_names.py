"""Literal values that are probably secrets, and those that are not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.recipe.secret_names import Suspect, find_suspects, secret_reason

SECRETS = [
    ("DB_PASSWORD", "hunter2"),
    ("DB_PASS", "1234"),
    ("PGPASSWORD", "x"),
    ("MYSQL_PWD", "x"),
    ("DBPASS", "x"),
    ("spring.datasource.password", "x"),
    ("clientSecret", "x"),
    ("Jwt__SigningKey", "aGVsbG8"),
    ("SECRET_KEY_BASE", "0123456789abcdef"),
    ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG"),
    ("API_KEY", "abc"),
    ("APIKEY", "abc"),
    ("GITHUB_TOKEN", "ghp_x"),
    ("API_TOKENS", "a,b"),
    ("GOOGLE_CREDENTIALS", "{}a"),
    ("DATABASE_URL", "postgres://shop:hunter2@db:5432/shop"),
    ("REDIS_URL", "redis://:hunter2@redis:6379"),
    ("DATABASE_URL", "postgres://shop:hunter2@$(DB_HOST):5432/shop"),
    ("SPRING_DATASOURCE_URL", "jdbc:postgresql://db/shop?user=shop&password=hunter2"),
    ("ConnectionStrings__Default", "Server=db;Database=shop;User Id=sa;Password=hunter2;"),
    ("STORAGE", "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=abc==;"),
    ("SPRING_APPLICATION_JSON", '{"spring": {"datasource": {"password": "hunter2"}}}'),
    ("JAVA_TOOL_OPTIONS", "-Dspring.datasource.password=hunter2 -Xmx1g"),
    ("TLS", "-----BEGIN RSA PRIVATE KEY-----\nabc"),
    ("DB_PASSWORD", "/hunter2=="),
]

HARMLESS = [
    ("DB_PASSWORD", ""),
    ("DB_PASSWORD", "$(OTHER)"),
    ("DB_PASSWORD", "${OTHER}"),
    ("DB_PASSWORD", "<password>"),
    ("DB_PASSWORD_FILE", "/run/secrets/db"),
    ("DB_PASSWORD", "/run/secrets/db"),
    ("SECRET_NAME", "shop-db"),
    ("TOKEN_TTL", "3600"),
    ("MAX_TOKENS", "4096"),
    ("USE_PASSWORD", "true"),
    ("AWS_ACCESS_KEY_ID", "AKIA"),
    ("KEYCLOAK_URL", "http://keycloak"),
    ("JWT_PUBLIC_KEY", "abc"),
    ("PRIMARY_KEY", "id"),
    ("BYPASS", "x"),
    ("COMPASS_MODE", "x"),
    ("PWD", "/app"),
    ("PASSENGER_APP_ENV", "production"),
    ("KEY_PREFIX", "shop"),
    ("SPRING_PROFILES_ACTIVE", "prod"),
    ("DATABASE_URL", "postgres://db:5432/shop"),
    ("DATABASE_URL", "postgres://shop@db:5432/shop"),
    ("DATABASE_URL", "postgres://$(USER):$(PASS)@db:5432/shop"),
    ("DATABASE_URL", "postgres://shop:${PASS}@db:5432/shop"),
    ("SPRING_DATASOURCE_URL", "jdbc:postgresql://db/shop?user=shop&password=$(PASS)"),
    ("JAVA_TOOL_OPTIONS", "-Dspring.datasource.password=${PASS} -Xmx1g"),
    ("ISSUER", "https://sso.example.com:8443/realms/shop"),
]


@pytest.mark.parametrize(("name", "value"), SECRETS)
def test_a_secret_is_found(name: str, value: str) -> None:
    reason = secret_reason(name, value)
    assert reason
    assert value not in reason


@pytest.mark.parametrize(("name", "value"), HARMLESS)
def test_an_ordinary_value_is_not(name: str, value: str) -> None:
    assert secret_reason(name, value) == ""


def test_the_variables_of_a_container() -> None:
    env = [
        {"name": "MODE", "value": "prod"},
        {"name": "DB_PASSWORD", "value": "hunter2"},
        {"name": "API_TOKEN", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}},
    ]
    assert list(find_suspects(env)) == [
        Suspect(("container", "env", 1, "value"), "DB_PASSWORD", "its name says PASSWORD")
    ]


@given(st.text(max_size=30), st.text(max_size=80) | st.from_regex(r"(pass|token|://|:|@|=|\$\()+", fullmatch=True))
def test_anything_has_a_reason_or_none(name: str, value: str) -> None:
    assert isinstance(secret_reason(name, value), str)


@given(
    st.recursive(
        st.none() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["name", "value"]), inner),
    )
)
def test_any_structure_is_searched(env: object) -> None:
    assert all(isinstance(found, Suspect) for found in find_suspects(env))


@pytest.mark.parametrize("piece", ["$(", "${", "{{", "<", "a://", "password=", "password:", "/a", "://a:", "A_KEY_"])
def test_a_long_value_takes_no_square_of_its_length(piece: str) -> None:
    assert isinstance(secret_reason(piece * 100_000, piece * 100_000), str)
