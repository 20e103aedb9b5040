"""Write the tables of docs/what-survives.md: the results of a test, with the rules of the comparison.

    python scripts/what_survives.py docs/what-survives.md

tests/integration/test_traits_hold.py measures which traits a restored program still has, and compares them with
tests/programs/holds.json. With WARMSTART_RECORD=1 it writes that file instead.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from warmstart.dump.preflight.finding import Severity
from warmstart.dump.state import rules
from warmstart.dump.state.rules import CERTAIN_BY_RUNTIME, CERTAIN_BY_SELF, Rule, find_rule

RESULTS = Path(__file__).parents[1] / "tests/programs/holds.json"
RESTORERS = ("runtime", "self")
HEAD = "| State | `runtime` | `self` | If it is lost |\n| --- | --- | --- | --- |"
KEPT, LOST, NOT_AVAILABLE = "kept", "lost", "not available"
UNKNOWN = {"", "not measured", NOT_AVAILABLE}

_OPTIONS = [name for name in rules.list_options() if find_rule("descriptor 1 1", name)]
#: The facts of each table, by its name in the document, with the subject that has them.
TABLES: Mapping[str, Sequence[tuple[str, str]]] = {
    "processes": [
        *(("thread 1", name) for name in rules.THREAD_RULES if name != rules.LANDLOCK),
        *(("process 1", name) for name in rules.PROCESS_RULES),
    ],
    "asked": [
        ("thread 1", rules.LANDLOCK),
        *(("thread 1", name) for name in rules.ASKED_THREAD_RULES),
        *(("process 1", name) for name in rules.ASKED_PROCESS_RULES),
    ],
    "objects": [("ipc", name) for name in rules.IPC_RULES],
    "descriptors": [("descriptor 1 1", name) for name in rules.DESCRIPTOR_RULES],
    "sockets": [*(("network", name) for name in rules.NETWORK_RULES), *(("descriptor 1 1", name) for name in _OPTIONS)],
}
_TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)

#: By restorer, by fact, by trait: the outcome.
Results = Mapping[str, Mapping[str, Mapping[str, str]]]


def write_document(text: str, results: Results) -> str:
    """Return the document with new tables."""
    return _TABLE.sub(lambda found: f"{found[1]}{write_table(TABLES[found[2]], results)}\n{found[3]}", text)


def write_table(facts: Sequence[tuple[str, str]], results: Results) -> str:
    """Return a table: facts with the same outcomes share a row."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for subject, name in [*facts, *_list_limits(facts, results)]:
        outcomes = [describe(results[restorer].get(name, {})) for restorer in RESTORERS]
        # The container of the test may not set it, or the machine does not have it.
        if outcomes[0] == NOT_AVAILABLE:
            outcomes[0] = "not measured"
        if set(outcomes) - UNKNOWN and (rule := find_rule(subject, name)):
            rows.setdefault((*outcomes, describe_loss(name, rule)), []).append(rule.title)
    lines = (" | ".join((", ".join(titles), *cells)) for cells, titles in rows.items())
    return "\n".join([HEAD, *(f"| {line} |" for line in lines)])


def _list_limits(facts: Sequence[tuple[str, str]], results: Results) -> Iterator[tuple[str, str]]:
    if ("process 1", "Umask") in facts:
        yield from (("process 1", name) for name in results["runtime"] if name.startswith("limit "))


def describe(outcomes: Mapping[str, str]) -> str:
    """Describe the outcomes of a fact's traits; "" if there are none."""
    known = {trait: outcome for trait, outcome in outcomes.items() if outcome in (KEPT, LOST)} or outcomes
    found = sorted(set(known.values()))
    if found == [KEPT, LOST]:
        return f"kept, except: {', '.join(trait for trait, outcome in known.items() if outcome == LOST)}"
    return ", ".join(found)


def describe_loss(name: str, rule: Rule) -> str:
    """Describe the severity of a loss."""
    text = "error" if rule.severity is Severity.ERROR else "warning"
    return f"{text}, before the checkpoint" if name in CERTAIN_BY_RUNTIME or name in CERTAIN_BY_SELF else text


def main() -> None:
    """Rewrite the document."""
    path = Path(sys.argv[1])
    path.write_text(write_document(path.read_text(), json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
