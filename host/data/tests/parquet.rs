//! Parquet files of several writers, against the rows that were written; and files that are cut or damaged.
//!
//! `parquet/make.py` writes the files.

use std::{fs, path::PathBuf};

use serde_json::Value;
use unswag_data::{Error, ProbeFormat, read_rows};

const LIMIT_BYTES: usize = 1 << 20;

fn fixture(name: &str) -> Vec<u8> {
    fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/parquet").join(name)).unwrap()
}

fn rows(bytes: &[u8], format: ProbeFormat) -> Result<Vec<Value>, Error> {
    let mut rows = Vec::new();
    read_rows(bytes, format, false, LIMIT_BYTES, |row| {
        rows.push(serde_json::from_str(row.expect("a sound row")).unwrap())
    })?;
    Ok(rows)
}

#[test]
fn every_writer_s_rows_are_the_rows_that_were_written() {
    let expected = rows(&fixture("rows.jsonl"), ProbeFormat::JsonLines).unwrap();
    assert_eq!(expected.len(), 90);
    for name in ["pyarrow", "pages_v2_zstd", "deltas_gzip", "plain", "polars", "duckdb"] {
        let found = rows(&fixture(&format!("{name}.parquet")), ProbeFormat::Parquet);
        let found = found.unwrap_or_else(|error| panic!("{name}: {error}"));
        for (number, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(found, expected, "{name}, row {number}");
        }
        assert_eq!(found.len(), expected.len(), "{name}");
    }
}

#[test]
fn what_is_not_read_is_named() {
    let error = rows(&fixture("brotli.parquet"), ProbeFormat::Parquet).unwrap_err().to_string();
    assert!(error.contains("\"prompt\" is compressed with Brotli") && error.contains("pyarrow"), "{error}");
}

#[test]
fn a_file_that_is_cut_anywhere_is_an_error_and_never_fewer_rows() {
    for name in ["pyarrow", "pages_v2_zstd", "deltas_gzip"] {
        let bytes = fixture(&format!("{name}.parquet"));
        for end in (0..bytes.len()).step_by(97) {
            let error = rows(&bytes[..end], ProbeFormat::Parquet).expect_err("a part of a file").to_string();
            assert!(error.contains("rows:1: Parquet"), "{name} cut at {end}: {error}");
        }
    }
}

#[test]
fn a_damaged_byte_ends_in_an_error_or_in_rows_never_in_a_panic() {
    let mut errors = 0;
    for (name, step) in [("pages_v2_zstd", 181), ("deltas_gzip", 149), ("plain", 211), ("polars", 127)] {
        let sound = fixture(&format!("{name}.parquet"));
        for at in (0..sound.len()).step_by(step) {
            let mut bytes = sound.clone();
            bytes[at] ^= [0x01, 0x80, 0xff][at % 3];
            let mut count = 0;
            errors += u32::from(read_rows(&bytes, ProbeFormat::Parquet, false, LIMIT_BYTES, |_| count += 1).is_err());
            assert!(count <= 90, "{name}: more rows than were written");
        }
    }
    assert!(errors > 60, "{errors}");
}

/// Thrift's compact protocol, as far as a footer needs it. A field's number is given by its step from the one before.
mod thrift {
    pub fn varint(mut number: u64) -> Vec<u8> {
        let mut out = Vec::new();
        while number > 127 {
            out.push(number as u8 | 128);
            number >>= 7;
        }
        out.push(number as u8);
        out
    }

    pub fn integer(step: u8, number: u64) -> Vec<u8> {
        [vec![step << 4 | 5], varint(number << 1)].concat()
    }

    pub fn text(step: u8, text: &str) -> Vec<u8> {
        [vec![step << 4 | 8], varint(text.len() as u64), text.into()].concat()
    }

    pub fn structure(step: u8, fields: &[Vec<u8>]) -> Vec<u8> {
        [vec![step << 4 | 12], fields.concat(), vec![0]].concat()
    }

    pub fn list(step: u8, count: u64, elements: &[u8]) -> Vec<u8> {
        [vec![step << 4 | 9, 0xfc], varint(count), elements.to_vec()].concat()
    }
}

/// A group of a schema: its name, and how many elements belong to it.
fn group(name: &str, children: u64) -> Vec<u8> {
    [thrift::text(4, name), thrift::integer(1, children), vec![0]].concat()
}

fn text_column(name: &str) -> Vec<u8> {
    [thrift::integer(1, 6), thrift::integer(2, 0), thrift::text(1, name), vec![0]].concat()
}

