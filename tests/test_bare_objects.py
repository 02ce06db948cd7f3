"""No public object crashes the interpreter, however it was made: an error of Python's is the worst that may come."""

import subprocess
import sys
from pathlib import Path

PROBE = """
import aps, aps_core, aps.metrics, aps.pump, importlib, inspect, pkgutil, sys

modules = [importlib.import_module(f"aps_core.{found.name}") for found in pkgutil.iter_modules(aps_core.__path__)]
classes = {made for module in [*modules, aps, aps.metrics, aps.pump] for name, made in vars(module).items()
           if inspect.isclass(made) and made.__module__.partition(".")[0] in ("aps", "aps_core")}
for made in sorted(classes, key=lambda made: (made.__module__, made.__name__)):
    for how in (made, lambda: made.__new__(made)):
        try:
            bare = how()
        except Exception:
            continue
        for name in dir(bare):
            print(made.__module__, made.__name__, name, flush=True)
            try:
                value = getattr(bare, name)
                repr(bare)
            except Exception:
                continue
            if not callable(value) or name.startswith("__") or inspect.iscoroutinefunction(value):
                continue
            for count in range(10):
                for fill in (None, 0, 1.0, bare):
                    try:
                        value(*[fill] * count)
                    except Exception:
                        pass
print(len(classes), "classes")
"""


def test_no_bare_object_crashes_the_interpreter(tmp_path: Path) -> None:
    probed = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROBE], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    last = probed.stdout.splitlines()[-1]
    assert probed.returncode == 0, (last, probed.stderr[-2000:])
    assert int(last.split()[0]) > 40, last
