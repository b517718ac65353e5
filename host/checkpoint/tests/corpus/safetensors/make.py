"""Makes the seed files beside it: `python3 make.py`. Files called ok_* must be read, files called bad_* refused.

Plain standard library; nothing random. Each file is one idea, named by it.
"""

import json
import pathlib

HERE = pathlib.Path(__file__).parent


def file(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    length = len(header) if length is None else length
    return length.to_bytes(8, "little") + header + data


def tensor(dtype="F32", shape=(2,), offsets=(0, 8), **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


def of(tensors: dict, data: bytes = bytes(8)) -> bytes:
    return file(json.dumps(tensors, separators=(",", ":")).encode(), data)


def every_dtype() -> bytes:
    sizes = {"I64": 8, "F64": 8, "F32": 4, "I32": 4, "U32": 4, "U64": 8, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
    sizes |= {"F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1}
    tensors, begin = {}, 0
    for dtype, size in sizes.items():
        tensors[dtype] = tensor(dtype, (1,), (begin, begin + size))
        begin += size
    return of(tensors, bytes(begin))


one = {"w": tensor()}
entry = '{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
nested = "[" * 5000

FILES = {
    "ok_one": of(one),
    "ok_scalar": of({"w": tensor(shape=(), offsets=(0, 4))}, bytes(4)),
    "ok_empty_tensor": of({"e": tensor(shape=(0, 3), offsets=(0, 0)), "w": tensor()}),
    "ok_not_in_order": of({"b": tensor(offsets=(8, 16)), "a": tensor()}, bytes(16)),
    "ok_metadata": of({"__metadata__": {"format": "pt"}, **one}),
    "ok_padded": file(json.dumps(one).encode() + b"    ", bytes(8)),
    "ok_unaligned": file(json.dumps(one).encode() + b" ", bytes(8)),
    "ok_escaped_name": file(b'{"\\u0077\\ud83d\\ude00":' + entry.encode() + b"}", bytes(8)),
    "ok_fields_in_any_order": file(b'{"w":{"data_offsets":[0,8],"shape":[2],"dtype":"F32"}}', bytes(8)),
    "ok_no_tensors": file(b"{}"),
    "ok_every_dtype": every_dtype(),
    "bad_empty": b"",
    "bad_seven_bytes": bytes(7),
    "bad_only_length": (2).to_bytes(8, "little"),
    "bad_length_beyond_file": file(b"{}", length=3),
    "bad_length_max": file(b"{}", length=2**64 - 1),
    "bad_length_over_limit": file(b"{}", length=100_000_001),
    "bad_length_zero": file(b"", bytes(8)),
    "bad_truncated_data": of(one)[:-1],
    "bad_truncated_header": of(one)[:30],
    "bad_trailing_byte": of(one) + b"\0",
    "bad_not_json": file(b"{hello}"),
    "bad_list": file(b"[]"),
    "bad_leading_space": file(b" {}"),
    "bad_two_objects": file(b"{}{}"),
    "bad_not_utf8": file(b'{"\xff":' + entry.encode() + b"}", bytes(8)),
    "bad_lone_surrogate": file(b'{"\\ud83d":' + entry.encode() + b"}", bytes(8)),
    "bad_nul_name": file(b'{"a\\u0000b":' + entry.encode() + b"}", bytes(8)),
    "bad_newline_name": file(b'{"a\\nb":' + entry.encode() + b"}", bytes(8)),
    "bad_escape_name": file(b'{"\\u001b[2J":' + entry.encode() + b"}", bytes(8)),
    "bad_reversed_text_name": file('{"a\u202eb":'.encode() + entry.encode() + b"}", bytes(8)),
    "bad_empty_name": of({"": tensor()}),
    "bad_parent_name": of({"../w": tensor()}),
    "bad_inner_parent_name": of({"a/../../w": tensor()}),
    "bad_absolute_name": of({"/etc/passwd": tensor()}),
    "bad_long_name": of({"w" * 5000: tensor()}),
    "bad_duplicate_name": file(f'{{"w":{entry},"w":{entry}}}'.encode(), bytes(8)),
    "bad_duplicate_empty": file(
        b'{"e":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"e":{"dtype":"I8","shape":[0],"data_offsets":[0,0]}}'
    ),
    "bad_duplicate_by_escape": file(f'{{"w":{entry},"\\u0077":{entry}}}'.encode(), bytes(8)),
    "bad_duplicate_field": file(b'{"w":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8)),
    "bad_unknown_field": of({"w": tensor(extra=1)}),
    "bad_missing_dtype": file(b'{"w":{"shape":[2],"data_offsets":[0,8]}}', bytes(8)),
    "bad_missing_shape": file(b'{"w":{"dtype":"F32","data_offsets":[0,8]}}', bytes(8)),
    "bad_missing_offsets": file(b'{"w":{"dtype":"F32","shape":[2]}}', bytes(8)),
    "bad_list_entry": file(b'{"w":["F32",[2],[0,8]]}', bytes(8)),
    "bad_null_entry": file(b'{"w":null}'),
    "bad_dtype_unknown": of({"w": tensor("F33")}),
    "bad_dtype_lower_case": of({"w": tensor("f32")}),
    "bad_dtype_f4": of({"w": tensor("F4", (16,))}),
    "bad_dtype_f8_e8m0": of({"w": tensor("F8_E8M0", (8,))}),
    "bad_dtype_c64": of({"w": tensor("C64", (1,))}),
    "bad_dtype_number": of({"w": tensor(32)}),
    "bad_size_too_small": of({"w": tensor(shape=(1,))}),
    "bad_size_too_large": of({"w": tensor(shape=(3,))}),
    "bad_shape_negative": of({"w": tensor(shape=(-2,))}),
    "bad_shape_float": of({"w": tensor(shape=(2.0,))}),
    "bad_shape_huge_number": file(b'{"w":{"dtype":"F32","shape":[1e999],"data_offsets":[0,8]}}', bytes(8)),
    "bad_shape_2_64": of({"w": tensor(shape=(2**64,))}),
    "bad_shape_overflow": of({"w": tensor(shape=(2**33, 2**33))}),
    "bad_shape_overflow_to_eight": of({"w": tensor(shape=(2**62, 2**62, 16))}),
    "bad_shape_overflow_times_zero": of({"w": tensor(shape=(2**63, 4, 0), offsets=(0, 0))}, b""),
    "bad_bits_overflow": of({"w": tensor("U8", (2**61,))}),
    "bad_rank_65": of({"w": tensor("U8", (1,) * 65, (0, 1))}, bytes(1)),
    "bad_offsets_reversed": of({"w": tensor(offsets=(8, 0))}),
    "bad_offsets_beyond_file": of({"w": tensor(offsets=(8, 16))}),
    "bad_offsets_max": of({"w": tensor(offsets=(2**64 - 8, 2**64 - 1))}),
    "bad_offsets_three": of({"w": tensor(offsets=(0, 8, 8))}),
    "bad_offsets_one": of({"w": tensor(offsets=(0,))}),
    "bad_overlap": of({"a": tensor(), "b": tensor(offsets=(4, 12))}, bytes(12)),
    "bad_same_bytes": of({"a": tensor(), "b": tensor()}),
    "bad_gap_at_start": of({"w": tensor(offsets=(8, 16))}, bytes(16)),
    "bad_gap_between": of({"a": tensor(), "b": tensor(offsets=(12, 20))}, bytes(20)),
    "bad_empty_tensor_inside": of({"a": tensor(), "e": tensor(shape=(0,), offsets=(4, 4))}),
    "bad_metadata_number": of({"__metadata__": {"step": 3}, **one}),
    "bad_metadata_null": of({"__metadata__": None, **one}),
    "bad_metadata_nested": of({"__metadata__": {"a": {"b": "c"}}, **one}),
    "bad_metadata_twice": file(f'{{"__metadata__":{{}},"__metadata__":{{}},"w":{entry}}}'.encode(), bytes(8)),
    "bad_metadata_key_twice": file(f'{{"__metadata__":{{"a":"1","a":"2"}},"w":{entry}}}'.encode(), bytes(8)),
    "bad_nested_bomb": file(f'{{"w":{nested}'.encode()),
    "bad_nested_shape": file(f'{{"w":{{"dtype":"F32","shape":{nested}'.encode()),
    "bad_long_number": file(b'{"w":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,8]}}', bytes(8)),
    "bad_gguf": b"GGUF" + (3).to_bytes(4, "little") + bytes(24),
    "bad_pickle": b"\x80\x02}q\x00." + bytes(10),
    "bad_zip": b"PK\x03\x04\x00\x00\x08\x08" + bytes(20),
    "bad_git_lfs_pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 269060552\n",
    "bad_text": b"This is not a model, it is a letter.\n",
    "bad_html": b"<!DOCTYPE html>\n<html><body>404: not found</body></html>\n",
}

for old in [*HERE.glob("ok_*"), *HERE.glob("bad_*")]:
    old.unlink()
for name, data in FILES.items():
    (HERE / name).write_bytes(data)
