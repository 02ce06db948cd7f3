"""The examples of docs/http.md, by curl, against a service."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aps.service.config import Settings
from aps.service.errors import STATUS
from aps.service.wire import InferAnswer, InferRequest
from aps.tenants import Tenant
from tests.serving import Service, serving

BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
EXAMPLE = re.compile(r"^(curl .+)\n((?:# .+\n)+)", re.MULTILINE)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving((Tenant("alice"), Tenant("bob", rate=10.0, burst=100.0)), time_scale=1.0) as running:
        yield running


@pytest.fixture(scope="module")
def document(root: Path) -> str:
    return (root / "docs/http.md").read_text()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_examples_get_what_they_show(service: Service, document: str) -> None:
    shown = "".join(BLOCK.findall(document))
    examples = EXAMPLE.findall(shown)
    assert len(examples) == shown.count("curl ") >= 10
    id = ""
    for command, expected in examples:
        status, *lines = (line.removeprefix("# ") for line in expected.splitlines())
        patience = time.monotonic() + 20.0
        while True:  # what the example shows may be a moment away
            said = subprocess.run(
                ["sh", "-c", f"{command} -w '\\n%{{http_code}}'"],
                env=os.environ | {"APS": service.url, "ID": id, "no_proxy": "*"},
                capture_output=True,
                text=True,
                timeout=30,
                check=True,
            ).stdout
            if '"state":"running"' not in said or time.monotonic() > patience:
                break
        assert said.endswith(f"\n{status}"), (command, said)
        for line in lines:
            assert line in said, (command, said)
        id = (re.findall(r'"id":"(\w+)"', said) or [id])[0]


def test_it_names_every_field_reason_and_setting(document: str) -> None:
    elsewhere = {"conflict", "unknown_tenant"}  # the first is administration's
    for name in (*InferRequest.__struct_fields__, *InferAnswer.__struct_fields__, *(set(STATUS) - elsewhere)):
        assert f"`{name}`" in document or f'"{name}"' in document, name
    for name, value in re.findall(r"`(\w+_s)` \((\d+)\)", document):
        assert getattr(Settings(), name) == float(value), name
    for name in re.findall(r"\(`(\w+)`\)", document):
        assert name in Settings.__dataclass_fields__ or name == "bad_request", name
