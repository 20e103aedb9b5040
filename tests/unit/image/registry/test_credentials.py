import json
import stat
from base64 import b64encode
from pathlib import Path

import pytest

from warmstart.core.errors import RegistryError
from warmstart.core.reference import parse_reference
from warmstart.image.registry.credentials import Credentials, find_credentials, search_credentials

REFERENCE = parse_reference("reg.example.com:5000/team/app:1.0")


def entry(user: str, password: str = "secret") -> dict:
    return {"auth": b64encode(f"{user}:{password}".encode()).decode()}


def write(path: Path, **document: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def write_auths(path: Path, user: str) -> Path:
    return write(path, auths={REFERENCE.registry: entry(user)})


@pytest.fixture
def home() -> Path:
    return Path.home()


def user_of(reference=REFERENCE, auth_file=None) -> str | None:
    found = find_credentials(reference, auth_file)
    return found and found.username


def test_the_files_are_looked_at_in_the_order_of_the_containers_tools(home, tmp_path, monkeypatch):
    assert user_of() is None
    write_auths(home / ".docker/config.json", "docker")
    assert user_of() == "docker"
    write_auths(home / ".config/containers/auth.json", "config")
    assert user_of() == "config"
    write_auths(home / "run/containers/auth.json", "run")
    assert user_of() == "run"
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(write_auths(tmp_path / "env.json", "env")))
    assert user_of() == "env"
    assert user_of(auth_file=write_auths(tmp_path / "explicit.json", "explicit")) == "explicit"


def test_the_directories_of_the_environment_are_used(home, tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    write_auths(tmp_path / "docker/config.json", "docker")
    assert user_of() == "docker"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    write_auths(tmp_path / "xdg/containers/auth.json", "config")
    assert user_of() == "config"


def test_an_explicit_file_is_the_only_one(home, tmp_path, monkeypatch):
    write_auths(home / ".docker/config.json", "docker")
    assert user_of(auth_file=write(tmp_path / "empty.json", auths={})) is None
    with pytest.raises(RegistryError, match=r"nothere.json: no such credentials file"):
        find_credentials(REFERENCE, tmp_path / "nothere.json")
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "nothere.json"))
    search = search_credentials(REFERENCE)
    assert search.credentials is None
    assert search.looked_at == (f"{tmp_path}/nothere.json: does not exist",)


def test_a_file_without_an_entry_lets_the_next_one_be_read(home):
    write(home / "run/containers/auth.json", auths={"other.example.com": entry("other")})
    write_auths(home / ".docker/config.json", "docker")
    search = search_credentials(REFERENCE)
    assert search.credentials == Credentials(
        "docker", "secret", source=f"{home}/.docker/config.json (reg.example.com:5000)"
    )
    assert search.looked_at == (
        f"{home}/run/containers/auth.json: no entry for reg.example.com:5000",
        f"{home}/.config/containers/auth.json: does not exist",
        f"{home}/.docker/config.json: an entry for reg.example.com:5000, user docker",
    )


@pytest.mark.parametrize(
    ("name", "user"),
    [
        ("reg.io/team/app", "app"),
        ("reg.io/team/app/deeper", "app"),
        ("reg.io/team/other", "team"),
        ("reg.io/teammate", "registry"),
        ("reg.io:443/team/app", None),
        ("nothere.io/team/app", None),
        ("docker.io/library/alpine", "hub"),
        ("old.io/team/app", "url"),
        ("narrow.io/other", None),
    ],
)
def test_the_most_specific_key_wins(tmp_path, name, user):
    keys = {
        "reg.io": "registry",
        "reg.io/team": "team",
        "reg.io/team/app": "app",
        "https://index.docker.io/v1/": "hub",
        "https://old.io/v2/": "url",
        "narrow.io/team": "narrow",
    }
    file = write(tmp_path / "auth.json", auths={key: entry(user) for key, user in keys.items()})
    assert user_of(parse_reference(name), file) == user


def test_secrets_are_not_shown():
    shown = repr(Credentials("me", "secret1", "secret2"))
    assert "me" in shown
    assert "secret" not in shown


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (entry("me", "a:b"), ("me", "a:b", "")),
        (entry("me", "zeros\0\0"), ("me", "zeros", "")),
        ({"username": "me", "password": "pw"}, ("me", "pw", "")),
        ({"auth": entry("me", "")["auth"], "identitytoken": "tok"}, ("me", "", "tok")),
        ({"identitytoken": "tok"}, ("", "", "tok")),
    ],
)
def test_the_forms_of_an_entry(tmp_path, given, expected):
    found = find_credentials(REFERENCE, write(tmp_path / "a.json", auths={REFERENCE.registry: given}))
    assert (found.username, found.password, found.identity_token) == expected


