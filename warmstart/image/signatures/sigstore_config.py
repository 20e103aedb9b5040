"""The configuration of a deployment of Sigstore: the addresses of its services, and their keys.

Formats: https://github.com/sigstore/protobuf-specs/blob/main/protos/sigstore_trustroot.proto.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from warmstart.core.errors import InputError, SigningError

_TYPE = "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json"
_ANY = {"selector": "ANY"}
_NO_SERVICES = {
    "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
    **{key: [] for key in ("caUrls", "oidcUrls", "rekorTlogUrls", "tsaUrls")},
    **dict.fromkeys(("rekorTlogConfig", "tsaConfig"), _ANY),
}


def load_public_config() -> Any:
    """Fetch the configuration of the public Sigstore, with The Update Framework; it is cached in the home directory.

    Raises:
        SigningError: it cannot be fetched.
        HostError: the package is not installed.
    """
    from warmstart.image.signatures import sigstore_package as p

    try:
        return p.ClientTrustConfig.production()
    except Exception as error:
        raise SigningError(
            "cannot fetch the trusted root of the public Sigstore",
            details=[flatten(error)],
            hint="give a file of `cosign trusted-root create` with --trusted-root",
        ) from error


def load_config(trusted_root: Path, signing_config: Path | None = None) -> Any:
    """Return the configuration in two files, as a `ClientTrustConfig`; without the second, it has no services.

    Raises:
        InputError: a file cannot be read, or is not understood.
        HostError: the package is not installed.
    """
    from warmstart.image.signatures import sigstore_package as p

    try:
        root = json.loads(trusted_root.read_bytes())
        for authority in (*root["certificateAuthorities"], *root.get("timestampAuthorities", ())):
            # cosign leaves out what the certificate does not have; the package wants both, and uses neither.
            authority["subject"] = {"organization": "", "commonName": "", **authority.get("subject", {})}
        services = json.loads(signing_config.read_bytes()) if signing_config else _NO_SERVICES
        document = {"mediaType": _TYPE, "trustedRoot": root, "signingConfig": services}
        config = p.ClientTrustConfig.from_json(json.dumps(document))
        # Each part is parsed when it is asked for.
        _ = config.trusted_root.get_fulcio_certs(), signing_config and config.signing_config
    except Exception as error:
        files = f"{signing_config} with {trusted_root}" if signing_config else str(trusted_root)
        raise InputError(
            f"cannot use {files}: {flatten(error):.200}",
            hint="`cosign trusted-root create` and `cosign signing-config create` make such files",
        ) from error
    return config


def flatten(error: BaseException) -> str:
    """Return the text of an error on one line; its kind if it has none."""
    return " ".join(str(error).split()) or type(error).__name__
