"""Serve the scheduler over HTTP in front of simulated GPUs."""

import argparse
import errno
import gc
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from aps.cli import hangups
from aps.cli.check_config import counted
from aps.cli.common import TryAgain, UsageError, need_otel_extra, need_service_extra
from aps.cli.key_options import flag, given
from aps.profiles import PROFILES

if TYPE_CHECKING:
    from aps.driver import Driver
    from aps.record import Recorder
    from aps.service.access import Access
    from aps.service.config import Config, Settings
    from aps.service.keeper import Keeper
    from aps.service.telemetry import Telemetry

LOG = logging.getLogger("aps.serve")

HELP = "start the HTTP service"
EPILOG = """examples:
  aps serve                                     on http://127.0.0.1:8000, in real time
  aps serve --time-scale 10 --gpus 2            ten simulated seconds in each of yours, two GPUs
  aps serve --policy strict                     highest bid first, no fairness
  aps serve --config aps.toml                   your tenants, keys and everything else; see aps check-config
  aps serve --store aps.db                      tenants and keys in a database, changed by aps tenants
  aps serve --record night.jsonl.gz             every call in a file, for aps replay, aps simulate and aps compare

then:
  curl -s localhost:8000/infer -d '{"tenant_id": "tenant_a", "prompt": "Why is the sky blue?", "max_tokens": 64}'
  curl -s localhost:8000/tenants/tenant_a/status
  curl -s localhost:8000/metrics

The default tenants: tenant_a 500 tokens/s with a burst of 5,000, tenant_b 300 and 3,000, tenant_c 1,000 and 10,000;
and stress_vip and stress_free, shares 85:15, for `aps stress`.

Every option but --config is a key of the configuration too, and over it an environment variable: --port over
APS_SERVER_PORT over port in [server]. SIGHUP reads the file again: tenants, keys and the two knobs change at once.
"""

# Options that are keys. Their text is read and checked with the rest of the configuration.
FLAGS = {
    "host": "server.host",
    "port": "server.port",
    "insecure_open": "server.insecure_open",
    "drain_s": "server.drain_s",
    "gpus": "devices.gpus",
    "profile": "devices.profile",
    "time_scale": "devices.time_scale",
    "gpu_hour_dollars": "price.gpu_hour_dollars",
    "policy": "policy.base",
    "aging_horizon": "policy.aging_horizon_s",
    "fairness_window": "policy.fairness_window",
    "log_level": "logging.level",
    "log_format": "logging.format",
    "store": "store.url",
    "traces": "telemetry.traces",
    "record": "record.file",
    "record_max_mb": "record.max_mb",
    "record_files": "record.files",
}
NOT_YET = (errno.EADDRINUSE, errno.EADDRNOTAVAIL)  # another still has it; the network has not come up
MOST_TENANTS = MOST_NOTES = 20  # said at the start
POLICIES = ("aps", "fifo", "strict", "vtc", "fair", "bids")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `aps serve`. None: not given."""
    where = parser.add_argument_group("where and what")
    where.add_argument("--config", type=Path, metavar="FILE", help="TOML (default: what APS_CONFIG names, else none)")
    where.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    where.add_argument("--port", help="0: any free one (default 8000)")
    where.add_argument(
        "--insecure-open",
        action="store_true",
        default=None,
        help="allow an address beyond this machine without any keys: anyone may then use it",
    )
    gpu = parser.add_argument_group("GPUs")
    gpu.add_argument("--gpus", metavar="N", help="simulated GPUs (default 1)")
    gpu.add_argument(
        "--profile",
        metavar="NAME|FILE.toml",
        help=f"how fast they are: {', '.join(PROFILES)}, or a file of yours (default reference; see aps profiles)",
    )
    gpu.add_argument("--time-scale", metavar="X", help="simulated seconds in a wall second (default 1)")
    gpu.add_argument(
        "--gpu-hour-dollars",
        metavar="USD",
        help="price of a GPU-hour behind the dollar figures (default: the profile's)",
    )
    order = parser.add_argument_group("who goes first")
    order.add_argument(
        "--policy", metavar="NAME", help=f"a point on the plane of two knobs: {', '.join(POLICIES)} (default aps)"
    )
    order.add_argument(
        "--aging-horizon",
        metavar="S",
        help="seconds after which a waiting bid 1 ranks with a fresh bid 10 (aps: 30)",
    )
    order.add_argument(
        "--fairness-window",
        metavar="TOKENS",
        help="how far a tenant may get ahead of the least served one (aps: 2048)",
    )
    life = parser.add_argument_group("life")
    life.add_argument(
        "--drain-s",
        metavar="S",
        help="wall seconds that accepted requests get to finish, and answers to be read, after SIGTERM (default 30)",
    )
    seen = parser.add_argument_group("what stays of it")
    seen.add_argument(
        "--log-level", metavar="LEVEL", help="debug, info (a line a request), warning or error (default warning)"
    )
    seen.add_argument("--log-format", metavar="FORM", help="of the lines on stderr: text or json (default text)")
    seen.add_argument(
        "--store",
        metavar="FILE|URL",
        help="keep tenants, keys and usage there: an SQLite file, or postgresql://... (default: not kept)",
    )
    seen.add_argument(
        "--traces",
        action="store_true",
        default=None,
        help="trace each request by OpenTelemetry, as the OTEL_ variables say (default: not)",
    )
    seen.add_argument(
        "--record",
        metavar="FILE",
        help="write every call of the scheduler there, without prompts, for aps replay and compare (.gz: packed)",
    )
    seen.add_argument("--record-max-mb", metavar="MB", help="size at which a file is moved on (default 256)")
    seen.add_argument("--record-files", metavar="N", help="how many are kept (default 10)")


def run(options: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT. 0: stopped; 1: and its last usage could not be written."""
    need_service_extra()
    gc.disable()  # what a start makes stays: looking for garbage among it takes long and finds none
    try:
        return _run(options)
    finally:
        gc.enable()  # done by `serve` already, if it came to that


