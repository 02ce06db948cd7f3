"""How long a step of an iteration-level engine takes, given what it computes."""
cimport cython

import numpy as np

from aps_core.arguments cimport positive, real, whole, whole_array
from aps_core.types cimport int64_t

cdef int64_t _MOST = <int64_t>1 << 53   # tokens of a step: exact as doubles
cdef object _INT64 = np.dtype(np.int64)


cdef class StepTimeModel:
    """Seconds of one step. A subclass overrides the C method `seconds`; this one takes no time at all.

    Models are values: equal when of one type with equal constants, hashable, and they can be pickled.
    """

    cdef double seconds(self, const StepShape* shape) noexcept nogil:
        return 0.0

    def constants(self):
        """The numbers it was made from, as the keywords of its constructor."""
        return {}

    def step_seconds(self, *, prefill_tokens=0, chunks=None, decodes=0, emits=None, decode_context=0,
                     prefill_squares=None, prefill_past=0.0, swapped_tokens=0):
        """Seconds of a step with this shape.

        prefill_tokens: of all chunks; chunks: their number (default 1 when there are any); decodes: sequences that
        generate; emits: sequences that get a token (default: decodes + chunks); decode_context: cached tokens of the
        decodes; prefill_squares: sum of squared chunk lengths (default: equal chunks); prefill_past: sum over chunks
        of length * tokens cached before; swapped_tokens: cached tokens moved out or in before the step.
        ValueError: a number below 0 or not finite. TypeError: tokens or sequences that are no integer.
        """
        cdef StepShape shape
        shape.prefill_tokens = whole(prefill_tokens, "prefill_tokens", 0, _MOST)
        shape.chunks = (1 if shape.prefill_tokens else 0) if chunks is None else whole(chunks, "chunks", 0, _MOST)
        shape.decodes = whole(decodes, "decodes", 0, _MOST)
        shape.running = shape.decodes + shape.chunks
        shape.emits = shape.running if emits is None else whole(emits, "emits", 0, _MOST)
        shape.decode_context = whole(decode_context, "decode_context", 0, _MOST)
        if prefill_squares is not None:
            shape.prefill_squares = real(prefill_squares, "prefill_squares", 0.0, 1e300)
        elif shape.chunks:
            shape.prefill_squares = <double>shape.prefill_tokens * <double>shape.prefill_tokens / <double>shape.chunks
        else:
            shape.prefill_squares = 0.0
        shape.prefill_past = real(prefill_past, "prefill_past", 0.0, 1e300)
        shape.swapped_tokens = whole(swapped_tokens, "swapped_tokens", 0, _MOST)
        return self.seconds(&shape)

    def steps_seconds(self, *, prefill_tokens, decodes, decode_context, prefill_past):
        """Seconds of n steps, float64 (n,): `step_seconds` for each row of the arguments, arrays (n,).

        A step has at most one chunk. ValueError: lengths that differ, or what `step_seconds` refuses; TypeError alike.
        """
        cdef int64_t[::1] tokens = whole_array(prefill_tokens, "prefill_tokens", 0, _MOST, _INT64)
        cdef int64_t[::1] sequences = whole_array(decodes, "decodes", 0, _MOST, _INT64)
        cdef int64_t[::1] context = whole_array(decode_context, "decode_context", 0, _MOST, _INT64)
        cdef double[::1] past = np.ascontiguousarray(prefill_past, dtype=np.float64)
        cdef Py_ssize_t i, n = tokens.shape[0]
        if not n == sequences.shape[0] == context.shape[0] == past.shape[0]:
            raise ValueError("prefill_tokens, decodes, decode_context and prefill_past must have one length, got "
                             f"{n}, {sequences.shape[0]}, {context.shape[0]}, {past.shape[0]}")
        result = np.empty(n)
        cdef double[::1] seconds = result
        cdef StepShape shape
        shape.swapped_tokens = 0
        for i in range(n):
            if not (0 <= tokens[i] <= _MOST and 0 <= sequences[i] <= _MOST and 0 <= context[i] <= _MOST
                    and 0.0 <= past[i] <= 1e300):
                raise ValueError(f"step {i} must have finite numbers, 0 or more, got {tokens[i]}, {sequences[i]}, "
                                 f"{context[i]}, {past[i]}")
            shape.prefill_tokens = tokens[i]
            shape.chunks = tokens[i] > 0
            shape.decodes = sequences[i]
            shape.running = shape.decodes + shape.chunks
            shape.emits = shape.running
            shape.decode_context = context[i]
            shape.prefill_squares = <double>tokens[i] * <double>tokens[i]
            shape.prefill_past = past[i]
            seconds[i] = self.seconds(&shape)
        return result

    def __repr__(self):
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.constants().items())})"

    def __eq__(self, other):
        return type(self) is type(other) and self.constants() == other.constants()

    def __hash__(self):
        return hash((type(self), *self.constants().values()))

    def __getnewargs_ex__(self):
        return (), self.constants()


@cython.final
cdef class ReferenceModel(StepTimeModel):
    """`prefill_tokens / prefill_rate + b / (decode_rate * s(b)) + swapped_tokens / swap_rate`, b the sequences in the
    step.

    s rises in a straight line from 1 at b = 1 to `speedup` at `speedup_batch` (at least 2), and stays there. Prefill is
    not sped up by batching and blocks the decodes of its step. Stylised: a real A100 is several times faster, and its
    speed-up at batch 16 is 4 to 12. Rates are tokens a second; swap_rate: 25 GB/s (what copies reach of the 31.5 GB/s
    of PCI Express 4.0 x16) over the 512 KiB that a token of Llama-2-7B caches.

    ValueError (TypeError for a wrong type) names the constant, the value and what is allowed.
    """

    def __cinit__(self, *, prefill_rate=1024.0, decode_rate=128.0, speedup=2.5, speedup_batch=16, swap_rate=47_684.0):
        self.prefill_rate = positive(prefill_rate, "prefill_rate", False)
        self.decode_rate = positive(decode_rate, "decode_rate", False)
        self.speedup = positive(speedup, "speedup", False)
        self.speedup_batch = whole(speedup_batch, "speedup_batch", 2, 2147483647)
        self.swap_rate = positive(swap_rate, "swap_rate", False)

    def constants(self):
        return {
            "prefill_rate": self.prefill_rate, "decode_rate": self.decode_rate, "speedup": self.speedup,
            "speedup_batch": self.speedup_batch, "swap_rate": self.swap_rate,
        }

    cdef double seconds(self, const StepShape* shape) noexcept nogil:
        cdef int64_t b = shape.running
        cdef double s = self.speedup
        if b < self.speedup_batch:
            s = 1.0 + (self.speedup - 1.0) * <double>(b - 1) / <double>(self.speedup_batch - 1)
        return (<double>shape.prefill_tokens / self.prefill_rate + <double>b / (self.decode_rate * s)
                + <double>shape.swapped_tokens / self.swap_rate)
