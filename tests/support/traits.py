"""The kernel state of the service in tests/programs/traits.py, and what each restorer is known to lose of it."""

from __future__ import annotations

from pathlib import Path

PROGRAM = Path(__file__).parents[1] / "programs/traits.py"

#: A subject of each kind.
SUBJECTS = ("thread 1", "process 1", "descriptor 1 1", "network", "ipc")
#: Facts that the service has set, with their values: of any of its threads, of its process, and by descriptor.
THREAD = {
    "nice": "7",
    "policy": "batch",
    "SigBlk": f"{1 << 27:016x}",
    "timer slack": "50000000",
    "NoNewPrivs": "1",
}
PROCESS = {
    "Umask": "0077",
    "THP_enabled": "0",
    "cwd": "/tmp",
    "limit open files": "256 512",
    "timers": "0 10 signal pid 1",
    "mappings locked": "yes",
    "mappings not inherited by fork": "yes",
    "mappings wiped on fork": "yes",
    "mappings not in core dumps": "yes",
    "I/O priority": str((2 << 13) | 7),
}
DESCRIPTORS = {
    "anon_inode:[timerfd]": {"ticking": "yes", "interval": "0.005000000", "clock": "1"},
    "anon_inode:[signalfd]": {"signals": f"{1 << 9:016x}"},
    "anon_inode:[eventpoll]": {"flags": "read-write cloexec"},
    "/memfd:sealed (deleted)": {"seals": "15"},
    "pipe": {"flags": "read nonblock cloexec", "pipe size": "1048576", "signal": "10"},
    "IPv4 TCP": {"backlog": "16", "TCP_DEFER_ACCEPT": "3", "TCP_FASTOPEN": "64", "TCP_KEEPIDLE": "77", "IP_TOS": "16"},
    "IPv4 UDP": {"IP_RECVERR": "1", "IP_PKTINFO": "1", "SO_BROADCAST": "1", "UDP_GRO": "1", "SO_RCVTIMEO": "3 0"},
    "IPv6 UDP": {"IPV6_UNICAST_HOPS": "44", "IPV6_RECVPKTINFO": "1", "IPV6_V6ONLY": "1"},
    "UNIX socket": {"SO_PASSCRED": "1"},
}
#: Those that an application cannot do without; the service sets them with the argument `decisive`.
DECISIVE = {"groups": "239.7.7.7 on lo", "semaphore": "yes", "UDP_SEGMENT": "1200"}
DECISIVE |= {"IP_RECVORIGDSTADDR": "1", "IPV6_RECVORIGDSTADDR": "1"}

#: Facts of the service that no restorer keeps, and that an image does not keep that restores itself.
LOST: set[str] = set()
LOST_BY_SELF: set[str] = set()
#: Facts of the service that the runtime does not keep, and that an image keeps that restores itself.
LOST_BY_RUNTIME = {
    "locks",
    *DECISIVE,
    *("Cpus_allowed_list", "timer slack", "I/O priority"),
    *("SO_MAX_PACING_RATE", "SO_RXQ_OVFL", "SO_SELECT_ERR_QUEUE", "SO_TIMESTAMP", "SO_TIMESTAMPING", "SO_TIMESTAMPNS"),
    *("SO_ZEROCOPY", "IP_BIND_ADDRESS_NO_PORT", "IP_CHECKSUM", "IP_MINTTL", "IP_MTU_DISCOVER", "IP_MULTICAST_LOOP"),
    *("IP_MULTICAST_TTL", "IP_PASSSEC", "IP_RECVERR", "IP_RECVERR_RFC4884", "IP_RECVFRAGSIZE", "IP_RECVOPTS"),
    *("IP_RECVTOS", "IP_RECVTTL", "IP_RETOPTS"),
    *("IPV6_ADDR_PREFERENCES", "IPV6_AUTOFLOWLABEL", "IPV6_DONTFRAG", "IPV6_MINHOPCOUNT", "IPV6_MTU_DISCOVER"),
    *("IPV6_MULTICAST_HOPS", "IPV6_MULTICAST_LOOP", "IPV6_RECVDSTOPTS", "IPV6_RECVERR", "IPV6_RECVERR_RFC4884"),
    *("IPV6_RECVFRAGSIZE", "IPV6_RECVHOPLIMIT", "IPV6_RECVHOPOPTS", "IPV6_RECVPATHMTU", "IPV6_RECVRTHDR"),
    *("IPV6_RECVTCLASS", "IPV6_TCLASS", "IPV6_UNICAST_HOPS"),
    *("TCP_CONGESTION", "TCP_DEFER_ACCEPT", "TCP_FASTOPEN", "TCP_FASTOPEN_NO_COOKIE", "TCP_INQ", "TCP_LINGER2"),
    *("TCP_NOTSENT_LOWAT", "TCP_SAVE_SYN", "TCP_SYNCNT", "TCP_THIN_LINEAR_TIMEOUTS", "TCP_USER_TIMEOUT"),
    *("UDP_GRO", "UDP_NO_CHECK6_RX", "UDP_NO_CHECK6_TX"),
}