def _run(options: argparse.Namespace) -> int:
    from aps.service import admin
    from aps.service.access import Access
    from aps.service.app import create_app
    from aps.service.config_reader import ConfigError
    from aps.service.kept import compare_with, opened, told
    from aps.service.logs import Logs
    from aps.service.running import Running
    from aps.service.server import listen, serve
    from aps.service.tenancy import InStore
    from aps.store.database import Unreachable

    read = _reader(options)
    try:
        config = read()
        _check_idle(options, config)
        kept = None if config.settings.store is None else opened(config)
    except ConfigError as error:
        raise UsageError(counted(error.problems)) from error
    except Unreachable as error:
        raise TryAgain(f"store: {error}") from error
    differing: tuple[str, ...] = ()
    if kept is not None:
        config, differing = kept.config, told(kept.differing)
    access = Access.of(config)
    try:
        listener = listen(config.settings.host, config.settings.port)
    except (OSError, UnicodeError) as error:  # a label that no name can have
        kind = TryAgain if getattr(error, "errno", None) in NOT_YET else UsageError
        raise kind(f"{config.settings.host} port {config.settings.port}: {error}") from error
    driver, recorder = _driver(config)
    logs = Logs(config.settings.log_level, config.settings.log_format)
    telemetry = keeper = None
    try:
        telemetry = _telemetry(config)
        keeper = None if kept is None else _keeper(config, driver, access)
        app = create_app(
            driver,
            settings=_with_files(config.settings),
            access=access,
            log=logs.requests,
            recorder=recorder,
            tracing=None if telemetry is None else telemetry.tracing(driver),
            keeper=keeper,
        )
        compare = None if kept is None else partial(compare_with, kept.store)
        running = Running(config, driver, access, app.state, read if config.file is not None else None, compare)
        tenancy = None
        if kept is not None:
            tenancy = InStore(kept.store, kept.book.number, running, config.settings.store_poll_s)
            app.state.beside.append(tenancy.following())
            if keeper is not None:
                keeper.reading = tenancy.reading
        if access.admin:
            admin.install(app, running, tenancy)
            if kept is not None:
                from aps.service import usage

                usage.install(app, kept.store.database)
        serve(
            app,
            driver,
            listener,
            drain_s=config.settings.drain_s,
            say=_say,
            log_level=config.settings.log_level,
            on_hangup=running.hangup(_say, partial(_say, level=logging.WARNING)),
            announce=lambda: _announce(config, differing, *listener.getsockname()[:2]),
        )
    finally:
        if kept is not None:
            kept.store.database.close()
        if keeper is not None:
            keeper.database.close()
        if recorder is not None:
            recorder.close()
        if telemetry is not None:
            telemetry.close()
        listener.close()
        logs.stop()
    return 1 if keeper is not None and keeper.lost else 0


