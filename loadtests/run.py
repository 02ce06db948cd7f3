"""The named load profiles against a service of our own: `make load`, or `python loadtests/run.py`.

    python loadtests/run.py --profile steady --profile noisy --seconds 30 --out build/load

Starts `aps serve` with keys for four tenants, runs Locust on it for each profile, prints the verdict and writes
`summary.html`, `summary.json` and Locust's own report of each profile. Exit code 1 when a threshold is missed.
"""

import argparse
import json
import sys
from html import escape
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from loadtests.figures import Check
from loadtests.plan import PlanError, read_profiles
from loadtests.playing import loaded_service, play

PROFILES = ("steady", "burst", "noisy", "ramp")


def main() -> int:
    """Run it; the exit code."""
    options = _options()
    try:
        known = read_profiles()
    except PlanError as error:
        print(f"loadtests: {error}", file=sys.stderr)
        return 2
    names = options.profile or list(PROFILES)
    if unknown := [name for name in names if name not in known]:
        print(f"loadtests: there is no profile {unknown[0]!r}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    with loaded_service() as loaded:
        found = [play(loaded, name, options.seconds, options.out) for name in names]
    _write(options.out, found)
    for data in found:
        print(f"{'PASSED' if data['met'] else 'FAILED'}  {data['profile']}: {data['says']}")
        for check in data["checks"]:
            if not check["met"]:
                print(f"        {Check(**check)}")
    print(f"the report: {options.out / 'summary.html'}")
    return 0 if all(data["met"] for data in found) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--profile", action="append", metavar="NAME", help=f"default: {', '.join(PROFILES)}")
    parser.add_argument("--seconds", type=float, metavar="N", help="of each, in place of the profile's")
    parser.add_argument("--out", type=Path, default=Path("build/load"), metavar="DIR", help="(default %(default)s)")
    return parser.parse_args()


COLUMNS = {
    "role": "tenant",
    "phase": "phase",
    "sent": "sent",
    "completed": "completed",
    "refused": "refused (429, 503)",
    "errors": "errors",
    "output_tokens_per_s": "output tokens/s",
    "p50_s": "p50, s",
    "p99_s": "p99, s",
    "ttft_p99_s": "first token p99, s",
    "retry_after_s": "Retry-After p50, s",
}
STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:.6rem 0}td,th{padding:.2rem .6rem;text-align:right;border-bottom:1px solid #ddd}
td:first-child,th:first-child{text-align:left}.met{color:#00694e}.missed{color:#a33c00;font-weight:600}"""


def _write(out: Path, found: list[dict[str, Any]]) -> None:
    (out / "summary.json").write_text(json.dumps(found, indent=2))
    parts = [_section(data) for data in found]
    word = "every threshold is met" if all(data["met"] for data in found) else "a threshold is missed"
    page = f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>APS under load</title><style>{STYLE}</style>
<h1>APS under load: {word}</h1>
<p>Seconds are the client's. p50 and p99 are of completed requests, from the request to its last byte. Tokens are
counted from the answers. Jain's index is of tokens over weight, while every tenant that has requests has one waiting,
from the service's counters.</p>{"".join(parts)}</html>"""
    (out / "summary.html").write_text(page)


def _section(data: dict[str, Any]) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for title in COLUMNS.values())
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(_text(row[key]))}</td>" for key in COLUMNS) + "</tr>" for row in data["rows"]
    )
    checks = "".join(
        f'<li class="{"met" if check.met else "missed"}">{escape(str(check))}</li>'
        for check in (Check(**each) for each in data["checks"])
    )
    name = escape(data["profile"])
    return f"""<h2>{name}: {escape(data["says"])}</h2><ul>{checks}</ul><table><tr>{head}</tr>{body}</table>
<p><a href="{name}.html">Locust's report</a>, <a href="{name}.log">its log</a></p>"""


def _text(value: object) -> str:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
