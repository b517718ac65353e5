"""Writes the Parquet files of this folder, and rows.jsonl with the rows that each of them holds.

Run with pyarrow 26, polars 2.1 and duckdb 2.0: python make.py
"""

import json
import os

import duckdb
import polars
import pyarrow as pa
import pyarrow.parquet as pq

HERE = os.path.dirname(os.path.abspath(__file__))

WORDS = ["apple", "Zürich", "naïve", "", "a \"quoted\" word", "two\nlines", "🐟", "tab\there"]


def row(n):
    word = WORDS[n % len(WORDS)]
    turns = [
        {"role": role, "content": f"{word} {n}.{turn}", "weight": None if turn == 0 else turn % 2}
        for turn, role in enumerate(["user", "assistant"] * (n % 3))
    ]
    return {
        "prompt": f"Question {n}: {word}?",
        "completion": None if n % 11 == 5 else word * (n % 4),
        "kind": ["easy", "hard", None][n % 3],
        "number": n * 1_000_003 - 7,
        "small": None if n % 5 == 0 else -n,
        "right": n % 2 == 0,
        "score": n / 8,
        "messages": None if n % 7 == 6 else turns,
        "tags": [] if n % 4 == 0 else None if n % 4 == 1 else [word, None, str(n)],
        "deep": [[{"a": n}], [], None, [{"a": None}, None]][: n % 5],
        "extra": None if n % 6 == 0 else {"source": word, "inner": {"n": n}},
    }


ROWS = [row(n) for n in range(90)]
MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string()), ("weight", pa.int64())])
SCHEMA = pa.schema([
    pa.field("prompt", pa.string(), nullable=False),
    ("completion", pa.string()),
    ("kind", pa.string()),
    ("number", pa.int64()),
    ("small", pa.int32()),
    ("right", pa.bool_()),
    ("score", pa.float64()),
    ("messages", pa.list_(MESSAGE)),
    ("tags", pa.list_(pa.string())),
    ("deep", pa.list_(pa.list_(pa.struct([("a", pa.int64())])))),
    ("extra", pa.struct([("source", pa.string()), ("inner", pa.struct([("n", pa.int64())]))])),
])
TABLE = pa.Table.from_pylist(ROWS, schema=SCHEMA)


def write(name, **options):
    pq.write_table(TABLE, os.path.join(HERE, name), **options)


with open(os.path.join(HERE, "rows.jsonl"), "w") as file:
    for r in ROWS:
        file.write(json.dumps(r, ensure_ascii=False) + "\n")

# As datasets' `to_parquet` does, and the hub's converter.
write("pyarrow.parquet", row_group_size=40)
write("pages_v2_zstd.parquet", compression="zstd", data_page_version="2.0", data_page_size=256, write_batch_size=7,
      write_page_checksum=True)
write("deltas_gzip.parquet", compression="gzip", use_dictionary=False, data_page_size=300, write_batch_size=9,
      column_encoding={
          "prompt": "DELTA_BYTE_ARRAY", "completion": "DELTA_LENGTH_BYTE_ARRAY", "kind": "DELTA_BYTE_ARRAY",
          "number": "DELTA_BINARY_PACKED", "small": "DELTA_BINARY_PACKED", "right": "RLE",
      })
write("plain.parquet", compression="none", use_dictionary=False, use_compliant_nested_type=False, row_group_size=31)
polars.from_arrow(TABLE).write_parquet(os.path.join(HERE, "polars.parquet"))
rows = TABLE
duckdb.sql("SELECT * FROM rows").write_parquet(os.path.join(HERE, "duckdb.parquet"))
# Not read, and said so.
pq.write_table(TABLE.select(["prompt"]).slice(0, 2), os.path.join(HERE, "brotli.parquet"), compression="brotli")
