"""The published measurements that ship: whole, in SI units, each file with its source."""

from importlib.resources import files

import pytest

from aps.data.measurements import first_token_a100, lmdeploy_a100, tensorrt_llm_a100, vidur_attention_a100


def test_the_lmdeploy_table_is_whole() -> None:
    rows = lmdeploy_a100()
    shapes = [(1, 128), (128, 128), (128, 2048), (2048, 128), (2048, 2048)]
    assert [row[:4] for row in rows] == [
        (model, batch, *shape) for model in ("llama2-7b", "llama2-13b") for batch in (1, 16, 32, 64) for shape in shapes
    ]
    assert rows[8].output_tokens_per_s == 348.87
    assert rows[8].token_latency_p50_s == pytest.approx(0.020)
    assert sum(row.output_tokens_per_s for row in rows) == pytest.approx(36800.7)
    assert sum(row.token_latency_p50_s or 0.0 for row in rows) == pytest.approx(0.971)


def test_the_other_tables() -> None:
    other = tensorrt_llm_a100()
    assert [row[1:5] for row in other][::6] == [(64, 128, 128, 3486.0), (52, 2048, 128, 591.0)]
    assert {row.token_latency_p50_s for row in other} == {None}
    assert len(other) == 7
    attention = vidur_attention_a100()
    assert [sum(row.phase == phase for row in attention) for phase in ("decode", "prefill")] == [35, 21]
    assert attention[0][:3] == ("decode", 1, 32)
    assert attention[-1][:3] == ("prefill", 2752, 896)
    assert attention[-1].layer_s == pytest.approx(1.5914e-3)
    tokens = first_token_a100()
    assert tokens[2][:3] == ("lmdeploy", "llama2-7b", 2048)
    assert tokens[2].seconds == pytest.approx(0.139)
    assert len(tokens) == 8


def test_every_file_has_its_source_and_licence() -> None:
    folder = files("aps.data")
    notice = folder.joinpath("NOTICE").read_text()
    for name in [path.name for path in folder.iterdir() if path.name.endswith((".csv", ".csv.gz"))]:
        _, found, entry = notice.partition(f"{name}\n")
        assert found, name
        own = entry.split("\n\n")[0]
        assert "Source:" in own, name
        assert "Licence:" in own, name
