"""Where a request comes in at the Python face: names become slots, and the core's answer a verdict.

Of the face this alone is compiled, because every request passes it. What is rare is done by the class built on it.
"""
from aps_core.clock cimport FOREVER
from aps_core.named_rows cimport make_row
from aps_core.types cimport int64_t


cdef class Front:
    """What `aps.Scheduler` is built on. Its fields:

    _core_submit: the core's `submit`. _accounts: by tenant, (slot, default bid, default max_tokens, max_bid). _handles,
    _ids: of requests with an id of the caller's, both ways. _verdict_type: a NamedTuple, of the fields of `aps.Verdict`.

    Its methods beside: _unknown(tenant), the error. _unusual(bid, expected_output, id, now): checks them, and gives the
    bid as an int. _keep(id, handle). _refused(code, id, bid, clamped), the verdict.
    """

    @classmethod
    def __class_getitem__(cls, verdict):
        """For annotations: `Front[Verdict]`."""
        return cls

    def submit(
        self, tenant, *, prompt_tokens, max_tokens=None, bid=None, now, deadline_at=None, expected_output=None, id=None
    ):
        """Ask for a request to be served: a prompt of >= 1 tokens and at most max_tokens >= 1 of output.

        max_tokens, bid (1..10): the tenant's defaults when None. deadline_at: the instant by which it must have
        started. expected_output: output tokens charged at dispatch, instead of the policy's.
        """
        account = self._accounts.get(tenant)
        if account is None:
            raise self._unknown(tenant)
        cdef tuple row = <tuple>account
        if max_tokens is None:
            max_tokens = row[2]
        if bid is None:
            bid = row[1]
        if id is not None or expected_output is not None or type(bid) is not int:
            bid = self._unusual(bid, expected_output, id, now)
        if deadline_at is None and expected_output is None:
            answer = self._core_submit(row[0], prompt_tokens, max_tokens, bid, now)
        else:
            answer = self._core_submit(
                row[0], prompt_tokens, max_tokens, bid, now, FOREVER if deadline_at is None else deadline_at,
                -1 if expected_output is None else expected_output,
            )
        cdef bint clamped = <int64_t>bid > <int64_t>row[3]
        if clamped:
            bid = row[3]
        if <int64_t>answer < 0:
            return self._refused(-<int64_t>answer, id, bid, clamped)
        if id is None:
            id = answer
        else:
            self._keep(id, answer)
        return make_row(self._verdict_type, ("admitted", "admitted", id, bid, clamped, 0.0, None))
