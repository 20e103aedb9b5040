"""One conversation with a registry: requests, authentication, retries, errors. The only user of oras.

oras provides the session and repeats a request after a challenge. Three parts of it are not used: its retries
(minutes long for any error, ignoring Retry-After), its tokens (one per registry for any scope, so that a push after a
read is refused), and its upload (a whole blob in memory, the manifest under its tag at once).

Protocol: https://github.com/opencontainers/distribution-spec/blob/main/spec.md; authentication:
https://distribution.github.io/distribution/spec/auth/token/ and /oauth/.
"""

from __future__ import annotations

import base64
import email.utils
import inspect
import logging
import re
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, Self, TypeVar
from urllib.parse import urljoin, urlsplit

import oras.provider  # type: ignore[import-untyped]
import requests

from warmstart.core.deadline import TooSlowError
from warmstart.core.errors import RegistryError
from warmstart.core.progress import report_warning
from warmstart.core.reference import DOCKER_HUB, Reference
from warmstart.core.untrusted_json import JsonError, parse_json
from warmstart.image.registry.challenge import Challenge, parse_challenges
from warmstart.image.registry.credentials import RegistryAccess, Search
from warmstart.image.registry.exchange import RETRIES, Answer
from warmstart.image.registry.transport import (
    MOST_REDIRECTS,
    Session,
    find_redirect,
    is_same_host,
    read_pieces,
    read_short,
)

log = logging.getLogger(__name__)

# Before the second of RETRIES attempts, twice that before the third, and so on.
BACKOFF_S = 0.5
#: The longest pause that a registry can ask for.
LONGEST_PAUSE_S = 60.0

_ANSWER_LIMIT_BYTES = 1 << 20
_PASSING = (408, 429, 500, 502, 503, 504)

_Result = TypeVar("_Result")


class PassingError(RegistryError):
    """A transient failure; `pause_s` is the pause that the registry asks for, 0 if none."""

    def __init__(self, brief: str, *, hint: str = "", pause_s: float = 0.0) -> None:
        super().__init__(brief, hint=hint)
        self.pause_s = pause_s


