"""Options that several commands share."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from warmstart.node.network import Network
from warmstart.recipe.model import AllowedSecret, OnSecret, SecretSearch
from warmstart.recipe.pods import SeveralContainersError
from warmstart.recipe.secret_files import read_values

network_option = click.option(
    "--network",
    type=click.Choice([network.value for network in Network]),
    default=Network.NONE.value,
    show_default=True,
    help="Network of the container on the embedded node: none, or outside through this machine.",
)

secret_option = click.option(
    "--secret",
    "secrets",
    multiple=True,
    metavar="NAME.KEY=FILE",
    help="Read the build's value of a Secret from FILE.",
)

recipe_option = click.option(
    "--recipe",
    "own",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Trust this recipe instead of the one in IMAGE.",
)

trusted_root_option = click.option(
    "--trusted-root",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="WARMSTART_TRUSTED_ROOT",
    metavar="FILE",
    help="Keys of the Sigstore of signatures without a key.  [default: the public one's, fetched]",
)

# A file of this name is ./keyless.
KEYLESS = "keyless"

# Names are cosign's, without `certificate_`; with each, the variable, the metavar and the help.
_IDENTITY_OPTIONS = {
    "identity": (
        "WARMSTART_CERTIFICATE_IDENTITY",
        "IDENTITY",
        "Refuse the image unless this identity signed it without a key.",
    ),
    "identity_regexp": (
        "WARMSTART_CERTIFICATE_IDENTITY_REGEXP",
        "REGEXP",
        "As --certificate-identity, for identities in which REGEXP is found.",
    ),
    "oidc_issuer": ("WARMSTART_CERTIFICATE_OIDC_ISSUER", "URL", "Issuer of the identity."),
    "oidc_issuer_regexp": (
        "WARMSTART_CERTIFICATE_OIDC_ISSUER_REGEXP",
        "REGEXP",
        "As --certificate-oidc-issuer, for issuers in which REGEXP is found.",
    ),
}


def sign_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --sign and the options of signatures without a key; read and passed to the command as `signer`."""

    @functools.wraps(function)
    def command(
        *args: Any,
        sign: str | None,
        identity_token: Path | None,
        signing_config: Path | None,
        trusted_root: Path | None,
        **options: Any,
    ) -> Any:
        from warmstart.image.signatures.keyless import Signer, make_keyless_signer
        from warmstart.image.signatures.keys import read_signing_key

        signer: Signer | None = None
        if sign == KEYLESS:
            signer = make_keyless_signer(identity_token, signing_config, trusted_root)
        elif sign is not None:
            signer = read_signing_key(Path(sign))
        return function(*args, signer=signer, **options)

    for option in (
        trusted_root_option,
        click.option(
            "--signing-config",
            type=click.Path(path_type=Path, dir_okay=False),
            envvar="WARMSTART_SIGNING_CONFIG",
            metavar="FILE",
            help="Addresses of a private Sigstore, for --sign keyless; with --trusted-root.",
        ),
        click.option(
            "--identity-token",
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE",
            help="Read the identity token of --sign keyless from FILE.  [default: the CI job's]",
        ),
        click.option(
            "--sign",
            metavar="KEY|keyless",
            help="Sign the image, with this private key (password: COSIGN_PASSWORD) or with the CI job's identity.",
        ),
    ):
        command = option(command)
    return command


def encryption_key_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --encryption-key, read and passed to the command as `encryption_keys`."""

    @functools.wraps(function)
    def command(*args: Any, encryption_key: tuple[str, ...], **options: Any) -> Any:
        from warmstart.image.encryption import parse_encryption_key

        return function(*args, encryption_keys=tuple(map(parse_encryption_key, encryption_key)), **options)

    return click.option(
        "--encryption-key",
        multiple=True,
        metavar="PROTOCOL:FILE",
        help="Encrypt the layers of the memory for this recipient: jwe:PUBLIC_KEY or pkcs7:CERTIFICATE.",
    )(command)


def secrets_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --secrets, --values and --allow-secret, read and passed to the command as `search`."""

    @functools.wraps(function)
    def command(
        *args: Any, on_secret: str, values: tuple[Path, ...], allow_secret: tuple[AllowedSecret, ...], **options: Any
    ) -> Any:
        real = tuple(one for file in values for one in read_values(file))
        return function(*args, search=SecretSearch(OnSecret(on_secret), real, allow_secret), **options)

    for option in (
        click.option(
            "--allow-secret",
            multiple=True,
            callback=lambda _, __, given: tuple(map(_parse_allowed, given)),
            metavar="KIND[:PLACE]=REASON",
            help="Accept secrets of this kind in the image, for this reason.",
        ),
        click.option(
            "--values",
            multiple=True,
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE",
            help="Values that must not be in the image, one a line or NAME=VALUE.",
        ),
        click.option(
            "--secrets",
            "on_secret",
            type=click.Choice([str(one) for one in OnSecret]),
            default=str(OnSecret.AUTO),
            show_default=True,
            help="Answer to secrets in the image; auto refuses those of --values and warns of others.",
        ),
    ):
        command = option(command)
    return command


def _parse_allowed(text: str) -> AllowedSecret:
    what, _, reason = text.partition("=")
    kind, _, place = what.partition(":")
    if not kind.strip() or not reason.strip():
        raise click.BadParameter(f"{text!r}: expected KIND=REASON or KIND:PLACE=REASON, such as jwt=only samples")
    return AllowedSecret(kind.strip(), reason.strip(), place=place.strip() or "*")


def key_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --key and --certificate-*, which can be a machine's rule; read and passed to the command as `signed`."""
    return _add_trust(function, rule=True)


def look_key_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --key and --certificate-* to a command that only shows an image, and may show any."""
    return _add_trust(function, rule=False)


def _add_trust(function: Callable[..., Any], *, rule: bool) -> Callable[..., Any]:
    @functools.wraps(function)
    def command(*args: Any, key: tuple[Path, ...], trusted_root: Path | None, **options: Any) -> Any:
        from warmstart.image.signatures.check import Trust
        from warmstart.image.signatures.identity import parse_identity
        from warmstart.image.signatures.keys import read_public_key

        wanted = {name: options.pop(f"certificate_{name}") for name in _IDENTITY_OPTIONS}
        identity = parse_identity(**wanted, trusted_root=trusted_root)
        signers = (*map(read_public_key, key), *((identity,) if identity else ()))
        return function(*args, signed=Trust(signers), **options)

    command = trusted_root_option(command)
    for name, (variable, metavar, text) in reversed(_IDENTITY_OPTIONS.items()):
        option = f"--certificate-{name.replace('_', '-')}"
        command = click.option(option, envvar=variable if rule else None, metavar=metavar, help=text)(command)
    return click.option(
        "--key",
        multiple=True,
        type=click.Path(path_type=Path, dir_okay=False),
        envvar="WARMSTART_KEY" if rule else None,
        metavar="PUBLIC_KEY",
        help="Refuse the image unless this key, another --key, or --certificate-identity signed it.",
    )(command)


def cluster_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which cluster, and where in it: `context` and `namespace`."""
    function = click.option("-n", "--namespace", help="Namespace.  [default: the context's]")(function)
    return click.option("--context", metavar="NAME", help="Context of the kubeconfig.  [default: the current one]")(
        function
    )


@contextlib.contextmanager
def hint_at_container() -> Iterator[None]:
    """Name the option `--container` in the error of a manifest with several containers."""
    try:
        yield
    except SeveralContainersError as error:
        error.hint = "choose one with --container"
        raise
