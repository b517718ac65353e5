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
