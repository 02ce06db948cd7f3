"""Independent computations on all cores, or on a cluster, by joblib."""

import importlib.util
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Back ends that joblib does not register itself: the module and its function that does.
REGISTERS = {"ray": ("ray.util.joblib", "register_ray")}
PACKAGES = {"dask": "distributed", "ray": "ray"}


@dataclass(frozen=True)
class Parallel:
    """Where to compute.

    jobs: at most so many at once; -1: as many as the back end has (cores of this machine, workers of a cluster); 1
    without a back end: in this process. backend: a name that joblib knows ("loky": processes, "threading"), "ray"
    (the cluster of the environment variable RAY_ADDRESS, else this machine), or "dask:ADDRESS" of a scheduler.
    Workers elsewhere must have aps installed, in the same version.

    Raises ValueError naming the field, the value and what is allowed.
    """

    jobs: int = -1
    backend: str = ""

    def __post_init__(self) -> None:
        if self.jobs < 1 and self.jobs != -1:
            raise ValueError(f"jobs must be 1 or more, or -1 for all cores, got {self.jobs}")

    def map(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        on_progress: Callable[[float], None] | None = None,
    ) -> list[Result]:
        """[function(item) for item in items], in order. Function, items and results must pickle.

        on_progress gets the part done, 0..1. ValueError when the back end is unknown, not installed or not reached.
        """
        if self.jobs == 1 and not self.backend:
            return list(_counted((function(item) for item in items), len(items), on_progress))
        import joblib

        with self._configured():
            able = joblib.parallel.get_active_backend()[0].supports_return_generator
            calls = (joblib.delayed(function)(item) for item in items)
            done = joblib.Parallel(return_as="generator" if able else "list")(calls)
            # Workers begin together: what the first results took says nothing about the rest.
            begun = min(joblib.effective_n_jobs(), len(items) // 4)
            return list(_counted(done, len(items), on_progress, begun))

    def _configured(self) -> AbstractContextManager[Any]:
        import joblib

        name, _, address = self.backend.partition(":")
        parameters: dict[str, Any] = {}
        if name == "dask":
            if not address:
                raise ValueError("backend dask needs its scheduler's address, as in dask:tcp://HOST:8786")
            parameters["scheduler_host"] = address
        elif address:
            raise ValueError(f"backend {name} takes no address, got {self.backend!r}")
        if name in PACKAGES and importlib.util.find_spec(PACKAGES[name]) is None:
            raise ValueError(f"backend {name} needs a package: pip install {PACKAGES[name]}")
        try:
            if name in REGISTERS:
                module, register = REGISTERS[name]
                getattr(importlib.import_module(module), register)()
            return joblib.parallel_config(backend=name or "loky", n_jobs=self.jobs, **parameters)  # type: ignore[no-any-return]
        except OSError as error:
            raise ValueError(f"backend {self.backend} cannot be reached: {error}") from error
        except ValueError as error:
            known = sorted({*joblib.parallel.BACKENDS, *PACKAGES} - {"sequential"})
            raise ValueError(f"backend must be of {', '.join(known)}, got {name!r}: {error}") from None


def _counted(
    results: Iterable[Result], number: int, on_progress: Callable[[float], None] | None, silent: int = 0
) -> Iterator[Result]:
    """The results, with progress after each but the first `silent`."""
    for done, result in enumerate(results, start=1):
        if on_progress is not None and done > silent:
            on_progress(done / number)
        yield result
