"""Rules for secrets that a build does not know: keys, tokens, and passwords in connection strings.

A rule has keywords, one of which stands in each of its secrets, and a pattern that is tried where a keyword was found.
So the search for all rules is a single pass for their keywords. The pattern of a text is written for one byte per
character, and holds for strings in UTF-16 and UTF-32 too. Tokens with a checksum or a format to decode are checked.

The formats are those that the services document. gitleaks (config/gitleaks.toml) and GitHub's secret scanning list
them. Each rule is narrow: the heap of a runtime is full of documentation, message texts and random identifiers.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from warmstart.image.secrets.checks import (
    has_crc32,
    has_mixed_case,
    is_basic_login,
    is_jwt,
    is_key_material,
    is_pem_body,
    is_random,
    is_stand_in,
)

#: The most characters before and after the start of a keyword that a pattern looks at.
CHARS_BEFORE = 200
CHARS_AFTER = 2048

Match = re.Match[bytes]

_NOT_IN_WORD = rb"(?<![A-Za-z0-9_])"
_WORD_ENDS = rb"(?![A-Za-z0-9_-])"


@dataclass(frozen=True)
class Rule:
    """A kind of secret.

    Attributes:
        kind: its name in reports and in lists of what is allowed.
        title: its name for the user.
        keywords: byte strings, one of which begins each match.
        pattern: matches at a keyword; the group `secret` is the secret, if it is not all of it.
        check: whether a match is a secret.
        shown: whether the keyword may be shown, as the beginning of a token that everybody knows.
        is_text: whether it is a text, which may be in UTF-16 and UTF-32.
    """

    kind: str
    title: str
    keywords: tuple[bytes, ...]
    pattern: re.Pattern[bytes]
    check: Callable[[Match], bool] = field(default=lambda _: True)
    shown: bool = True
    is_text: bool = True

    def find(self, text: bytes, at: int, end: int) -> tuple[int, int] | None:
        """Return where the secret with a keyword at `at` of a text starts and ends, if there is one before `end`."""
        match = self.pattern.match(text, at, end)
        if match is None or not self.check(match):
            return None
        return match.span("secret") if "secret" in self.pattern.groupindex else match.span()


def _token(kind: str, title: str, prefixes: str, rest: bytes, check: Callable[[bytes], bool] = is_random) -> Rule:
    """Make the rule of a token that begins with one of these prefixes and goes on as `rest`."""
    keywords = tuple(prefix.encode() for prefix in prefixes.split())
    either = b"|".join(map(re.escape, keywords))
    pattern = re.compile(_NOT_IN_WORD + b"(?:" + either + b")" + rest + _WORD_ENDS)
    return Rule(kind, title, keywords, pattern, lambda match: check(match[0]))


_URL = re.compile(
    rb"(?<=[a-z0-9])://(?P<user>[A-Za-z0-9._%+~-]{0,64}):(?P<secret>[!-.0-9;=?A-\[\]-z|~]{4,128}+)@"
    rb"(?:[A-Za-z0-9][A-Za-z0-9.-]{0,253}|\[[0-9A-Fa-f:.]{2,45}\])"
)


def _is_password_of_url(match: Match) -> bool:
    secret = match["secret"]
    return not is_stand_in(secret) and secret.lower() != match["user"].lower()


# Other settings of a connection string, next to its password.
_SETTING = re.compile(
    rb"(?i:\bjdbc:|\b(?:host|server|data source|user|user id|uid|username|dbname|database|initial catalog)\s?=)"
)
_SETTING_CHARS = 160


def _is_connection(match: Match) -> bool:
    """Whether a `password=` stands beside other settings of a connection, in the same line."""
    text = match.string
    before = text[max(0, match.start() - _SETTING_CHARS) : match.start()]
    after = text[match.end() : min(match.endpos, match.end() + _SETTING_CHARS)]
    line = re.split(rb"[\0\r\n\x80-\xff]", before)[-1] + b" " + re.split(rb"[\0\r\n\x80-\xff]", after)[0]
    return bool(_SETTING.search(line)) and not is_stand_in(match["secret"])


_RSA = re.compile(
    rb"(?<=\x30\x82[\x00-\xff][\x00-\xff])\x02\x01\x00\x02\x82"
    rb"(?:\x01\x01\x00[\x00-\xff]{256}|\x01\x81\x00[\x00-\xff]{384}|\x02\x01\x00[\x00-\xff]{512})\x02\x03\x01\x00\x01\x02"
)
# SEC 1's ECPrivateKey with its curve or its public key, or within PKCS #8, whose last bytes before it are the curve's.
_EC = re.compile(
    rb"\x02\x01\x01\x04(?:"
    rb"\x20(?P<p256>[\x00-\xff]{32})(?:(?<=\x03\x01\x07\x04[\x00-\xff]\x30[\x00-\xff]\x02\x01\x01\x04\x20[\x00-\xff]{32})"
    rb"|\xa0\x0a\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07|\xa1\x44\x03\x42\x00\x04)"
    rb"|\x30(?P<p384>[\x00-\xff]{48})(?:(?<=\x00\x22\x04[\x00-\xff]{2}\x30[\x00-\xff]{2}\x02\x01\x01\x04\x30[\x00-\xff]{48})"
    rb"|(?<=\x00\x22\x04[\x00-\xff]\x30[\x00-\xff]\x02\x01\x01\x04\x30[\x00-\xff]{48})"
    rb"|\xa0\x07\x06\x05\x2b\x81\x04\x00\x22|\xa1\x64\x03\x62\x00\x04))"
)
# RFC 8410: Ed25519, Ed448, X25519 and X448; the curve is the last byte of the keyword.
_EDWARDS = re.compile(
    rb"\x02\x01\x00\x30\x05\x06\x03\x2b\x65(?:[\x6e\x70]\x04\x22\x04\x20[\x00-\xff]{32}|\x71\x04\x3b\x04\x39[\x00-\xff]{57})"
)

RULES: tuple[Rule, ...] = (
    Rule(
        "private-key",
        "private key (PEM)",
        (b"-----BEGIN ",),
        re.compile(
            rb"-----BEGIN (?:RSA |EC |DSA |OPENSSH |ENCRYPTED )?PRIVATE KEY-----"
            rb"(?P<secret>(?:[A-Za-z0-9+/=\s]|\\[rn]){48,})"
        ),
        lambda match: is_pem_body(match["secret"]),
    ),
    Rule(
        "private-key",
        "RSA private key (DER)",
        (b"\x02\x01\x00\x02\x82",),
        _RSA,
        lambda match: is_key_material(match[0][8:]),
        shown=False,
        is_text=False,
    ),
    Rule(
        "private-key",
        "EC private key (DER)",
        (b"\x02\x01\x01\x04\x20", b"\x02\x01\x01\x04\x30"),
        _EC,
        lambda match: is_key_material(match["p256"] or match["p384"]),
        shown=False,
        is_text=False,
    ),
    Rule(
        "private-key",
        "Edwards-curve private key (DER)",
        (b"\x02\x01\x00\x30\x05\x06\x03\x2b\x65",),
        _EDWARDS,
        lambda match: is_key_material(match[0][15:]),
        shown=False,
        is_text=False,
    ),
    Rule(
        "jwt",
        "JSON Web Token",
        (b"eyJ",),
        re.compile(
            _NOT_IN_WORD + rb"eyJ[A-Za-z0-9_-]{8,}+\.(?:eyJ[A-Za-z0-9_-]{8,}+(?:\.[A-Za-z0-9_-]{16,}|\Z)"
            rb"|[A-Za-z0-9_-]*+\.[A-Za-z0-9_-]{16,}+\.[A-Za-z0-9_-]{16,}+\.[A-Za-z0-9_-]{16,})"
        ),
        lambda match: is_jwt(match[0]),
        shown=False,
    ),
    Rule("connection-url", "password in a URL", (b"://",), _URL, _is_password_of_url, shown=False),
    Rule(
        "connection-string",
        "password in a connection string",
        (b"password=", b"Password=", b"PASSWORD=", b"pwd=", b"Pwd=", b"PWD="),
        # In code, the name of a variable or a class would follow: `password=SecretStr(value)`.
        re.compile(
            rb"(?<![A-Za-z0-9_.-])(?i:password|pwd)=(?P<secret>[!%+\-./0-:<-Z^-~*#?@]{4,128}+)(?=[\s;&,\"'\0\x80-\xff]|\Z)"
        ),
        _is_connection,
        shown=False,
    ),
    Rule(
        "basic-authorization",
        "password in an Authorization header",
        (b"uthorization: Basic ",),
        re.compile(rb"uthorization: Basic (?P<secret>[A-Za-z0-9+/]{8,512}+={0,2})"),
        lambda match: is_basic_login(match["secret"]),
        shown=False,
    ),
    Rule(
        "aws-secret-key",
        "AWS secret access key",
        (b"aws_secret_access_key", b"AWS_SECRET_ACCESS_KEY", b"SecretAccessKey", b"secretAccessKey"),
        re.compile(rb"[A-Za-z_]{15,21}[\"' ]{0,3}[:=][\"' ]{0,3}(?P<secret>[A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])"),
        lambda match: is_random(match["secret"], 3.5),
        shown=False,
    ),
    Rule(
        "azure-account-key",
        "Azure storage account key",
        (b"AccountKey=",),
        re.compile(rb"AccountKey=(?P<secret>[A-Za-z0-9+/]{86}==)"),
        lambda match: is_random(match["secret"], 4),
        shown=False,
    ),
    _token("aws-access-key", "AWS access key id", "AKIA ASIA", rb"[A-Z2-7]{16}"),
    _token("github-token", "GitHub token", "ghp_ gho_ ghu_ ghs_ ghr_", rb"[A-Za-z0-9]{36}", has_crc32),
    _token("github-token", "GitHub fine-grained token", "github_pat_", rb"[A-Za-z0-9]{22}_[A-Za-z0-9]{59}"),
    _token("npm-token", "npm token", "npm_", rb"[A-Za-z0-9]{36}", has_crc32),
    _token("pypi-token", "PyPI token", "pypi-AgEIcHlwaS5vcmc pypi-AgENdGVzdC5weXBpLm9yZ", rb"[A-Za-z0-9_-]{50,1000}"),
    _token("gitlab-token", "GitLab token", "glpat- gldt- glrt- glptt- glcbt-", rb"[A-Za-z0-9_-]{20,64}"),
    _token("slack-token", "Slack token", "xoxb- xoxp- xoxa- xoxr- xoxs-", rb"[0-9]{9,14}-[A-Za-z0-9-]{10,200}"),
    _token("slack-token", "Slack app token", "xapp-", rb"[0-9]-[A-Z0-9]+-[0-9]+-[a-z0-9]{20,100}"),
    _token(
        "slack-webhook",
        "Slack webhook",
        "hooks.slack.com/services/",
        rb"T[A-Z0-9]{8,12}/B[A-Z0-9]{8,12}/[A-Za-z0-9]{24}",
    ),
    _token("stripe-key", "Stripe key", "sk_live_ rk_live_", rb"[A-Za-z0-9]{24,247}"),
    _token("google-api-key", "Google API key", "AIza", rb"[A-Za-z0-9_-]{35}"),
    _token("google-oauth-secret", "Google OAuth client secret", "GOCSPX-", rb"[A-Za-z0-9_-]{28}"),
    _token("sendgrid-key", "SendGrid key", "SG.", rb"[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}"),
    _token("anthropic-key", "Anthropic key", "sk-ant-api03- sk-ant-admin01-", rb"[A-Za-z0-9_-]{93}AA"),
    _token(
        "openai-key",
        "OpenAI key",
        "sk-proj- sk-svcacct- sk-admin-",
        rb"[A-Za-z0-9_-]{20,100}T3BlbkFJ[A-Za-z0-9_-]{20,100}",
    ),
    _token(
        "huggingface-token",
        "Hugging Face token",
        "hf_",
        rb"[A-Za-z]{34}",
        lambda token: is_random(token, 3.5) and has_mixed_case(token.partition(b"_")[2]),
    ),
    _token("digitalocean-token", "DigitalOcean token", "dop_v1_ doo_v1_ dor_v1_", rb"[a-f0-9]{64}"),
    _token("docker-token", "Docker Hub token", "dckr_pat_ dckr_oat_", rb"[A-Za-z0-9_-]{27,32}"),
    _token("vault-token", "HashiCorp Vault token", "hvs. hvb.", rb"[A-Za-z0-9_-]{90,300}"),
    _token("databricks-token", "Databricks token", "dapi", rb"[a-f0-9]{32}(?:-[0-9])?"),
    _token("shopify-token", "Shopify token", "shpat_ shpca_ shppa_ shpss_", rb"[a-fA-F0-9]{32}"),
    _token("grafana-token", "Grafana token", "glsa_", rb"[A-Za-z0-9]{32}_[a-f0-9]{8}"),
    _token("age-key", "age key", "AGE-SECRET-KEY-1", rb"[QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L]{58}"),
)
