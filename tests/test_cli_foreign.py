"""`--url` may lead to something that is no service of ours: whatever JSON it says, there is no traceback."""

from collections.abc import Sequence

import httpx
import pytest

from aps.cli import main


@pytest.mark.parametrize(
    ("status", "body"), [(404, '{"error": "Not found"}'), (500, '{"error": null}'), (404, "[]"), (403, "{}")]
)
@pytest.mark.parametrize("command", [("usage",), ("tenants", "list")])
def test_an_error_of_another_shape(
    command: Sequence[str], status: int, body: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(monkeypatch, status, body)
    assert main([*command, "--url", "http://there"]) == 2
    assert str(status) in capsys.readouterr().err


@pytest.mark.parametrize("body", ["[]", "{}", '{"rows": 1, "total": {}}'])
def test_usage_of_another_shape(body: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    answers(monkeypatch, 200, body)
    assert main(["usage", "--url", "http://there"]) == 2
    assert "http://there does not answer as a service does" in capsys.readouterr().err


def answers(monkeypatch: pytest.MonkeyPatch, status: int, body: str) -> None:
    """Whatever is asked."""
    transport = httpx.MockTransport(lambda _: httpx.Response(status, text=body))

    def client_of(url: str) -> httpx.Client:
        return httpx.Client(base_url=url, transport=transport)

    for module in ("usage", "books"):
        monkeypatch.setattr(f"aps.cli.{module}.client_of", client_of)
