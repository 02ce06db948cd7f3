"""Looking at the scheduler without changing it: why a request waits, and everything at once."""
import numpy as np

from aps_core.fair_share cimport Share
from aps_core.kv_cache cimport KVNeed
from aps_core.request_table cimport PAID, Request
from aps_core.tenant_table cimport ALL, VACANT, Tenant
from aps_core.types cimport BIDS, NONE, RETURNING, RUNNING, WAITING, uint8_t

cdef tuple TENANT_COUNTS = (
    "waiting", "waiting_tokens", "in_flight", "held_blocks", "admitted", "rejected", "throttled", "started",
    "finished", "cancelled",
    "expired", "preempted", "prompt_tokens", "output_tokens", "charged_tokens",
)


cdef int32_t ahead_in_heap(Contention contention, int32_t row, int32_t root):
    """How many of a lane's out-of-order entries go before a row."""
    cdef int32_t n = 0, at
    pending = [root]
    while pending:
        at = pending.pop()
        while at != NONE:
            n += at != row and contention.lanes.outranks(at, row)
            if contention.table.rows[at].child != NONE:
                pending.append(contention.table.rows[at].child)
            at = contention.table.rows[at].next
    return n


cdef int32_t position(Contention contention, int32_t row):
    """Earlier requests of its tenant in policy order. Walks the part of each lane that goes before: O(position)."""
    cdef int32_t slot = contention.table.rows[row].tenant, index, at, n = 0
    for index in range(BIDS):
        at = contention.lanes.lanes[slot * BIDS + index].head
        while at != NONE and contention.lanes.outranks(at, row):
            n += 1
            at = contention.table.rows[at].next
        n += ahead_in_heap(contention, row, contention.lanes.lanes[slot * BIDS + index].stray)
    return n


cdef str waits_for(Contention contention, BatchAssembler assembler, int32_t row, int64_t now_ns):
    """The first thing that stands in the way."""
    cdef Request* request = &contention.table.rows[row]
    cdef Tenant* tenant = &contention.tenants.rows[request.tenant]
    cdef int32_t device, first
    cdef bint slot_free = False, idle = False, released = False
    for device in range(contention.kv.devices):
        slot_free |= contention.kv.running(device) < contention.kv.slots(device)
        if contention.kv.running(device) == 0:
            idle = True
            released |= assembler.filled(device) or assembler.window_end_ns(device) <= now_ns
    if request.state == RETURNING:
        return "kv" if slot_free else "slot"
    if not contention.fair.shares[request.tenant].contends:
        if tenant.in_flight >= tenant.max_in_flight:
            return "in_flight"
        first = contention.first(request.tenant)
        return "kv_share" if tenant.held_blocks + contention.blocks(first) > tenant.kv_blocks else "rate"
    if not contention.fair.in_window(request.tenant):
        return "share"
    if assembler.is_reserved(row):
        return "kv"
    if assembler.rules.micro:
        if not idle:
            return "slot"
        return "turn" if released else "batch_window"
    return "turn" if slot_free else "slot"


cdef object start_in_s(Contention contention, int32_t row, int64_t ahead, int64_t now_ns):
    """A rough estimate: the wait for the bucket, or those ahead at the tenant's recent pace, whichever is longer;
    None when unknown."""
    cdef Request* request = &contention.table.rows[row]
    cdef Tenant* tenant = &contention.tenants.rows[request.tenant]
    cdef int64_t payable_ns = now_ns
    cdef double wait_s
    if not tenant.paced:
        return None
    if not request.flags & PAID:
        payable_ns = contention.buckets.affordable_ns(request.tenant, contention.bucket_cost(row), now_ns)
    wait_s = <double>(payable_ns - now_ns) * 1e-9
    return max(wait_s, tenant.start_interval_s * <double>(ahead + 1))


cdef int64_t prefill(Contention contention, BatchAssembler assembler, int32_t row):
    """Tokens still to prefill, now or at the next start."""
    cdef Request* request = &contention.table.rows[row]
    cdef KVNeed need
    if request.state == RUNNING:
        return contention.kv.prefill_left(request.device, request.row)
    assembler.need(row, &need)
    return need.prefill


cdef dict explain(Contention contention, BatchAssembler assembler, int32_t row, int64_t now_ns):
    cdef Request* request = &contention.table.rows[row]
    cdef bint waiting = request.state == WAITING, running = request.state == RUNNING
    cdef int64_t ahead = position(contention, row) if waiting else 0
    return {
        "state": "waiting" if waiting else "running" if running else "returning",
        "tenant": request.tenant,
        "bid": request.bid,
        "effective_bid": contention.lanes.effective_bid(row, now_ns),
        "position": ahead,
        "waits_for": "" if running else waits_for(contention, assembler, row, now_ns),
        "start_in_s": start_in_s(contention, row, ahead, now_ns) if waiting else None,
        "computed": contention.kv.computed(request.device, request.row) if running else 0,
        "generated": request.generated,
        "prefill": prefill(contention, assembler, row),
        "device": request.device if running else -1,
        "preemptions": request.preemptions,
        "passes": request.passes,
    }


cdef dict snapshot(Contention contention, BatchAssembler assembler, TokenBuckets request_buckets, int64_t now_ns):
    cdef int32_t slot, device
    cdef Py_ssize_t at
    cdef Share* share
    slots = np.flatnonzero(contention.tenants.records["state"][1:] != VACANT).astype(np.int32) + 1
    records = contention.tenants.records[slots]
    tenants = {"slot": slots, "state": records["state"].copy()}
    numbers = np.empty((6, len(slots)), np.float64)
    answers = np.empty((2, len(slots)), np.bool_)
    cdef double[:, ::1] number = numbers
    cdef uint8_t[:, ::1] answer = answers.view(np.uint8)
    cdef const int32_t[::1] live = slots
    for at in range(live.shape[0]):
        slot = live[at]
        share = &contention.fair.shares[slot]
        number[0, at] = share.weight
        number[1, at] = share.service
        number[2, at] = share.credit
        number[3, at] = share.threshold
        number[4, at] = contention.buckets.level_at(slot, now_ns)
        number[5, at] = request_buckets.level_at(slot, now_ns)
        answer[0, at] = share.contends
        answer[1, at] = contention.fair.in_window(slot)
    tenants |= zip(("weight", "service", "credit", "threshold"), numbers[:4], strict=True)
    tenants |= zip(("contending", "in_window"), answers, strict=True)
    tenants |= zip(("level", "request_level"), numbers[4:], strict=True)
    for name in TENANT_COUNTS:
        tenants[name] = records[name].copy()
    devices = [
        (
            contention.kv.slots(device),
            contention.kv.running(device),
            contention.kv.held(device),
            contention.kv.maxima(device),
            contention.kv.limit(device),
            contention.table.handle(assembler.reserved[device]) if assembler.reserved[device] != NONE else 0,
        )
        for device in range(contention.kv.devices)
    ]
    columns = ("slots", "running", "held_blocks", "max_blocks", "limit", "reserved")
    return {
        "virtual_time": contention.fair.virtual_time,
        "widest_gap": contention.fair.widest_gap,
        "waiting": contention.tenants.rows[ALL].waiting,
        "waiting_tokens": contention.tenants.rows[ALL].waiting_tokens,
        "contending": contention.fair.contending,
        "returning": contention.returning,
        "tenants": tenants,
        "devices": {name: np.array([row[i] for row in devices], np.int64) for i, name in enumerate(columns)},
    }