class Body(Protocol):
    """A request body that can be iterated again, since a challenge makes it be sent twice."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Any: ...


class Connection:
    """A conversation with the registry of `reference`, about its repository.

    Args:
        reference: the registry and repository.
        access: registries without TLS, and the file of credentials.
        retries: how often `retry` and `call` try again.

    Raises:
        RegistryError: the credentials cannot be read.
    """

    def __init__(self, reference: Reference, access: RegistryAccess, *, retries: int = RETRIES) -> None:
        self.reference = reference
        self._retries = retries
        hub = reference.registry == DOCKER_HUB
        plain_http = access.uses_plain_http(reference)
        self._scheme = "http" if plain_http else "https"
        self._host = "registry-1.docker.io" if hub else reference.registry
        self._search = access.search_credentials(reference)
        self._oras = oras.provider.Registry(self._host, insecure=plain_http)
        self._oras.session = session = Session()
        self._auth = _Authenticator(session, f"{self._scheme}://{self._host}", self._search)
        self._oras.auth = self._auth

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._oras.session.close()

    def url(self, path: str) -> str:
        """Return the URL of `path` in the repository, such as `blobs/sha256:…`."""
        return f"{self._scheme}://{self._host}/v2/{self.reference.repository}/{path}"

    def retry(self, operation: Callable[[], _Result]) -> _Result:
        """Call `operation`, and retry after a pause if it raises PassingError.

        Raises:
            RegistryError: it failed for good, or too often.
        """
        for attempt in range(self._retries):
            try:
                return operation()
            except PassingError as error:
                pause_s = max(error.pause_s, BACKOFF_S * 2**attempt)
                if pause_s > LONGEST_PAUSE_S:
                    raise
                report_warning(f"{error.brief}; trying again in {pause_s:.1f} s")
                time.sleep(pause_s)
        return operation()

    def call(self, method: str, url: str, purpose: str, expect: Collection[int], **options: Any) -> Answer:
        """Make a request with retries; see `request`."""
        return self.retry(lambda: self.request(method, url, purpose, expect, **options))

    def request(
        self,
        method: str,
        url: str,
        purpose: str,
        expect: Collection[int],
        *,
        headers: Mapping[str, str] | None = None,
        body: Body | bytes | None = None,
        limit_bytes: int = _ANSWER_LIMIT_BYTES,
    ) -> Answer:
        """Make one request, and authenticate if the registry asks for it.

        Args:
            method: the HTTP method.
            url: URL from `url` or `follow`.
            purpose: completes "could not …" in an error.
            expect: accepted statuses; all others are errors.
            headers: headers to send.
            body: request body.
            limit_bytes: longest accepted answer.

        Raises:
            PassingError: it failed, perhaps transiently.
            RegistryError: it failed.
        """
        try:
            answer = _read_answer(self._send(method, url, headers or {}, body), limit_bytes)
        except _RefusedError as refused:
            answer = refused.answer
        except (requests.RequestException, TooSlowError, ValueError) as error:  # ValueError: led to what is no URL
            raise self._explain_failure(purpose, error, uploading=bool(body)) from error
        log.debug("%s %s: %d", method, url, answer.status)
        if answer.status not in expect:
            raise self._explain_refusal(purpose, answer)
        if len(answer.body) > limit_bytes:
            raise RegistryError(f"could not {purpose}: the answer exceeds {limit_bytes} bytes")
        if answer.body and answer.headers.get("Content-Encoding", "identity") != "identity":
            raise RegistryError(f"could not {purpose}: {self._host} compressed its answer unasked")
        return answer

    @contextmanager
    def download(self, url: str, purpose: str) -> Iterator[Download]:
        """Stream content of any size; only the request is retried, not the reading.

        Raises:
            RegistryError: it failed; also while reading.
        """
        with self.retry(lambda: self._start_download(url, purpose)) as response:
            yield Download(
                read_pieces(response),
                lambda error: self._explain_failure(purpose, error, uploading=False),
            )

    def _start_download(self, url: str, purpose: str) -> requests.Response:
        try:
            response = self._send("GET", url, {}, None)
            if response.status_code == 200:
                return response
            answer = _read_answer(response, _ANSWER_LIMIT_BYTES)
        except _RefusedError as refused:
            answer = refused.answer
        except (requests.RequestException, TooSlowError, ValueError) as error:
            raise self._explain_failure(purpose, error, uploading=False) from error
        raise self._explain_refusal(purpose, answer)

    def _send(self, method: str, url: str, headers: Mapping[str, str], body: Body | bytes | None) -> requests.Response:
        """Make a request and follow redirects; credentials do not go to another host."""
        send = inspect.unwrap(oras.provider.Registry.do_request)  # without the decorator that retries
        for _ in range(MOST_REDIRECTS + 1):
            response: requests.Response = send(
                self._oras, url, method, data=body, headers=self._auth.add_header(url, headers), stream=True
            )
            target = find_redirect(method, response)
            if target is None:
                return response
            response.close()
            url = target
        raise requests.TooManyRedirects(f"redirected more than {MOST_REDIRECTS} times")

    def follow(self, answer: Answer) -> str:
        """Return the URL in the Location of `answer`.

        Raises:
            RegistryError: it points nowhere, or from HTTPS to HTTP.
        """
        location = answer.headers.get("Location")
        if not location:
            raise RegistryError(f"{self._host} accepted an upload but sent no Location")
        try:
            url = urljoin(answer.url, location)
        except ValueError as error:
            raise RegistryError(f"{self._host} sent an invalid upload Location: {location!r:.80}") from error
        if urlsplit(url).scheme not in ("http", "https"):
            raise RegistryError(
                f"{self._host} sent an upload Location that is not HTTP: {_clean(url.partition('?')[0])}"
            )
        if self._scheme == "https" and not url.startswith("https:"):
            raise RegistryError(
                f"{self._host} redirects the upload from HTTPS to {_clean(url.partition('?')[0])}",
                hint="if it is behind a proxy, have the proxy pass X-Forwarded-Proto and Host",
            )
        return url

    def _explain_failure(self, purpose: str, error: Exception, *, uploading: bool) -> RegistryError:
        brief, reason = f"could not {purpose}", str(error)
        if isinstance(error, requests.exceptions.SSLError):
            if re.search("WRONG_VERSION_NUMBER|RECORD_LAYER_FAILURE|PACKET_LENGTH_TOO_LONG", reason):
                return RegistryError(
                    f"{brief}: {self._host} does not speak HTTPS",
                    hint=f"to use plain HTTP, add --plain-http {self._host}",
                )
            why = re.search(r"verify failed: ([^(]*[^(\s])", reason)
            return RegistryError(
                f"{brief}: the certificate of {self._host} is not trusted: {_clean(why[1] if why else reason)}",
                hint="add its CA to this machine's certificates, or set SSL_CERT_FILE",
            )
        if isinstance(error, TooSlowError):
            return RegistryError(f"{brief}: {self._host} is too slow: {error}")
        if _is_caused_by(error, socket.gaierror):
            hint = "check the name and this machine's DNS servers"
            return RegistryError(f"{brief}: the name {self._host} does not resolve", hint=hint)
        if isinstance(error, requests.Timeout):
            return PassingError(f"{brief}: {self._host} did not answer in time")
        if isinstance(error, requests.ConnectionError | requests.exceptions.ChunkedEncodingError):
            # An early 413 answer is lost with the connection.
            hint = "check for a proxy that limits the upload size" if uploading else ""
            return PassingError(f"{brief}: the connection to {self._host} failed: {_find_cause(error)}", hint=hint)
        return RegistryError(f"{brief}: {_clean(reason)}")

    def _explain_refusal(self, purpose: str, answer: Answer) -> RegistryError:
        said = _read_errors(answer.body)
        brief = f"could not {purpose}: {_clean(urlsplit(answer.url).netloc)} answered {answer.status} {answer.reason}"
        brief += f" ({said})" if said else ""
        if answer.status in _PASSING:
            hint = "the registry limits requests: try again later" if answer.status == 429 else ""
            return PassingError(brief, hint=hint, pause_s=_read_pause_s(answer.headers.get("Retry-After", "")))
        if answer.status in (401, 403):
            used = self._search.credentials
            who = f"as {used.username or 'token owner'}" if used else "without credentials"
            return RegistryError(
                f"{brief}; sent {who}",
                details=["looked for credentials in:", *self._search.looked_at],
                hint=f"log in with podman login or docker login {self.reference.registry}, as a user with access",
            )
        if b"HTTP request to an HTTPS server" in answer.body:
            return RegistryError(brief, hint="remove --plain-http: the registry speaks HTTPS")
        hints = {
            404: f"check the name {self.reference.name}; some registries need the repository created first",
            413: "raise the upload limit of the proxy in front of the registry (nginx: client_max_body_size)",
        }
        return RegistryError(brief, hint=hints.get(answer.status, ""))


class Download:
    """The body of an answer, read as it arrives."""

    def __init__(self, pieces: Iterator[bytes], explain: Callable[[Exception], RegistryError]) -> None:
        self._pieces = pieces
        self._explain = explain
        self._arrived = bytearray()

    def read(self, size: int, /) -> bytes:
        """Return the next `size` bytes; fewer only at the end.

        Raises:
            RegistryError: the connection failed.
        """
        try:
            while len(self._arrived) < size and (piece := next(self._pieces, b"")):
                self._arrived += piece
        except (requests.RequestException, TooSlowError) as error:
            raise self._explain(error) from error
        data = bytes(self._arrived[:size])
        del self._arrived[:size]
        return data


class _RefusedError(Exception):
    """The registry requires authentication, and there are no usable credentials."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


