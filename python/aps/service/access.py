"""Who asks: the role behind an `Authorization` header."""

from typing import Literal, NamedTuple

from aps.service.errors import Refusal


class Role(NamedTuple):
    """What a caller may do. tenant: whose requests and status are its own; None unless the kind is "tenant".

    "open": no keys are configured, anybody may do anything. "admin": everything. "metrics": `GET /metrics`.
    """

    kind: Literal["open", "tenant", "metrics", "admin"]
    tenant: str | None = None

    def tenant_for(self, asked: str | None) -> str:
        """Whom a request is charged to. Refusal: 403 another's or nobody's, 422 it must be said."""
        if self.kind == "tenant" and (asked is None or asked == self.tenant):
            assert self.tenant is not None
            return self.tenant
        if self.kind == "tenant" or self.kind == "metrics":
            raise Refusal("forbidden", "this key is not for that tenant's requests", field="tenant_id")
        if asked is None:
            raise Refusal("invalid", "tenant_id: missing required field", field="tenant_id")
        return asked


ANYBODY = Role("open")


class Access:
    """Asked once a request, before anything else of it is read. No keys: everybody may do everything."""

    open = True

    def identify(self, authorization: bytes | None) -> Role:
        """The role of the header's key. Refusal, 401: there is none, or nobody has it."""
        return ANYBODY
