"""The one home of C types and status enums."""
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    NONE = -1                 # no slot, no row, no request
    BIDS = 10                 # bids are 1..BIDS

cdef enum State:              # of a request
    FREE = 0
    WAITING = 1
    RUNNING = 2
    RETURNING = 3             # preempted, to run again
    RETIRED = 4               # its generations are used up
    ENDED = 5                 # ended without a call of its own, not yet reported

cdef enum Reason:             # why the answer is not "admitted", or why a request ended without a call of its own
    ADMITTED = 0
    EXCEEDS_CONTEXT = 1
    EXCEEDS_KV_CACHE = 2
    EXCEEDS_MAX_REQUEST = 3
    EXCEEDS_KV_SHARE = 4
    EXCEEDS_BURST = 5
    EXCEEDS_QUEUE = 6
    EXCEEDS_TENANT_QUEUE = 7  # the last that says "never"
    QUEUE_FULL = 8
    QUEUE_TOKENS_FULL = 9
    TENANT_QUEUE_FULL = 10
    TENANT_QUEUE_TOKENS_FULL = 11
    OVER_REQUEST_RATE = 12
    OVER_RATE = 13
    DEADLINE_EXPIRED = 14

cdef enum Release:            # why a batch was released
    NOT_RELEASED = 0
    CONTINUOUS = 1
    WINDOW = 2
    FILL = 3
