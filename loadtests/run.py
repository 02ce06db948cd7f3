"""The named load profiles against a service of our own: `make load`, or `python loadtests/run.py`.

    python loadtests/run.py --profile steady --profile noisy --seconds 30 --out build/load

Starts `aps serve` with keys for four tenants, runs Locust on it for each profile, prints the verdict and writes
`summary.html`, `summary.json` and Locust's own report of each profile. Exit code 1 when a threshold is missed.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from html import escape
from os import environ
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.append(str(ROOT))

from aps.service.keys import hash_line, new_key  # noqa: E402
from loadtests.figures import Check  # noqa: E402
from loadtests.plan import ROLES, PlanError, read_profiles  # noqa: E402
from loadtests.serving import Service, serving  # noqa: E402

PROFILES = ("steady", "burst", "noisy", "ramp")
CONFIG = ROOT / "loadtests/aps.toml"
METRICS_VARIABLE = "APS_METRICS_KEY"


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
    keys = {role: new_key() for role in ROLES}
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "aps.toml"
        config.write_text(_with_keys(CONFIG.read_text(), keys))
        metrics_key = new_key()
        with serving("--config", str(config), env={METRICS_VARIABLE: metrics_key}) as service:
            given = {
                "APS_KEYS": ",".join(f"{role}={key}" for role, key in keys.items()),
                METRICS_VARIABLE: metrics_key,
                "APS_LOAD_TENANTS": str(_roles(Path(folder))),
            }
            found = [_play(service, name, options.seconds, options.out, given) for name in names]
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


def _with_keys(text: str, keys: dict[str, str]) -> str:
    """The configuration with a key for each tenant."""
    for role, key in keys.items():
        head = f"[tenants.{role}]\n"
        assert head in text, head
        text = text.replace(head, f'{head}keys = ["{hash_line(key)}"]\n')
    return text


def _roles(folder: Path) -> Path:
    file = folder / "tenants.toml"
    file.write_text("".join(f'{role} = "{role}"\n' for role in ROLES))
    return file


def _play(service: Service, name: str, seconds: float | None, out: Path, given: dict[str, str]) -> dict[str, Any]:
    """One profile; its figures. Those of a Locust that failed say so."""
    print(f"== {name}", flush=True)
    figures, report = out / f"{name}.json", out / f"{name}.html"
    figures.unlink(missing_ok=True)
    command = [sys.executable, "-m", "locust", "-f", str(ROOT / "loadtests/locustfile.py"), "--headless"]
    command += ["--host", service.url, "--only-summary", "--loglevel", "ERROR", "--load-profile", name]
    command += ["--figures", str(figures), "--html", str(report)]
    if seconds is not None:
        command += ["--seconds", str(seconds)]
    done = subprocess.run(
        command, env={**environ, **given}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    (out / f"{name}.log").write_text(done.stdout)
    own = re.search(rf"^{re.escape(name)}: .*^{re.escape(name)}: \w+$", done.stdout, re.MULTILINE | re.DOTALL)
    print(own[0] if own else done.stdout, flush=True)
    if not figures.exists():
        message = f"Locust ended with exit code {done.returncode} and no figures"
        checks = [Check(message, None, 0.0, False, False)._asdict()]
        return {"profile": name, "says": message, "rows": [], "checks": checks, "met": False}
    data: dict[str, Any] = json.loads(figures.read_text())
    data["resident_mb"] = service.resident_bytes() / 2**20
    return data


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
