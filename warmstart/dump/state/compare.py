"""Compare the kernel state before the dump and after a restore."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from warmstart.core.text import printable
from warmstart.dump.preflight.finding import Severity
from warmstart.dump.state.model import (
    GONE,
    IDENTITY,
    MAX_SUBJECTS,
    NAME,
    REGISTRATIONS,
    WATCHED,
    Facts,
    KernelState,
    name_descriptor,
    name_process,
    name_thread,
)
from warmstart.dump.state.rules import FIXES, Rule, find_rule

_SHOWN_CHARS = 120
#: What the identities of sockets begin with.
SOCKETS = ("IPv4 ", "IPv6 ", "UNIX socket", "socket of family")


@dataclass(frozen=True)
class Difference:
    """A fact that a restore has lost or changed.

    Attributes:
        subject: the thing it belongs to; see `KernelState`.
        fact: its name.
        label: the same thing for people, with the name of its process.
        old: the value before the dump.
        new: the value after the restore; "" if there is none.
        rule: the rule that it breaks.
    """

    subject: str
    fact: str
    label: str
    old: str
    new: str
    rule: Rule

    @property
    def is_error(self) -> bool:
        """Whether the application behaves differently."""
        return self.rule.severity is Severity.ERROR


def find_differences(before: KernelState, after: KernelState, *, exact: bool) -> tuple[Difference, ...]:
    """Compare two states: facts of subjects that are the same thing in both, and processes and files that are gone.

    Args:
        before: the state before the dump.
        after: the state after the restore.
        exact: whether the restorer has the privileges to keep everything exactly.
    """
    return tuple(_compare(before, after, exact=exact))


def find_certain(before: KernelState, certain: Mapping[str, str]) -> tuple[Difference, ...]:
    """Find the facts that a restore will lose, and that change the behaviour of the application.

    Args:
        before: the state before the checkpoint.
        certain: the facts that the restorer loses, with the values that it leaves.
    """
    return tuple(
        Difference(subject, fact, _label(before, subject), value, certain[fact], rule)
        for subject, facts in before.subjects.items()
        for fact, value in facts.items()
        if fact in certain and value != certain[fact] and (rule := find_rule(subject, fact))
    )


def keep_confirmed(differences: Iterable[Difference], again: Collection[Difference]) -> tuple[Difference, ...]:
    """Return the differences that another look, or another restore, shows as well."""
    confirmed = {(each.subject, each.fact) for each in again}
    return tuple(each for each in differences if (each.subject, each.fact) in confirmed)


def describe(differences: Collection[Difference]) -> tuple[str, ...]:
    """Describe differences: a line for each subject and code, which subjects with the same differences share."""
    by_subject: dict[tuple[str, str], list[Difference]] = {}
    for each in differences:
        by_subject.setdefault((each.subject, each.rule.code), []).append(each)
    alike: dict[tuple[tuple[str, str, str], ...], list[list[Difference]]] = {}
    for group in by_subject.values():
        alike.setdefault(tuple((each.fact, each.old, each.new) for each in group), []).append(group)
    return tuple(_describe(groups[0], len(groups) - 1) for groups in alike.values())


def _describe(group: list[Difference], more: int) -> str:
    rule, label = group[0].rule, group[0].label + (f" and {more} more" if more else "")
    changes = "; ".join(f"{each.rule.title} {_show(each.new)}, was {_show(each.old)}" for each in group)
    meanings = " ".join(dict.fromkeys(each.rule.meaning for each in group))
    return f"{label}: {changes}. {meanings} {FIXES[rule.code]} [{rule.code}]"


def _show(value: str) -> str:
    text = printable(value) or "none"
    return text if len(text) <= _SHOWN_CHARS else f"{text[: _SHOWN_CHARS - 1]}…"


def _is_same(before: KernelState, after: KernelState, subject: str) -> bool:
    """Whether a subject exists in both states, and is the same thing."""
    old, new = before.subjects.get(subject), after.subjects.get(subject)
    return old is not None and new is not None and old.get(IDENTITY) == new.get(IDENTITY)


def _without_closed(value: str, subject: str, before: KernelState, after: KernelState) -> str:
    """Remove the watched descriptors that are not open any more: the application closes connections."""
    pid = int(subject.split()[1])
    entries = ((entry, entry.partition(":")[0]) for entry in value.split(","))
    return ",".join(
        entry
        for entry, number in entries
        if number.isdecimal() and _is_same(before, after, name_descriptor(pid, int(number)))
    )


def _is_gone(before: KernelState, after: KernelState, subject: str) -> bool:
    """Whether a process or descriptor exists no more. The application may close sockets, except those that listen."""
    kind, *numbers = subject.split()
    if subject in after.subjects or len(after.subjects) >= MAX_SUBJECTS:
        return False
    if kind == "process":
        return name_thread(int(numbers[0])) not in after.subjects
    if kind != "descriptor" or name_process(int(numbers[0])) not in after.subjects:
        return False
    facts = before.subjects[subject]
    return "backlog" in facts or not facts[IDENTITY].startswith(SOCKETS)


def _compare(before: KernelState, after: KernelState, *, exact: bool) -> Iterator[Difference]:
    for subject, old in before.subjects.items():
        if _is_gone(before, after, subject) and (rule := find_rule(subject, GONE)):
            yield Difference(subject, GONE, _label(before, subject), "yes", "no", rule)
        if not _is_same(before, after, subject):
            continue
        new = after.subjects[subject]
        for fact, value in old.items():
            rule = find_rule(subject, fact)
            if rule is None or (fact not in new and not rule.absent_is_none) or _is_excused(fact, new):
                continue
            if fact in (WATCHED, REGISTRATIONS):
                value = _without_closed(value, subject, before, after)
            if _is_lost(rule, value, new.get(fact, ""), exact=exact):
                yield Difference(subject, fact, _label(before, subject), value, new.get(fact, ""), rule)


def _is_lost(rule: Rule, old: str, new: str, *, exact: bool) -> bool:
    is_lost = rule.exact if exact and rule.exact else rule.is_lost
    try:
        return is_lost(old, new)
    except ValueError:  # not a number: an image may claim anything
        return old != new


def _is_excused(fact: str, new: Facts) -> bool:
    """Whether a larger bounding set gives no capabilities: with no_new_privs, it does not.

    A restore without privileges cannot reduce it.
    """
    return fact == "CapBnd" and new.get("NoNewPrivs") == "1"


def _label(state: KernelState, subject: str) -> str:
    kind, *numbers = subject.split()
    if not numbers:
        return kind
    own = state.subjects[subject]
    name = (own if kind == "thread" else state.subjects.get(f"process {numbers[0]}", {})).get(NAME, kind)
    label = f"{printable(name)} ({numbers[0]})"
    return f"{label}, descriptor {numbers[1]} ({_show(own[IDENTITY])})" if kind == "descriptor" else label
