"""The kernel state of a container: facts about its processes, threads, descriptors and network.

A fact is a name and a value, both text. A subject is the thing it belongs to, numbered as in the container, so that
subjects before the dump and after a restore correspond: `process 7`, `thread 12`, `descriptor 7 5` (of process 7),
`network`, `ipc`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Facts = Mapping[str, str]

#: The fact that tells whether two subjects of the same number are the same thing, such as the path of an open file.
IDENTITY = "is"
#: The fact that holds the name of a process. The application may change it.
NAME = "name"
#: Stands for the facts of a process or descriptor that is there no more.
GONE = "exists"
#: More subjects are not read: an application with a million descriptors must not hold up a build.
MAX_SUBJECTS = 5000
#: The fact that lists the descriptors that an epoll descriptor watches.
WATCHED = "watched descriptors"
#: The fact that lists how it watches them.
REGISTRATIONS = "registrations"
#: The fact that a thread is bound by Landlock rules.
LANDLOCK = "Landlock"
NETWORK = "network"
IPC = "ipc"


def name_process(pid: int) -> str:
    """Return the subject of a process."""
    return f"process {pid}"


def name_thread(number: int) -> str:
    """Return the subject of a thread."""
    return f"thread {number}"


def name_descriptor(pid: int, number: int) -> str:
    """Return the subject of a descriptor."""
    return f"descriptor {pid} {number}"


@dataclass(frozen=True)
class KernelState:
    """The kernel state of a container.

    Attributes:
        subjects: facts by subject; empty if nothing is known.
    """

    subjects: Mapping[str, Facts] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.subjects)

    def agree(self, other: KernelState) -> KernelState:
        """Return the facts that both states have alike, of subjects that are the same thing in both.

        Landlock rules are for good, and need not be in the other state.
        """
        return KernelState(
            {
                subject: {
                    name: value
                    for name, value in facts.items()
                    if name == LANDLOCK or other.subjects[subject].get(name) == value
                }
                for subject, facts in self.subjects.items()
                if subject in other.subjects and other.subjects[subject].get(IDENTITY) == facts.get(IDENTITY)
            }
        )
