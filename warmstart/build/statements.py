"""Statements about a built image, which are signed and attached to it: how it was built, that it restored, its parts.

Formats: https://slsa.dev/spec/v1.0/provenance; the type of the verification is our own, see docs/reference/images.md.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import warmstart
from warmstart.build.base import BaseImage
from warmstart.build.context import BuildContext
from warmstart.build.materials import list_materials
from warmstart.build.parts import list_parts, make_bill
from warmstart.build.result import BuildResult
from warmstart.core.age import format_time
from warmstart.core.reference import Transport
from warmstart.image.annotations import BUILD_KEY, PREFIX
from warmstart.image.packages import read_packages
from warmstart.image.selfrestore.pack import restores_itself
from warmstart.image.signatures.predicates import PROVENANCE, SBOM, VERIFICATION
from warmstart.image.signatures.statement import Predicate

#: The variable with the URI of the machine or service that builds.
BUILDER = "WARMSTART_BUILDER_ID"

_DEFAULT_BUILDER = "https://warmstart.dev/builder/local"
_BUILD_TYPE = "https://warmstart.dev/build/v1"


def make_predicates(
    context: BuildContext, built: BuildResult, report: bytes, beside: Mapping[str, BaseImage]
) -> tuple[Predicate, ...]:
    """Return everything that is stated about a built image.

    Args:
        context: of the build.
        built: its result.
        report: the build report that is attached to the image.
        beside: images of services and init containers, by their names in the recipe.

    Raises:
        ImageError: the base image is broken.
    """
    return (
        Predicate(PROVENANCE, _describe_build(context, built, report, beside)),
        Predicate(VERIFICATION, _describe_verification(context, built)),
        Predicate(SBOM, make_bill(built, read_packages(built.base.layout), list_parts(context, built))),
    )


def _describe_build(
    context: BuildContext, built: BuildResult, report: bytes, beside: Mapping[str, BaseImage]
) -> dict[str, Any]:
    recipe, options, made = context.recipe, context.options, built.provenance
    finished = datetime.now(UTC)
    images = [describe_image(built.base, "base image"), *(describe_image(one, name) for name, one in beside.items())]
    return {
        "buildDefinition": {
            "buildType": _BUILD_TYPE,
            "externalParameters": {
                "image": built.name,
                # The recipe is the annotation dev.warmstart.recipe of the image.
                "recipe": {"name": recipe.name, "digest": {"sha256": hashlib.sha256(made.recipe.encode()).hexdigest()}},
                "network": str(options.network),
                "allow": sorted(map(str, options.allowed)),
                "force": options.force,
            },
            "internalParameters": {
                "runtime": made.runtime,
                "runtimeEndpoint": options.runtime_endpoint or "",
                "criu": made.criu,
                "kernel": made.kernel,
                "architecture": made.architecture,
                "processorFeatures": list(context.inputs.cpu) if context.inputs else [],
            },
            "resolvedDependencies": [*images, *list_materials(context, launcher=restores_itself(built.image.config))],
        },
        "runDetails": {
            "builder": {"id": find_builder(), "version": {"warmstart": warmstart.__version__}},
            "metadata": {
                "invocationId": built.image.manifest.annotations.get(PREFIX + BUILD_KEY, ""),
                "startedOn": format_time(context.began),
                "finishedOn": format_time(finished),
            },
            "byproducts": [{"name": "report.json", "digest": {"sha256": hashlib.sha256(report).hexdigest()}}],
        },
    }


def _describe_verification(context: BuildContext, built: BuildResult) -> dict[str, Any]:
    made = built.provenance
    return {
        "verifiedOn": format_time(datetime.now(UTC)),
        "verifier": {"id": find_builder(), "version": {"warmstart": warmstart.__version__}},
        "runtime": made.runtime,
        "criu": made.criu,
        "kernel": made.kernel,
        "architecture": made.architecture,
        # The fingerprint of the process before the checkpoint; each restored one had the same.
        "identity": made.identity,
        "forced": context.options.force,
        "restores": [
            {
                "restorer": str(restore.restorer),
                "address": restore.address,
                "firstSuccessSeconds": round(restore.first_success_s, 3),
            }
            for restore in built.restores
        ],
    }


def describe_image(image: BaseImage, name: str) -> dict[str, Any]:
    """Return an image as a resource descriptor of in-toto."""
    source = image.source
    uri = f"docker://{source.reference}" if source.kind is Transport.REGISTRY else source.label
    algorithm, _, value = image.digest.partition(":")
    return {"name": name, "uri": uri, "digest": {algorithm: value}}


def find_builder() -> str:
    """Return the URI of the builder: of the variable BUILDER, or one that stands for any machine."""
    return os.environ.get(BUILDER) or _DEFAULT_BUILDER