@pytest.mark.parametrize("given", ["x", {"auth": "€"}, {"auth": "bWU="}, {"auth": 1}, {"username": ["me"]}])
def test_a_broken_entry_is_named(tmp_path, given):
    file = write(tmp_path / "a.json", auths={REFERENCE.registry: given})
    with pytest.raises(RegistryError, match=r"a.json: the entry for reg.example.com:5000 is broken"):
        find_credentials(REFERENCE, file)


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "[" * 100_000, '{"auths": [1]}', '{"credsStore": {"a": 1}}', '{"credHelpers": "x"}'],
)
def test_a_broken_file_is_named(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(RegistryError, match=r"a.json"):
        find_credentials(REFERENCE, tmp_path / "a.json")


def test_an_empty_file_holds_nothing(tmp_path):
    (tmp_path / "a.json").write_text("")
    assert user_of(auth_file=tmp_path / "a.json") is None


@pytest.fixture
def helper(tmp_path, monkeypatch):
    """Makes docker-credential-NAME, a program that notes its arguments and its input and then runs a script."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")

    def make(name: str, script: str) -> Path:
        program = tmp_path / "bin" / f"docker-credential-{name}"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\n(echo "$*"; cat) > {tmp_path}/asked\n{script}\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return tmp_path / "asked"

    return make


def test_a_helper_is_asked(tmp_path, helper):
    asked = helper("vault", """echo '{"ServerURL": "x", "Username": "me", "Secret": "pw"}'""")
    helpers = {REFERENCE.registry: "vault"}
    file = write(tmp_path / "a.json", credHelpers=helpers, auths={REFERENCE.registry: entry("unused")})
    found = find_credentials(REFERENCE, file)
    assert found == Credentials("me", "pw", source=f"{file} (docker-credential-vault)")
    assert asked.read_text() == "get\nreg.example.com:5000"


def test_a_store_is_asked_for_what_has_an_empty_entry(tmp_path, helper):
    asked = helper("vault", """echo '{"Username": "<token>", "Secret": "tok"}'""")
    file = write(tmp_path / "a.json", credsStore="vault", auths={"https://index.docker.io/v1/": {}})
    found = find_credentials(parse_reference("alpine"), file)
    assert (found.username, found.password, found.identity_token) == ("", "", "tok")
    assert asked.read_text() == "get\nhttps://index.docker.io/v1/"


def test_a_helper_that_has_nothing_is_told_of_and_passed_over(tmp_path, helper):
    helper("vault", "echo credentials not found in native keychain; exit 1")
    search = search_credentials(REFERENCE, write(tmp_path / "a.json", credsStore="vault"))
    assert search.credentials is None
    assert "docker-credential-vault has nothing" in search.looked_at[0]
    assert "credentials not found in native keychain" in search.looked_at[0]


def test_a_helper_that_is_not_there_is_told_of_and_passed_over(tmp_path):
    search = search_credentials(REFERENCE, write(tmp_path / "a.json", credsStore="absent"))
    assert search.credentials is None
    assert "docker-credential-absent is not installed" in search.looked_at[0]


@pytest.mark.parametrize("said", ["hello", "[]", "{}", "null"])
def test_a_helper_that_talks_nonsense_is_named(tmp_path, helper, said):
    helper("vault", f"echo '{said}'")
    with pytest.raises(RegistryError, match="docker-credential-vault returned invalid output"):
        find_credentials(REFERENCE, write(tmp_path / "a.json", credsStore="vault"))


@pytest.mark.parametrize("name", ["../../evil", "/bin/evil", "a b", "-\n", "", {"a": 1}, 7, "x/y", "\0"])
@pytest.mark.parametrize("key", ["credsStore", "credHelpers"])
def test_a_helper_is_a_program_in_path_and_no_other(tmp_path, key, name):
    """The name goes behind docker-credential-, where a slash would lead to any program."""
    asked = tmp_path / "asked"
    program = tmp_path / "bin" / "evil"
    (tmp_path / "bin" / "docker-credential-..").mkdir(parents=True)
    program.write_text(f"#!/bin/sh\ntouch {asked}\n")
    program.chmod(0o700)
    value = name if key == "credsStore" else {REFERENCE.registry: name}
    file = write(tmp_path / "a.json", **{key: value})
    if name == "":
        assert find_credentials(REFERENCE, file) is None
        return
    with pytest.raises(RegistryError, match=r"a\.json.* is not a credential(s file| helper's name)"):
        find_credentials(REFERENCE, file)
    assert not asked.exists()


def test_a_helper_that_never_stops_writing_is_an_error(tmp_path, helper):
    helper("vault", "exec yes")
    file = write(tmp_path / "a.json", credHelpers={REFERENCE.registry: "vault"})
    with pytest.raises(RegistryError, match="helper docker-credential-vault was stopped after it wrote more than"):
        find_credentials(REFERENCE, file)
