"""How long a step of an iteration-level engine takes, given what it computes."""
cimport cython

from math import isfinite


cdef class StepTimeModel:
    """Seconds of one step. A subclass overrides the C method `seconds`; this one takes no time at all."""

    cdef double seconds(self, const StepShape* shape) noexcept nogil:
        return 0.0

    def step_seconds(self, *, prefill_tokens=0, chunks=None, decodes=0, emits=None, decode_context=0,
                     prefill_squares=None, prefill_past=0.0):
        """Seconds of a step with this shape.

        prefill_tokens: of all chunks; chunks: their number (default 1 when there are any); decodes: sequences that
        generate; emits: sequences that get a token (default: decodes + chunks); decode_context: cached tokens of the
        decodes; prefill_squares: sum of squared chunk lengths (default: equal chunks); prefill_past: sum over chunks
        of length * tokens cached before. ValueError: a negative or non-finite number.
        """
        cdef StepShape shape
        if chunks is None:
            chunks = 1 if prefill_tokens else 0
        if emits is None:
            emits = decodes + chunks
        if prefill_squares is None:
            prefill_squares = prefill_tokens * prefill_tokens / chunks if chunks else 0.0
        given = {
            "prefill_tokens": prefill_tokens, "chunks": chunks, "decodes": decodes, "emits": emits,
            "decode_context": decode_context, "prefill_squares": prefill_squares, "prefill_past": prefill_past,
        }
        for name, value in given.items():
            if not isfinite(value) or value < 0:
                raise ValueError(f"{name} must be a finite number, at least 0, not {value!r}")
        shape.prefill_tokens = prefill_tokens
        shape.chunks = chunks
        shape.decodes = decodes
        shape.emits = emits
        shape.running = shape.decodes + shape.chunks
        shape.decode_context = decode_context
        shape.prefill_squares = prefill_squares
        shape.prefill_past = prefill_past
        return self.seconds(&shape)


@cython.final
cdef class ReferenceModel(StepTimeModel):
    """`prefill_tokens / prefill_rate + b / (decode_rate * s(b))`, b the sequences in the step.

    s rises in a straight line from 1 at b = 1 to `speedup` at `speedup_batch`, and stays there. Prefill is not sped up
    by batching and blocks the decodes of its step. Stylised: a real A100 is several times faster, and its speed-up at
    batch 16 is 4 to 12.
    """

    def __cinit__(self, *, double prefill_rate=1024.0, double decode_rate=128.0, double speedup=2.5,
                  int64_t speedup_batch=16):
        for name, value in (("prefill_rate", prefill_rate), ("decode_rate", decode_rate), ("speedup", speedup)):
            if not isfinite(value) or value <= 0:
                raise ValueError(f"{name} must be a finite number above 0, not {value!r}")
        if speedup_batch < 2:
            raise ValueError(f"speedup_batch must be at least 2, not {speedup_batch}")
        self.prefill_rate = prefill_rate
        self.decode_rate = decode_rate
        self.speedup = speedup
        self.speedup_batch = speedup_batch

    cdef double seconds(self, const StepShape* shape) noexcept nogil:
        cdef int64_t b = shape.running
        cdef double s = self.speedup
        if b < self.speedup_batch:
            s = 1.0 + (self.speedup - 1.0) * <double>(b - 1) / <double>(self.speedup_batch - 1)
        return <double>shape.prefill_tokens / self.prefill_rate + <double>b / (self.decode_rate * s)