class _Authenticator:
    """Answers challenges; later requests reuse the last header."""

    def __init__(self, session: requests.Session, registry_url: str, search: Search) -> None:
        self._session = session
        self._registry_url = registry_url
        self._credentials = search.credentials
        self._header: str | None = None

    def add_header(self, url: str, headers: Mapping[str, str]) -> dict[str, str]:
        """Add authentication to headers, unless the URL is on another host (an upload's)."""
        if self._header and is_same_host(url, self._registry_url):
            return {**headers, "Authorization": self._header}
        return dict(headers)

    def authenticate_request(
        self, original: requests.Response, headers: dict[str, str], refresh: bool = False
    ) -> tuple[dict[str, str], bool]:
        """Return the headers for the next attempt, and True. oras calls this after a 401 or 403."""
        answer = _read_answer(original, _ANSWER_LIMIT_BYTES)
        # A 403 is final: the registry knows the user and denies access.
        if answer.status != 401 or refresh or not is_same_host(answer.url, self._registry_url):
            raise _RefusedError(answer)
        challenges = parse_challenges(answer.headers.get("WWW-Authenticate", ""), urlsplit(answer.url).netloc)
        bearer = next((one for one in challenges if one.scheme == "bearer"), None)
        self._header = f"Bearer {self._get_token(answer, bearer)}" if bearer else self._get_basic(answer)
        return {**headers, "Authorization": self._header}, True

    def _get_basic(self, answer: Answer) -> str:
        if self._credentials is None or not self._credentials.password:
            raise _RefusedError(answer)
        pair = f"{self._credentials.username}:{self._credentials.password}"
        return f"Basic {base64.b64encode(pair.encode()).decode()}"

    def _get_token(self, answer: Answer, challenge: Challenge) -> str:
        asked = challenge.parameters
        url = asked.get("realm", "")
        realm = urlsplit(url)
        # As with docker and containerd, it may be on another host: many registries have a separate token server. But a
        # password goes unencrypted only to the host that is addressed unencrypted anyway.
        registry = urlsplit(self._registry_url)
        in_the_clear = (realm.scheme, realm.hostname) == ("http", registry.hostname) and registry.scheme == "http"
        if not (in_the_clear or realm.scheme == "https") or not realm.hostname or realm.username:
            raise RegistryError(f"{self._registry_url} refers to a token server that is not HTTPS: {_clean(url)!r}")
        # One parameter per scope: a mount needs two.
        query = [("service", asked.get("service", "")), *(("scope", one) for one in asked.get("scope", "").split())]
        response = self._ask_for_token(url, [(name, value) for name, value in query if value], answer)
        reply = _read_answer(response, _ANSWER_LIMIT_BYTES)
        if reply.status in _PASSING:
            pause_s = _read_pause_s(reply.headers.get("Retry-After", ""))
            raise PassingError(
                f"{_clean(realm.netloc)} answered {reply.status} to a request for a token", pause_s=pause_s
            )
        if reply.status != 200:
            raise _RefusedError(reply)
        try:
            document = parse_json(reply.body)
            token = document.get("token") or document["access_token"]
        except (JsonError, KeyError, AttributeError) as error:
            raise RegistryError(f"{_clean(realm.netloc)} sent no token: the answer is not a token document") from error
        return str(token)

    def _ask_for_token(self, realm: str, query: list[tuple[str, str]], answer: Answer) -> requests.Response:
        if self._credentials and self._credentials.identity_token:
            form = [
                ("grant_type", "refresh_token"),
                ("client_id", "warmstart"),
                ("refresh_token", self._credentials.identity_token),
                # The form has one field for all scopes, unlike the query.
                ("scope", " ".join(value for name, value in query if name == "scope")),
                *(pair for pair in query if pair[0] != "scope"),
            ]
            return self._session.post(realm, data=form, stream=True)
        headers = {"Authorization": self._get_basic(answer)} if self._credentials else {}
        response = self._session.get(realm, params=query, headers=headers, stream=True)
        for _ in range(MOST_REDIRECTS):
            target = find_redirect("GET", response)
            if target is None:
                break
            response.close()
            response = self._session.get(target, headers=headers if is_same_host(target, realm) else {}, stream=True)
        return response


