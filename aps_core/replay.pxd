"""See replay.pyx."""
cimport cython

from aps_core.admission cimport Admission
from aps_core.all_wait cimport AllWait
from aps_core.arrivals cimport Arrivals
from aps_core.batch_assembler cimport BatchAssembler
from aps_core.contention cimport Contention
from aps_core.gpu cimport Total
from aps_core.kv_cache cimport KVCache
from aps_core.ledger cimport Asked, Ledger, Told
from aps_core.request_table cimport RequestTable
from aps_core.scheduler cimport Scheduler
from aps_core.settlement cimport Settlement
from aps_core.stay_log cimport StayLog
from aps_core.time_series cimport TimeSeries
from aps_core.timeline cimport Timeline
from aps_core.types cimport int32_t, int64_t

cdef enum Outcome:            # why the loop has stopped
    REACHED = 0               # nothing more happens up to the instant asked for
    PAUSED = 1                # so many events have been played
    NO_ROWS = 2               # the request table must grow
    NO_ROOM = 3               # an engine's: no slot or KV for what the scheduler starts
    NO_BLOCKS = 4             # an engine's: its step would overrun the KV cache
    NO_TIME = 5               # an engine's: its model gives the step no time in 0..4e8 s

cdef struct Place:            # what a row of the request table stands for
    int64_t request
    int64_t stay              # in the log, or NONE
    int64_t lost              # tokens that it has had in a cache and must compute again

cdef struct Unit:             # a device
    void* engine              # an Engine; `engines` keeps it alive
    int64_t end_ns            # of the step that runs; INT64_MAX: none
    int64_t idle_slots        # free in that step while somebody who may go waits
    Total idle                # the same over time in steps


@cython.final
cdef class Replay:
    cdef Scheduler scheduler
    cdef Admission admission
    cdef BatchAssembler assembler
    cdef Contention contention
    cdef KVCache kv
    cdef RequestTable table
    cdef Settlement settlement
    cdef Timeline timeline
    cdef Arrivals arrivals
    cdef TimeSeries trends
    cdef AllWait all_wait
    cdef StayLog log
    cdef readonly tuple engines
    cdef Unit* units
    cdef int32_t devices
    cdef int32_t* account     # of a tenant, by its slot in the scheduler
    cdef Place* places        # by row of the request table
    cdef Ledger ledger
    cdef Asked asked          # the ledger's
    cdef Told told
    cdef readonly int64_t n
    cdef readonly int64_t now_ns
    cdef readonly int64_t steps           # of engines, ended
    cdef readonly int64_t submitted
    cdef readonly int64_t ended
    cdef int64_t live         # accepted and not ended
    cdef int64_t rows         # of `places`
    cdef int64_t wake_ns      # the scheduler's next event
    cdef int64_t dispatched
    cdef double epoch
    cdef bint swaps           # preempted requests keep their cache
    cdef bint closed
    cdef Outcome outcome      # the last: what is broken stays so
    cdef int64_t* sizes       # (slots + 1,): batches by the requests that then run
    cdef int64_t* releases    # (4,): batches by Release
    cdef object memory, batches, places_memory

    cdef Outcome play(self, int64_t until_ns, int64_t events) noexcept nogil
    cdef void advance(self, int64_t now_ns) noexcept nogil
    cdef bint arrive(self) noexcept nogil         # false: the request table must grow first
    cdef void submit(self, int64_t request, double now) noexcept nogil
    cdef void take(self, int32_t device) noexcept nogil
    cdef Outcome fill(self) noexcept nogil        # REACHED: all is well
    cdef void displace(self, int32_t device, int32_t row) noexcept nogil
    cdef Outcome start(self, int32_t device) noexcept nogil
    cdef Outcome begin(self, int32_t device) noexcept nogil
    cdef void collect(self) noexcept nogil
    cdef void end(self, int64_t request, int32_t reason) noexcept nogil
    cdef void grow(self) except *

    cdef object take_engines(self, tuple engines)
    cdef int32_t open_accounts(self) except -1
    cdef object watch(self, int32_t device, int32_t accounts)
    cdef object must_be_alone(self)
    cdef object fail(self)