def _with_files(settings: "Settings") -> "Settings":
    """With as many connections as this process may have; its limit of open files is raised for them."""
    from aps.service.open_files import fitting, raised, shortage

    wanted = settings.max_connections
    files = raised(wanted)
    if (short := shortage(wanted, files)) is not None:
        LOG.warning("%s", short)
    return replace(settings, max_connections=fitting(wanted, files))


def _driver(config: "Config") -> "tuple[Driver, Recorder | None]":
    from aps.driver import Driver
    from aps.record import Recorder

    settings, devices = config.settings, config.devices
    backend = devices.backend()
    scheduler = config.scheduler(backend)
    if settings.record is None:
        return Driver(scheduler, backend), None
    try:
        recorder = Recorder(
            settings.record,
            max_mb=settings.record_max_mb,
            files=settings.record_files,
            about={"profile": devices.profile, "time_scale": devices.time_scale},
        )
        return Driver(scheduler, backend, recorder=recorder), recorder
    except (OSError, ValueError) as error:
        origin = config.origins["record.file"]
        why = f"{settings.record} cannot be written: {error.strerror}" if isinstance(error, OSError) else error
        raise UsageError(f"{origin}: record.file {why}") from error


def _telemetry(config: "Config") -> "Telemetry | None":
    if not config.settings.traces:
        return None
    need_otel_extra()
    try:
        from aps.service.telemetry import telemetry

        return telemetry(os.environ)
    except ValueError as error:  # a TelemetryError, or already of the library when it is imported
        raise UsageError(f"--traces: {error}") from error


def _keeper(config: "Config", driver: "Driver", access: "Access") -> "Keeper":
    """The driver goes on from where the service's last run stood. Saves have connections of their own: those of
    administration may all be taken."""
    from aps.service.keeper import Keeper
    from aps.store.database import Database, StoreError, Unreachable

    settings = config.settings
    assert settings.store is not None
    keeper = Keeper(
        Database(settings.store),
        driver,
        service=settings.store_service,
        interval_s=settings.store_interval_s,
        keep_days=settings.store_keep_days,
        uses=access.uses,
    )
    try:
        keeper.restore()
    except StoreError as error:
        keeper.database.close()
        raise (TryAgain if isinstance(error, Unreachable) else UsageError)(f"store: {error}") from error
    return keeper


def _reader(options: argparse.Namespace) -> "Callable[[], Config]":
    """Reads the configuration, now and again: file, environment and flags."""
    from aps.service.config_reader import config_file, read_config

    flags = given(options, FLAGS)
    environ = dict(os.environ)
    file = config_file(options.config, environ)
    return lambda: read_config(file, environ, flags)


def _check_idle(options: argparse.Namespace, config: "Config") -> None:
    """UsageError: an option that counts for nothing without another."""
    for name in ("record_max_mb", "record_files"):
        if getattr(options, name) is not None and config.settings.record is None:
            raise UsageError(f"{flag(name)} ({FLAGS[name]}) counts for nothing without --record FILE (record.file)")


def _announce(config: "Config", differing: tuple[str, ...], host: str, number: int) -> None:
    """What is served and where; the first line has the address. And SIGHUP has its handler."""
    hangups.pass_on()
    from aps.service.config_view import limit, notes, roles, words

    _say(f"APS serves http://{f'[{host}]' if ':' in host else host}:{number}  (documentation: /docs)")
    _say(f"  configuration: {config.file or 'the defaults'}" + (", SIGHUP reads it again" if config.file else ""))
    for topic, text in words(config):
        if topic not in ("listens on", "roles"):
            _say(f"  {topic}: {text}")
    for tenant in config.tenants[:MOST_TENANTS]:
        _say(f"  tenant {tenant.name}: weight {tenant.weight:g}, {limit(tenant)}")
    if len(config.tenants) > MOST_TENANTS:
        _say(f"  ... {len(config.tenants)} tenants in all")
    noted = list(notes(config))
    for note in noted[:MOST_NOTES]:
        _say(f"  note: {note}")
    if len(noted) > MOST_NOTES:
        _say(f"  note: ... {len(noted)} notes in all; aps check-config has them")
    for line in differing:
        _say(f"  store: {line}")
    _say(f"  {roles(config)}")


def _say(line: str, level: int = logging.INFO) -> None:
    """To stdout; when nobody reads that any more the service goes on without. And to the log."""
    LOG.log(level, "%s", line.strip())
    try:
        print(line, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
