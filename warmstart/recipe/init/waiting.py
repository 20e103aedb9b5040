"""Tell init containers that only wait for something from those that do something."""

from __future__ import annotations

import re

from warmstart.recipe.pods import Block, list_at

# Images that hold nothing else than a program that waits.
_WAITING_IMAGES = re.compile(r"wait-?for|wait4|dockerize|kubernetes-entrypoint|check-?db|netcat", re.IGNORECASE)
_WAITING_PROGRAMS = re.compile(
    r"(?:.*/)?(?:wait[-_]?for[-\w.]*|wait4\w*|dockerize|wait-port|wait-on|wait-until[-\w.]*)"
)
# Programs that ask whether something is there, and change nothing.
_ASKING = {
    "nc", "ncat", "netcat", "nslookup", "host", "dig", "getent", "ping", "pg_isready", "telnet", "grpc_health_probe",
    "mongo", "mongosh", "redis-cli", "mysqladmin", "mysql", "psql", "curl", "wget", "kubectl", "cqlsh", "rabbitmqctl",
    "rabbitmq-diagnostics", "kafka-topics", "kafka-topics.sh", "openssl", "ss", "netstat",
}  # fmt: skip
_SHELL_WORDS = {
    "until", "while", "do", "done", "if", "then", "else", "elif", "fi", "for", "in", "case", "esac", "!", "{", "}",
    "echo", "printf", "sleep", "true", "false", ":", "test", "[", "[[", "exit", "set", "break", "continue", "return",
    "date", "grep", "egrep", "awk", "sed", "cut", "head", "tail", "wc", "cat", "seq", "expr", "let", "read", "local",
    "export", "timeout", "exec", "trap", "function", "shift", "tr",
}  # fmt: skip
_SHELLS = {"sh", "bash", "ash", "dash", "/bin/sh", "/bin/bash", "/bin/ash", "/bin/dash", "/usr/bin/env"}
# What makes one of these programs do something.
_CHANGES = re.compile(
    r"\b(?:curl|wget)\b[^;|&\n]{0,300}\s(?:-X\s*(?:POST|PUT|PATCH|DELETE)|--request|-d|--data\S*|--post-\S*|-T"
    r"|--upload-file|-o\s*(?!/dev/null)\S|-O(?!\s*(?:-|/dev/null)|-)|--output\s)"
    r"|\b(?:psql|mysql)\b[^;|&\n]{0,300}(?:\s-f\b|<|create |insert |alter |drop |update )"
    r"|\bkubectl\s+(?!wait\b|get\b|rollout\s+status\b|describe\b)\w"
    r"|>>?\s*(?!&|/dev/(?:null|stdout|stderr|tcp))\S",
    re.IGNORECASE,
)
_SPLIT = re.compile(r"\|\||&&|[;|&\n]|\$\(|`|\(|\)")
# One that does not end goes to the end of the text.
_QUOTED = re.compile(r"'[^']*'|\"(?:[^\"\\]|\\.)*(?:\"|\\?\Z)")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=\S*")
_OPENING = re.compile(r"(?:until|while|do|if|then|else|elif|!|\{|exec|timeout(?:\s+-\S+)*\s+\S+)\s+")
_COMMENT = re.compile(r"(?m)(?:^|(?<=\s))#[^\n]*")


def words_of(container: Block) -> list[str]:
    """Return the words of a container's command and its arguments."""
    words = [*list_at(container, "command"), *list_at(container, "args")]
    return [word for word in words if isinstance(word, str)]


def only_waits(container: Block) -> bool:
    """Tell whether an init container only waits, sleeps or says something, so that a build can do without it."""
    words = words_of(container)
    image = str(container.get("image", "")).partition("@")[0].rpartition("/")[2]
    if not words:
        return bool(_WAITING_IMAGES.search(image))
    if _WAITING_PROGRAMS.fullmatch(words[0]):
        return not _runs_a_program(words)
    if _is_shell(words[0]):
        script = "\n".join(word for word in words[1:] if not re.fullmatch(r"-\w+|-o|pipefail|sh|bash", word))
        return bool(script) and _script_only_waits(script)
    if words[0].startswith("-") or words[0] not in _ASKING | {"sleep", "echo", "true"}:
        # Arguments for the image's own program.
        return bool(_WAITING_IMAGES.search(image))
    return not _CHANGES.search(" ".join(words))


def _is_shell(word: str) -> bool:
    return word in _SHELLS


def _runs_a_program(words: list[str]) -> bool:
    """Tell whether a program that waits then runs another: `wait-for-it db:5432 -- migrate`."""
    return "--" in words[:-1]


def _script_only_waits(script: str) -> bool:
    plain = _COMMENT.sub("", script).replace("\\\n", " ")
    if _CHANGES.search(_QUOTED.sub("''", plain)) or _CHANGES.search(plain.replace(">", "")):
        return False
    unquoted = _QUOTED.sub(" Q ", re.sub(r"2?>>?\s*(?:&\d|/dev/\S+)", " ", plain))
    commands = [_program(part) for part in _SPLIT.split(unquoted)]
    return all(_is_harmless(command) for command in commands if command)


def _program(part: str) -> str:
    """Return the program of a simple command, without the shell's words and assignments before it."""
    text = part.strip()
    while match := _OPENING.match(text):
        text = text[match.end() :].lstrip()
    words = text.split()
    while words and _ASSIGNMENT.fullmatch(words[0]):
        words.pop(0)
    return words[0] if words else ""


def _is_harmless(program: str) -> bool:
    name = program.rpartition("/")[2]
    return (
        name in _ASKING
        or name in _SHELL_WORDS
        or bool(_WAITING_PROGRAMS.fullmatch(name))
        or program in ("Q", "-")
        or program.startswith("-")
        or program.isdigit()
        or bool(re.fullmatch(r"\$\{?\w+\}?|[\d.]+|]|]]", program))
    )
