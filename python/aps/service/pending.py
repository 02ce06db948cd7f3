"""What callers make the service hold: prompts until their requests have ended, and bodies that are being read."""

from collections.abc import Collection
from sys import maxsize

from aps.service.errors import Refusal
from aps.service.seldom import Seldom

RETRY_S = 1.0  # nobody knows when there is room
FREE = 1 << 14  # bytes of each body that are not counted: small ones come in whatever slow large ones do
FULL = "the service holds as many bytes of prompts and bodies as it may"


class Pending:
    """Counts these bytes and says no when there is no room for more. On the loop's thread.

    most: bytes; None: no bound. Bodies, which are nobody's before they are whole, may have half of it. Where more than
    half is used, a tenant that has more than `most` over the number of `tenants` (live) gets no more: so there is room
    for the others, whatever one of them does. bytes: held now. half: of `most`; up to there any prompt may be held.
    refused: how often it said no.
    """

    def __init__(self, most: int | None, tenants: Collection[str]) -> None:
        self.bytes = self.refused = 0
        self._most, self._tenants = maxsize if most is None else most, tenants
        self.half = self._most // 2
        self._bodies = 0
        self._held: dict[str, int] = {}
        self._full = Seldom("limits.max_pending_bytes is met: requests get 503")

    def check_prompt(self, tenant: str, size: int) -> None:
        """Refusal, 503: a prompt of that size (`size_of`) may not be held for the tenant now."""
        after = self.bytes + size
        if after <= self.half:
            return
        if after > self._most:
            raise self._no("pending_full", FULL)
        if self._held.get(tenant, 0) > self._most / len(self._tenants):
            raise self._no("pending_full", f"{tenant} has its part of the prompts that the service may hold")

    def hold(self, tenant: str, size: int) -> None:
        """A request with such a prompt has been admitted; `let_go` follows."""
        self.bytes += size
        held = self._held
        held[tenant] = held.get(tenant, 0) + size

    def let_go(self, tenant: str, size: int) -> None:
        """It has ended, and whoever asked is being told."""
        self.bytes -= size
        held = self._held
        left = held[tenant] - size
        if left:
            held[tenant] = left
        else:
            del held[tenant]

    def check_body(self, length: int) -> None:
        """Refusal, 503: a body that long may not be held now."""
        self._check(length - FREE)

    def read(self, come: int, held: int) -> int:
        """So many bytes of a body have come, of which so many are counted; how many are now, for `forget`.

        Refusal, 503: they may not be held.
        """
        more = come - FREE - held
        if more <= 0:
            return held
        self._check(more)
        self._bodies += more
        self.bytes += more
        return held + more

    def forget(self, size: int) -> None:
        """Of a body that is whole, or will never be, so many bytes were counted."""
        self._bodies -= size
        self.bytes -= size

    def _check(self, more: int) -> None:
        if more <= 0:
            return
        if self.bytes + more > self._most:
            raise self._no("bodies_full", FULL)
        if self._bodies + more > self.half:
            raise self._no("bodies_full", "the service holds as many bodies that are not whole as it may")

    def _no(self, reason: str, message: str) -> Refusal:
        self.refused += 1
        self._full.say()
        return Refusal(reason, f"{message} (limits.max_pending_bytes)", retry_after_s=RETRY_S)


def size_of(prompt: str) -> int:
    """Bytes that it takes at most. Not what Python says: that grows when somebody asks for its UTF-8."""
    return len(prompt) if prompt.isascii() else 4 * len(prompt)
