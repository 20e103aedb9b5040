"""The admission policies in the docs have the fields of their custom resource definitions, which drop all others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

PAGE = Path(__file__).parents[2] / "docs/how-to/signatures.md"

TEXT = {"type": "string"}
FLAG = {"type": "boolean"}
PEM = {"type": "string", "pattern": r"^-----BEGIN PUBLIC KEY-----\n"}


def fields(required: str = "", /, **properties: Any) -> dict[str, Any]:
    """Return the schema of an object with these fields and no others."""
    return {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "required": required.split(),
    }


def one_of(names: str, /, **properties: Any) -> dict[str, Any]:
    """Return the same for an object with exactly one of these fields."""
    return {**fields("", **properties), "oneOf": [{"required": [name]} for name in names.split()]}


def many(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


def document(version: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    return fields(
        "apiVersion kind metadata spec",
        apiVersion={"const": version},
        kind={"const": kind},
        metadata=fields("name", name=TEXT),
        spec=spec,
    )


# https://github.com/kyverno/kyverno: api/kyverno/v1/image_verification_types.go, since 1.13.
SECRET = fields("name namespace", name=TEXT, namespace=TEXT)
KEYS = fields(
    publicKeys=PEM,
    signatureAlgorithm=TEXT,
    kms=TEXT,
    secret=SECRET,
    rekor=fields(url=TEXT, pubkey=TEXT, ignoreTlog=FLAG),
    ctlog=fields(ignoreSCT=FLAG, pubkey=TEXT, tsaCertChain=TEXT),
)
KEYLESS = fields(
    "issuer subject",
    rekor=fields(url=TEXT, pubkey=TEXT, ignoreTlog=FLAG),
    ctlog=fields(ignoreSCT=FLAG, pubkey=TEXT, tsaCertChain=TEXT),
    issuer=TEXT,
    issuerRegExp=TEXT,
    subject=TEXT,
    subjectRegExp=TEXT,
    roots=TEXT,
    additionalExtensions={"type": "object"},
)
ATTESTORS = many(
    fields(
        "entries",
        count={"type": "integer", "minimum": 1},
        entries=many(one_of("keys keyless", keys=KEYS, keyless=KEYLESS, repository=TEXT)),
    )
)
VERIFY_IMAGES = one_of(
    "attestors attestations",
    failureAction={"enum": ["Audit", "Enforce"]},
    type={"enum": ["Cosign", "SigstoreBundle", "Notary"]},
    imageReferences=many(TEXT),
    skipImageReferences=many(TEXT),
    attestors=ATTESTORS,
    attestations=many(fields("type", name=TEXT, type=TEXT, attestors=ATTESTORS)),
    repository=TEXT,
    cosignOCI11=FLAG,
    mutateDigest=FLAG,
    verifyDigest=FLAG,
    required=FLAG,
    useCache=FLAG,
)
RESOURCES = fields(kinds=many(TEXT), names=many(TEXT), namespaces=many(TEXT), operations=many(TEXT))
RULE = fields(
    "name match verifyImages",
    name=TEXT,
    match=fields(any=many(fields(resources=RESOURCES)), all=many(fields(resources=RESOURCES))),
    verifyImages=many(VERIFY_IMAGES),
)
KYVERNO = document("kyverno.io/v1", "ClusterPolicy", fields("rules", rules=many(RULE)))

# https://github.com/sigstore/policy-controller: config/300-clusterimagepolicy.yaml, of 0.13.
IDENTITY = fields("", issuer=TEXT, issuerRegExp=TEXT, subject=TEXT, subjectRegExp=TEXT)
AUTHORITY = one_of(
    "key keyless",
    name=TEXT,
    keyless=fields("identities", url=TEXT, identities=many(IDENTITY), trustRootRef=TEXT, insecureIgnoreSCT=FLAG),
    key=fields(data=PEM, hashAlgorithm=TEXT, kms=TEXT, secretRef=fields(name=TEXT, namespace=TEXT)),
    ctlog=fields(url=TEXT, trustRootRef=TEXT),
    attestations=many(fields("name predicateType", name=TEXT, predicateType=TEXT, policy={"type": "object"})),
    source=many(fields(oci=TEXT, tagPrefix=TEXT)),
    signatureFormat=TEXT,
)
POLICY_CONTROLLER = document(
    "policy.sigstore.dev/v1beta1",
    "ClusterImagePolicy",
    fields(
        "images authorities",
        images=many(fields("glob", glob=TEXT)),
        authorities=many(AUTHORITY),
        mode={"enum": ["enforce", "warn"]},
    ),
)


def read_policy(heading: str, *, keyless: bool) -> Any:
    """Return the policy below a heading of the page; without a key, with the part for that."""
    section = PAGE.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    policy, part = (YAML(typ="safe").load(text.split("\n```")[0]) for text in section.split("```yaml\n")[1:])
    changed = policy["spec"]["rules"][0] if "rules" in policy["spec"] else policy["spec"]
    assert part.keys() < changed.keys()
    changed.update(part if keyless else {})
    return policy


@pytest.mark.parametrize("keyless", [False, True], ids=["key", "keyless"])
@pytest.mark.parametrize(("heading", "schema"), [("Kyverno", KYVERNO), ("policy-controller", POLICY_CONTROLLER)])
def test_a_policy_has_only_known_fields(heading, schema, keyless):
    jsonschema.validate(read_policy(heading, keyless=keyless), schema)


@pytest.mark.parametrize("keyless", [False, True], ids=["key", "keyless"])
@pytest.mark.parametrize(("heading", "schema"), [("Kyverno", KYVERNO), ("policy-controller", POLICY_CONTROLLER)])
def test_a_field_in_a_wrong_place_would_be_found(heading, schema, keyless):
    policy = read_policy(heading, keyless=keyless)
    policy["spec"]["mutateDigest"] = False
    with pytest.raises(jsonschema.ValidationError, match="mutateDigest"):
        jsonschema.validate(policy, schema)