def _read_answer(response: requests.Response, limit_bytes: int) -> Answer:
    """Read at most one byte more than the limit, and release the connection."""
    body = read_short(response, limit_bytes)
    return Answer(response.status_code, _clean(response.reason or ""), response.url, response.headers, body)


def _read_errors(body: bytes) -> str:
    """Return the registry's own errors (codes and messages), or the first line of the body."""
    try:
        errors = parse_json(body)["errors"]
        said = [f"{error.get('code', '')}: {error.get('message', '')}".strip(": ") for error in errors]
        text = "; ".join(said)
    except (JsonError, KeyError, TypeError, AttributeError):
        text = next(iter(body[:1000].decode(errors="replace").strip().splitlines()), "")
    return _clean(text)


def _clean(text: str) -> str:
    """Make a registry's text safe to show: bounded, and without control characters."""
    return "".join(char if char.isprintable() else " " for char in text)[:300]


def _read_pause_s(retry_after: str) -> float:
    """Return the seconds of a Retry-After header: a number or a date."""
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, OverflowError):  # a date such as year 1 has no timestamp
        return 0.0


def _find_cause(error: BaseException) -> str:
    """Return the innermost reason of a failed connection."""
    inner = _unwrap(error)
    return _find_cause(inner) if inner else _clean(getattr(error, "strerror", None) or str(error))


def _is_caused_by(error: BaseException | None, kind: type[BaseException]) -> bool:
    """Return whether a failed connection was caused by this exception type."""
    while error is not None and not isinstance(error, kind):
        error = _unwrap(error)
    return error is not None


def _unwrap(error: BaseException) -> BaseException | None:
    """Return the inner exception; requests and urllib3 wrap several times."""
    wrapped = [*error.args, getattr(error, "reason", None), error.__cause__]
    return next((part for part in wrapped if isinstance(part, BaseException)), None)
