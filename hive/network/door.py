"""Who may come in, how many, and how much they may knock.

Pure but for `file_limit`: counts and addresses, no sockets and no clocks. One `Door` serves both
ports. A connection that has proved nothing yet is a stranger. There is always room for one more,
because the oldest stranger of the address with the most of them gives way. So connections that say
nothing keep nobody out, and an honest guest shows who it is within a second.
"""
from __future__ import annotations

import ipaddress
from collections import Counter
from typing import Dict, Iterable, List, NamedTuple, Protocol, Union

from gltch_2_7m import GltchError
from hive.network.address import household, is_local, parse

Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

FILES_WANTED = 8192  # open files; some systems allow a program no more than 256 until it asks
FILES_UNKNOWN = 2048  # where the system does not say how many may be open (Windows)
FILES_KEPT = 256  # for journal, snapshots, downloads, and what is accepted before it is counted
TURNS = 32  # of the event loop that a stranger has at least, if all come to one port at once
MOST_STRANGERS = 1024  # a quarter of all places if that is less, as for visitors
MOST_VISITORS = 512  # whose request was read: pages, downloads, answers on their way


class Caller(Protocol):
    """A connection, as far as the door cares."""

    def abort(self) -> None: ...


class Taken(NamedTuple):
    home: str
    places: int


class Places:
    """A number of places (or bytes), of which one household may take its share."""

    def __init__(self, door: Door, most: int):
        self.door, self.most, self.total = door, most, 0
        self.taken: Dict[Caller, Taken] = {}
        self.of: Counter[str] = Counter()

    def take(self, who: Caller, address: str, count: int = 1) -> bool:
        """Nobody takes anything twice."""
        home = household(address)
        if (self.total + count > self.most
                or self.of[home] + count > self.door.share(self.most, address)):
            return False
        self.taken[who] = Taken(home, count)
        self.of[home] += count
        self.total += count
        return True

    def free(self, who: Caller) -> None:
        taken = self.taken.pop(who, None)
        if taken:
            self.total -= taken.places
            self.of[taken.home] -= taken.places
            if self.of[taken.home] <= 0:
                del self.of[taken.home]

    def __len__(self) -> int:
        return len(self.taken)


class Door:
    """The connections of both ports. `files` is how many files the program may open; `proxies` are
    the addresses that are believed when they say who is behind them."""

    def __init__(self, files: int, proxies: Iterable[Network] = ()):
        kept = min(FILES_KEPT, files // 2)
        self.proxies, most = list(proxies), files - kept
        self.most_strangers = max(1, min(MOST_STRANGERS, most // 4))
        self.accepted = max(1, self.most_strangers // TURNS)  # by each port in one turn
        self.visitors = Places(self, max(1, min(MOST_VISITORS, most // 4)))
        self.peers = Places(self, max(1, most - self.most_strangers - self.visitors.most))
        self.strangers: Dict[str, Dict[Caller, None]] = {}  # by household, each oldest first
        self.homes: Dict[Caller, str] = {}  # of the strangers

    def share(self, most: int, address: str) -> int:
        """How many of `most` places one address may take. Behind a proxy or a tunnel everybody
        seems to be on this machine, which therefore gets more, but never everything."""
        return max(1, 3 * most // 4 if is_local(address) or self.trusts(address) else most // 4)

    def come(self, guest: Caller, address: str) -> List[Caller]:
        """A stranger is at the door; returns those who must give way."""
        home = household(address)
        self.strangers.setdefault(home, {})[guest] = None
        self.homes[guest] = home
        away = []
        if len(self.strangers[home]) > self.share(self.most_strangers, address):
            away.append(self.dismiss(home))
        if len(self.homes) > self.most_strangers:
            away.append(self.dismiss(max(self.strangers, key=lambda one: len(self.strangers[one]))))
        return away

    def dismiss(self, home: str) -> Caller:
        oldest = next(iter(self.strangers[home]))
        self.forget(oldest)
        return oldest

    def visit(self, guest: Caller, address: str) -> bool:
        """Its request was read. Is there room for the answer?"""
        return self.admit(guest, address, self.visitors)

    def join(self, guest: Caller, address: str) -> bool:
        """It has proved that it has the key. Is there room for a peer?"""
        return self.admit(guest, address, self.peers)

    def admit(self, guest: Caller, address: str, places: Places) -> bool:
        """Without room it stays a stranger, and gives way when others come."""
        if not places.take(guest, address):
            return False
        self.forget(guest)
        return True

    def leave(self, guest: Caller) -> None:
        self.visitors.free(guest)
        self.peers.free(guest)
        self.forget(guest)

    def forget(self, stranger: Caller) -> None:
        home = self.homes.pop(stranger, None)
        if home is not None:
            del self.strangers[home][stranger]
            if not self.strangers[home]:
                del self.strangers[home]

    # Proxies

    def trusts(self, address: str) -> bool:
        found = parse(address)
        return found is not None and any(found in network for network in self.proxies)

    def who(self, address: str, forwarded: str) -> str:
        """On whose behalf does this address come, by its `X-Forwarded-For`? The last entry that is
        not a trusted proxy itself counts: anybody could have invented what precedes it."""
        if not self.trusts(address):
            return address
        for entry in reversed(forwarded.split(",")):
            found = parse(entry.strip())
            if found is None:
                break
            if not self.trusts(str(found)):
                return str(found)
        return address


def trusted(values: Iterable[str]) -> List[Network]:
    """Addresses, or networks as in 10.0.0.0/8. Raises GltchError."""
    networks: List[Network] = []
    for value in values:
        try:
            networks.append(ipaddress.ip_network(value))
        except ValueError:
            raise GltchError(f"--trusted-proxy takes addresses in digits, such as 127.0.0.1 or "
                             f"10.0.0.0/8, not {value!r}.") from None
    return networks


def file_limit() -> int:
    """How many files this program may have open, after asking for more."""
    try:
        import resource
    except ImportError:
        return FILES_UNKNOWN
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return FILES_WANTED
    wanted = FILES_WANTED if hard == resource.RLIM_INFINITY else min(FILES_WANTED, hard)
    if soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (OSError, ValueError):
            pass  # a system that promises more than it gives: what there is must do
    return min(soft, FILES_WANTED)
