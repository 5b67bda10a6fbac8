"""Who a client is: whoever a key names, else whoever is at an address. One table has all their accounts.

The table is an LRU: whoever fell out of it starts full. One that has something open does not fall out.
"""

import ipaddress
from collections import Counter, OrderedDict
from functools import lru_cache

from web.access.account import Account
from web.access.limits import Limits

ACCOUNTS_MAX = 50_000
KNOWN_MAX = 4096  # addresses whose client is remembered: behind a proxy the same ones come again and again
V6_CLIENT = 64  # bits of an IPv6 address that are one client's: the others it chooses itself


class Seat:
    """One connection, counted for whoever it serves: the address it came from, until a key says otherwise."""

    __slots__ = ("account", "home", "is_proxy")

    def __init__(self, home: Account, *, is_proxy: bool) -> None:
        self.home = self.account = home
        self.is_proxy = is_proxy  # requests of many clients come on it, each its client's while it is answered
        home.connections += 1

    def take(self, account: Account) -> None:
        """Count it for `account` from now on. Raises RateLimited where that one has as many as it may."""
        if account is self.account:
            return
        if 0 < account.limits.connections <= account.connections:
            raise account.too_many("connections", account.limits.connections, "connections open")
        self.account.connections -= 1
        self.account = account
        account.connections += 1

    def answered(self) -> None:
        """The request or the stream is over for which it was taken."""
        if self.is_proxy:
            self.account.connections -= 1
            self.account = self.home
            self.account.connections += 1

    def leave(self) -> None:
        """It is closed."""
        self.account.connections -= 1


class Clients:
    """Every client there is, and the limits of those that have none of their own."""

    def __init__(self, limits: Limits, *, slots: int = 0) -> None:
        """`slots`: connections that all clients together may have open, 0 = unknown."""
        self.slots = slots
        self.limited: Counter[str] = Counter()  # what clients were refused, by the limit
        self._accounts: OrderedDict[str, Account] = OrderedDict()
        self.change(limits)

    def change(self, limits: Limits) -> None:
        """Other limits from now on; what is open stays."""
        self.limits = limits
        self._exempt = [ipaddress.ip_network(network) for network in limits.exempt]
        self._known = lru_cache(KNOWN_MAX)(self._who)
        self.renew()

    def renew(self) -> None:
        """Look again at each client's limits when it comes next."""
        for account in self._accounts.values():
            account.is_stale = True

    def of_address(self, address: str) -> Account:
        """The client at an address: of IPv6 its /64. Empty, or not an IP address: a peer on this machine, exempt."""
        id, is_exempt = self._known(address)
        return self._account(id, id, self.limits, is_exempt=is_exempt)

    def of_key(self, id: str, address: str, limits: Limits, *, is_exempt: bool) -> Account:
        """The client that a key names, wherever it comes from; an exempt peer stays exempt."""
        is_exempt = is_exempt or self._known(address)[1]
        return self._account(f"{id} exempt" if is_exempt else id, id, limits, is_exempt=is_exempt)

    def seat(self, address: str, *, is_proxy: bool = False) -> Seat | None:
        """Count a connection that was accepted just now; None: close it, its address has as many as it may.

        One address has at most half of all slots, also where there is no limit or it is exempt: somebody else must be
        able to look. `is_proxy`: it brings others' requests.
        """
        account = self.of_address(address)
        if not is_proxy:
            limits = [most for most in (account.limits.connections, self.slots // 2) if most]
            if limits and account.connections >= min(limits):
                return None
        return Seat(account, is_proxy=is_proxy)

    def present(self) -> int:
        """How many have a connection open."""
        return sum(account.connections > 0 for account in self._accounts.values())

    def __len__(self) -> int:
        return len(self._accounts)

    def _account(self, name: str, id: str, limits: Limits, *, is_exempt: bool) -> Account:
        accounts = self._accounts
        account = accounts.get(name)
        if account is None:
            account = accounts[name] = Account(id, limits, is_exempt=is_exempt, refused=self.limited)
            if len(accounts) > ACCOUNTS_MAX:
                self._forget_one()
        else:
            accounts.move_to_end(name)
            if account.is_stale:
                account.adopt(limits, is_exempt=is_exempt)
        return account

    def _forget_one(self) -> None:
        """The one not seen for longest, of those that have nothing open: they are far fewer than all."""
        for _ in range(len(self._accounts)):
            name, account = self._accounts.popitem(last=False)
            account.forget_symbols()
            if account.is_idle:
                return
            self._accounts[name] = account

    def _who(self, address: str) -> tuple[str, bool]:
        """The client's id, and whether it is exempt."""
        try:
            ip = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return address, True
        ip = getattr(ip, "ipv4_mapped", None) or ip
        is_exempt = any(ip in network for network in self._exempt)
        if ip.version == 4:
            return str(ip), is_exempt
        return str(ipaddress.ip_network((ip, V6_CLIENT), strict=False)), is_exempt