/// A file of these bytes, with a footer of `count` elements of a schema and one row group of that number of rows.
fn file(data: &[u8], (count, elements): (u64, Vec<u8>), chunks: &[Vec<u8>], rows: u64) -> Vec<u8> {
    let columns = thrift::list(1, chunks.len() as u64, &chunks.concat());
    let row_group = [columns, thrift::integer(2, rows), vec![0]].concat();
    let footer = [thrift::list(2, count, &elements), thrift::list(2, 1, &row_group), vec![0]].concat();
    let footer_bytes = (footer.len() as u32).to_le_bytes();
    [b"PAR1", data, &footer, &footer_bytes, b"PAR1"].concat()
}

/// A column of one value, which lies in the bytes behind the first four.
fn chunk(codec: u64, bytes: usize) -> Vec<u8> {
    let fields = [(4, codec), (1, 1), (2, bytes as u64), (2, 4)].map(|(step, number)| thrift::integer(step, number));
    [thrift::structure(3, &fields), vec![0]].concat()
}

/// A page of version 1 with one text in plain encoding.
fn page(compressed: &[u8], bytes: usize) -> Vec<u8> {
    let values = [(1, 1), (1, 0), (1, 3), (1, 3)].map(|(step, number)| thrift::integer(step, number));
    let header = [
        thrift::integer(1, 0),
        thrift::integer(1, bytes as u64),
        thrift::integer(1, compressed.len() as u64),
        thrift::structure(2, &values),
        vec![0],
    ];
    [header.concat(), compressed.to_vec()].concat()
}

fn refused(bytes: &[u8]) -> String {
    let mut count = 0;
    let read = read_rows(bytes, ProbeFormat::Parquet, false, LIMIT_BYTES, |_| {
        count += 1;
        assert!(count < 1000, "rows without end");
    });
    read.expect_err("a file that means harm").to_string()
}

#[test]
fn a_file_that_was_put_together_here_is_read() {
    let data = page(b"\x02\0\0\0hi", 6);
    let schema = (2, [group("", 1), text_column("text")].concat());
    let found = rows(&file(&data, schema, &[chunk(0, data.len())], 1), ProbeFormat::Parquet).unwrap();
    assert_eq!(found, [serde_json::json!({"text": "hi"})]);
}

#[test]
fn a_footer_that_is_small_in_the_file_and_large_in_memory_is_refused() {
    // A leaf takes a byte, and its path the name of its group.
    let inside =
        |name: &str, count: u64| (count + 2, [group("", 1), group(name, count), vec![0; count as usize]].concat());
    let said = refused(&file(b"", inside(&"x".repeat(20_000), 1000), &[], 0));
    assert!(said.contains("paths of its columns"), "{said}");
    let said = refused(&file(b"", inside("x", 300_000), &[], 0));
    assert!(said.contains("more than 262144 columns"), "{said}");
}

#[test]
fn rows_without_columns_are_refused_and_not_counted_out() {
    let said = refused(&file(b"", (1, group("", 0)), &[], 1 << 60));
    assert!(said.contains("rows and no columns"), "{said}");
}

#[test]
fn columns_that_lie_in_the_same_bytes_do_not_fill_memory() {
    let data = page(&vec![0; 2 << 20], 2 << 20);
    let columns = |count: u64| {
        let names: Vec<u8> = (0..count).flat_map(|n| text_column(&n.to_string())).collect();
        let chunks = vec![chunk(0, data.len()); count as usize];
        file(&data, (count + 1, [group("", count), names].concat()), &chunks, 1)
    };
    assert_eq!(rows(&columns(4), ProbeFormat::Parquet).unwrap().len(), 1);
    let said = refused(&columns(40));
    assert!(said.contains("bytes together"), "{said}");
}

#[test]
fn a_zstd_page_is_decompressed_up_to_what_it_says_whatever_window_it_asks_for() {
    // A frame with a window of two terabytes, and blocks of one byte that stand for 128 KiB each, or more.
    let frame = |block_bytes: u32, blocks: usize| {
        let header = (1 << 1 | block_bytes << 3).to_le_bytes();
        let block = [&header[..3], b"x"].concat();
        [&[0x28, 0xb5, 0x2f, 0xfd, 0, 0xf8][..], &block.repeat(blocks)].concat()
    };
    let schema = (2, [group("", 1), text_column("text")].concat());
    for (block_bytes, blocks) in [(128 << 10, 64), (2 << 20, 1)] {
        let data = page(&frame(block_bytes, blocks), 1 << 20);
        let said = refused(&file(&data, schema.clone(), &[chunk(6, data.len())], 1));
        assert!(said.contains("cannot be decompressed"), "{said}");
    }
}
