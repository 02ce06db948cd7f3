"""Small traces that tests write."""

import gzip
from pathlib import Path

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04,3180,8
2023-11-16 18:17:05.0,110,27
"""
BURST_6 = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,230,1317,Conversation log
45,GPT-4,417,0,417,API log
118,GPT-4,1360,249,1609,API log
"""
BURST_8 = """Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type
19440110.0,a-1,43,GPT-4,906,446,1352,Conversation log
19440161.0,,2,ChatGPT,36,29,65,API log
19440192.5,a-1,8,GPT-4,1779,123,1902,Conversation log
"""
LENGTHS = """num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio
3772,54,3826,69.85185185185185
2015,156,2171,12.916666666666666
"""
TIMED_LENGTHS = """arrived_at,num_prefill_tokens,num_decode_tokens
0.0,374,44
4.25,396,109
"""
MOONCAKE = """{"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1, 2]}
{"timestamp": 0, "input_length": 7322, "output_length": 490, "hash_ids": [0, 14]}
{"timestamp": 3000, "input_length": 7236, "output_length": 794, "hash_ids": []}
"""
BAILIAN = """{"chat_id": 159, "timestamp": 61.114, "input_length": 521, "output_length": 132, "hash_ids": [1]}
{"chat_id": 160, "timestamp": 62.5, "input_length": 20, "output_length": 13, "hash_ids": [2]}
"""
RECORD = """{"aps_record": 1, "tenants": [{"name": "vip", "weight": 2.0, "default_bid": 9}], "service": "passed over"}
{"t": 10.5, "op": "submit", "id": 1, "tenant": "vip", "prompt_tokens": 512, "max_tokens": 256, "output_tokens": 130}
{"t": 10.5, "op": "submit", "id": "x", "tenant": "free", "bid": 1, "prompt_tokens": 4, "max_tokens": 9, "deadline_s": 2}
{"t": 11.0, "op": "rebid", "id": 1, "bid": 3}
{"t": 11.0, "op": "submit", "id": 2, "tenant": "free", "prompt_tokens": 8, "max_tokens": 7, "verdict": "throttled"}
{"t": 12.0, "op": "end", "id": "x", "output_tokens": 5}
{"t": 12.0, "op": "cancel", "id": 1}
{"t": 12.0, "op": "cancel", "id": 99}
"""
EVERY = {
    "azure": AZURE,
    "burst_6": BURST_6,
    "burst_8": BURST_8,
    "timed_lengths": TIMED_LENGTHS,
    "mooncake": MOONCAKE,
    "bailian": BAILIAN,
    "record": RECORD,
}


def written(folder: Path, content: str | bytes, name: str = "trace", packed: bool = False) -> Path:
    path = folder / name
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(raw) if packed else raw)
    return path
