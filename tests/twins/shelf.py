"""The shelf of ended requests in plain Python: every look is a look at all of them."""

from typing import NamedTuple


class Kept(NamedTuple):
    """One ended request. at: of its end."""

    handle: int
    tenant: str
    size: int
    at: float


class Shelf:
    """given, unread: in the order of their ends; fetched: of the given ones, those that were unread, as they came to be
    given."""

    def __init__(self, for_s: float, most: int, most_bytes: int) -> None:
        self.for_s, self.most, self.most_bytes = for_s, most, most_bytes
        self.fetched: list[Kept] = []
        self.given: list[Kept] = []
        self.unread: list[Kept] = []

    @property
    def kept(self) -> list[Kept]:
        """All of them."""
        return self.fetched + self.given + self.unread

    def put(self, one: Kept, given: bool, left: set[int]) -> None:
        """left: what the other shelf keeps now; where several may go it says which."""
        (self.given if given else self.unread).append(one)
        if self._is_full() and (self.fetched or self.unread):  # else the oldest goes first anyway
            self.forget_old(one.at)
        while self._is_full():
            victims = [victim for victim in self._may_go() if victim.handle not in left]
            assert victims, f"of {self._may_go()} one had to go"
            for pile in (self.fetched, self.given, self.unread):
                if victims[0] in pile:
                    pile.remove(victims[0])

    def give(self, handle: int) -> None:
        """Its client has it."""
        for one in self.unread:
            if one.handle == handle:
                self.unread.remove(one)
                self.fetched.append(one)
                return

    def forget_old(self, now: float) -> None:
        """Those that are too old."""
        self.fetched = [one for one in self.fetched if one.at >= now - self.for_s]
        self.given = [one for one in self.given if one.at >= now - self.for_s]
        self.unread = [one for one in self.unread if one.at >= now - self.for_s]

    def _is_full(self) -> bool:
        return len(self.kept) > self.most or sum(one.size for one in self.kept) > self.most_bytes

    def _may_go(self) -> list[Kept]:
        """The first of the given ones, or, if there are none, the oldest of each tenant that has most of the unread."""
        for told in (self.fetched, self.given):
            if told:
                return told[:1]
        pile = self.unread
        loads = {one.tenant: self._load(pile, one.tenant) for one in pile}
        fullest = [tenant for tenant, load in loads.items() if load == max(loads.values())]
        for tenant in fullest:  # it keeps more than its part
            number, size = self._sums(pile, tenant)
            assert number * len(loads) > self.most or size * len(loads) > self.most_bytes
        return [next(one for one in pile if one.tenant == tenant) for tenant in fullest]

    def _load(self, pile: list[Kept], tenant: str) -> int:
        number, size = self._sums(pile, tenant)
        return max(number * self.most_bytes, size * self.most)

    def _sums(self, pile: list[Kept], tenant: str) -> tuple[int, int]:
        sizes = [one.size for one in pile if one.tenant == tenant]
        return len(sizes), sum(sizes)
