"""The family of errors that users see.

Each class is a kind, and each kind has an exit code of its own, so that a CI job can tell a recipe that
is wrong from an application that never became ready. Codes 1 and 2 keep their usual meaning: an
unexpected failure, and a command line that click refuses.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence


class WarmstartError(Exception):
    """Something went wrong that the user can understand and act on.

    Args:
        brief: the problem and its place in one sentence, without a full stop.
        details: lines that help to understand it, such as the end of a log.
        hint: a command or change that helps.
    """

    exit_code = 1
    kind = "error"

    def __init__(self, brief: str, *, details: Sequence[str] = (), hint: str = "") -> None:
        super().__init__(brief)
        self.brief = brief
        self.details = tuple(details)
        self.hint = hint


class InputError(WarmstartError):
    """A recipe, a manifest, the name of an image, or another value given to the command is wrong."""

    exit_code = 3
    # Scripts read this name from the JSON of an error, so that all input errors keep it.
    kind = "recipe"


class RecipeError(InputError):
    """The recipe, or a value given for it on the command line, is wrong."""


class ManifestError(InputError):
    """A Kubernetes manifest is wrong, or lacks the part that is asked for."""


class ImageReferenceError(InputError):
    """The name or the location of an image is malformed."""


@contextlib.contextmanager
def input_errors_as(kind: type[InputError]) -> Iterator[None]:
    """Raise the input errors of a `with` block, such as those of a reader for several kinds of files, as this class."""
    try:
        yield
    except InputError as error:
        raise kind(error.brief, details=error.details, hint=error.hint) from error


class HostError(WarmstartError):
    """This machine lacks something that the command needs."""

    exit_code = 4
    kind = "host"


class EngineError(WarmstartError):
    """The container runtime refused or failed."""

    exit_code = 5
    kind = "engine"


class AppError(WarmstartError):
    """The application died, never became ready, or failed a warm-up step."""

    exit_code = 6
    kind = "application"


class PreflightError(WarmstartError):
    """The application is in a state that would not dump or restore."""

    exit_code = 7
    kind = "preflight"


class CheckpointError(WarmstartError):
    """CRIU or the runtime could not make the checkpoint."""

    exit_code = 8
    kind = "checkpoint"


class ArchiveError(WarmstartError):
    """A checkpoint archive or one of its files is broken, hostile, or not understood."""

    exit_code = 9
    kind = "archive"


class ImageError(WarmstartError):
    """An image could not be read, built or converted."""

    exit_code = 10
    kind = "image"


class VerifyError(WarmstartError):
    """The image was built but did not restore; nothing was published."""

    exit_code = 11
    kind = "verify"


class RegistryError(WarmstartError):
    """A registry refused, or could not be reached."""

    exit_code = 12
    kind = "registry"


class ClusterError(EngineError):
    """A Kubernetes API server or a kubelet refused, failed, or could not be reached."""

    exit_code = 13
    kind = "cluster"


class PrivilegeError(WarmstartError):
    """An image asks for privileges that the user has not allowed."""

    exit_code = 14
    kind = "privilege"

    def __init__(self, brief: str, *, details: Sequence[str] = (), hint: str = "", refused: Sequence[str] = ()) -> None:
        super().__init__(brief, details=details, hint=hint)
        # As `--allow` takes them.
        self.refused = tuple(refused)


class SignatureError(WarmstartError):
    """No trusted key or identity signed an image, or a statement about it was changed."""

    exit_code = 15
    kind = "signature"


class SecretError(ImageError):
    """An image holds a secret that must not be published."""

    exit_code = 16
    kind = "secrets"


class SigningError(WarmstartError):
    """A service for signatures without a key, such as Fulcio or Rekor, refused or could not be reached."""

    exit_code = 17
    kind = "signing"
