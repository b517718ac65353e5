//! Blocks of real text: the overlap, the stream, the split, the order, and what a saved position resumes.

mod common;

use std::{
    collections::HashSet,
    fs,
    sync::{Arc, OnceLock},
};

use common::{all_rows, chain, smollm2, text, work};
use proptest::prelude::*;
use tempfile::TempDir;
use unswag_data::{
    DataLoader, Error, IGNORED, PackedDataLoader, Position, Row, Split, StreamingContextDataLoader, TextOptions,
    Tokenizer, report_text,
};

fn options(block_size: usize, overlap: usize) -> TextOptions {
    TextOptions { block_size, overlap, ..TextOptions::default() }
}

fn stream_of(rows: &[Row], overlap: usize) -> Vec<u32> {
    let mut stream = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        stream.extend(&row.ids[if index == 0 { 0 } else { overlap }..]);
    }
    stream
}

#[test]
fn blocks_less_their_overlaps_are_the_tokens_of_the_files_each_ended() {
    let tokenizer = smollm2();
    let files = [work("sonnets"), work("phoenix_and_the_turtle"), work("macbeth")];
    let mut expected = Vec::new();
    for file in &files {
        expected.extend(tokenizer.encode(&fs::read_to_string(file).unwrap(), true).unwrap());
        expected.push(tokenizer.eos_id().unwrap());
    }
    for (block, overlap) in [(512, 64), (1000, 999), (333, 0), (2048, 1), (2, 1), (100_000, 10)] {
        let mut loader = StreamingContextDataLoader::open(&files, tokenizer.clone(), &options(block, overlap)).unwrap();
        if block == 1000 {
            // A step of one token: the first few hundred blocks will do.
            for step in 0..300 {
                assert_eq!(loader.next_row().unwrap().unwrap().ids, expected[step..step + block]);
            }
            continue;
        }
        let rows = all_rows(&mut loader);
        let (last, full) = rows.split_last().unwrap();
        assert!(full.iter().all(|row| row.len() == block) && last.len() > overlap);
        assert!(rows.windows(2).all(|pair| pair[0].ids[block - overlap..] == pair[1].ids[..overlap]));
        assert!(stream_of(&rows, overlap) == expected, "block {block}, overlap {overlap}");
        assert_eq!(loader.forced_seams(), 0);
        assert!(loader.next_row().unwrap().is_none(), "an epoch that ended stays ended");
    }
}

#[test]
fn masking_the_overlap_takes_the_loss_on_every_token_once() {
    let tokenizer = smollm2();
    let file = [work("sonnets")];
    let with_mask = TextOptions { mask_overlap: true, ..options(256, 32) };
    let mut loader = StreamingContextDataLoader::open(&file, tokenizer.clone(), &with_mask).unwrap();
    let size = loader.epoch_size().unwrap();
    let tokens = tokenizer.encode(&fs::read_to_string(&file[0]).unwrap(), true).unwrap().len() as u64 + 1;
    // All but the very first, which nothing predicts.
    assert_eq!(size.supervised_tokens, tokens - 1);
    assert_eq!(size.longest_row_tokens, 256);
    let batch = loader.next_batch(3).unwrap().unwrap();
    assert_eq!((batch.rows, batch.cols, batch.supervised_tokens()), (3, 256, 255 + 224 + 224));
    assert_eq!(
        &batch.labels[256..256 + 33],
        &[&[IGNORED; 32][..], &[i64::from(batch.input_ids[256 + 32])]].concat()[..]
    );
}

#[test]
fn byte_order_mark_is_skipped() {
    let dir = TempDir::new().unwrap();
    let rows = |name: &str, content: &str| {
        let path = dir.path().join(name);
        fs::write(&path, content).unwrap();
        all_rows(&mut StreamingContextDataLoader::open(&[text(&path)], smollm2(), &options(8, 0)).unwrap())
    };
    let ids = |rows: Vec<Row>| rows.into_iter().map(|row| row.ids).collect::<Vec<_>>();
    let plain = "To be, or not to be, that is the question.";
    assert_eq!(ids(rows("marked.txt", &format!("\u{feff}{plain}"))), ids(rows("plain.txt", plain)));
}

#[test]
fn lines_of_json_are_documents_and_keep_apart_on_request() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("rows.jsonl");
    let lines = "\u{feff}{\"body\": \"One fish.\", \"n\": 1}\n\n{\"body\": \"\"}\r\n{\"body\": \"Two fish 🐟.\"}\n{\"body\":\"Red\"}";
    fs::write(&path, lines).unwrap();
    let tokenizer = smollm2();
    let eos = tokenizer.eos_id().unwrap();
    let mut expected = Vec::new();
    let mut documents = Vec::new();
    for (number, body) in ["One fish.", "Two fish 🐟.", "Red"].into_iter().enumerate() {
        expected.extend(tokenizer.encode(body, true).unwrap());
        expected.push(eos);
        documents.resize(expected.len(), number as u32);
    }
    let options = TextOptions { field: "body".to_owned(), isolate_documents: true, ..options(512, 0) };
    let rows = all_rows(&mut StreamingContextDataLoader::open(&[text(&path)], tokenizer.clone(), &options).unwrap());
    assert_eq!(rows.len(), 1);
    assert_eq!((&rows[0].ids, &rows[0].documents), (&expected, &documents));
    for at in 1..expected.len() {
        let is_first = documents[at] != documents[at - 1];
        assert_eq!(rows[0].labels[at] == IGNORED, is_first);
        assert_eq!(rows[0].positions[at], if is_first { 0 } else { rows[0].positions[at - 1] + 1 });
    }
}

#[test]
fn training_and_validation_share_no_text() {
    let tokenizer = smollm2();
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("rows.jsonl");
    let rows: String = (0..400).map(|n| format!("{{\"text\": \"row {}\"}}\n", n % 300)).collect();
    fs::write(&path, rows).unwrap();
    let documents = |split| -> Vec<Vec<u32>> {
        let options = TextOptions { split, ..options(4096, 0) };
        let rows = all_rows(&mut PackedDataLoader::open(&[text(&path)], tokenizer.clone(), &options).unwrap());
        let mut documents = Vec::new();
        for row in rows {
            let count = row.documents.last().unwrap() + 1;
            documents.extend((0..count).map(|d| {
                row.ids.iter().zip(&row.documents).filter(|(_, of)| **of == d).map(|(id, _)| *id).collect::<Vec<u32>>()
            }));
        }
        documents
    };
    let (validation_fraction, seed) = (0.2, 7);
    let train = documents(Split::Train { validation_fraction, seed });
    let validation = documents(Split::Validation { validation_fraction, seed });
    assert_eq!(train.len() + validation.len(), 400);
    assert!((50..=110).contains(&validation.len()), "{} of 400 at a fifth", validation.len());
    let train: HashSet<_> = train.into_iter().collect();
    // Rows that are repeated are on one side too.
    assert!(validation.iter().all(|document| !train.contains(document)));

    // A text file: train followed by validation is the file.
    let file = [work("tempest")];
    let part = |split| {
        let options = TextOptions { split, append_eos: false, ..options(700, 0) };
        let rows = all_rows(&mut StreamingContextDataLoader::open(&file, tokenizer.clone(), &options).unwrap());
        tokenizer.decode(&stream_of(&rows, 0), false).unwrap()
    };
    let (validation_fraction, seed) = (0.1, 7);
    let (head, tail) =
        (part(Split::Train { validation_fraction, seed }), part(Split::Validation { validation_fraction, seed }));
    assert_eq!(format!("{head}{tail}"), fs::read_to_string(&file[0]).unwrap());
    assert!(head.ends_with('\n') && (tail.len() as f64 / head.len() as f64 - 1.0 / 9.0).abs() < 0.001);
}

#[test]
fn a_report_of_text_lists_every_fault_and_counts_the_sound_rows() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("rows.jsonl");
    let report = |rows: &[&str], packing| {
        fs::write(&path, rows.join("\n")).unwrap();
        report_text(&[text(&path)], &smollm2(), &options(64, 0), packing, 1).unwrap()
    };
    let good = "{\"text\": \"One fish.\"}";
    let sound = report(&[good, good], false);
    assert_eq!((sound.fault_count, sound.shown.len()), (0, 1));
    for packing in [false, true] {
        let found = report(&[good, "{\"text\": null}", "{", good], packing);
        assert_eq!((found.size.tokens, found.size.rows), (sound.size.tokens, 1));
        let faults: Vec<String> = found.faults.iter().map(ToString::to_string).collect();
        assert_eq!((found.fault_count, faults.len()), (2, 2));
        assert!(faults[0].contains("rows.jsonl:2: ") && faults[0].contains("found null"), "{faults:?}");
        assert!(faults[1].contains("rows.jsonl:3: "), "{faults:?}");
    }
    assert_eq!(report(&["{\"text\": null}"], false).fault_count, 1);
}

#[test]
fn an_empty_part_of_the_split_names_the_option_and_the_rows_and_empty_data_does_not() {
    let dir = TempDir::new().unwrap();
    let said = |name: &str, content: &str, split| {
        let path = dir.path().join(name);
        fs::write(&path, content).unwrap();
        let options = TextOptions { split, ..options(64, 0) };
        chain(&StreamingContextDataLoader::open(&[text(&path)], smollm2(), &options).err().expect("it is refused"))
    };
    let rows: String = (0..30).map(|n| format!("{{\"text\": \"row {n}\"}}\n{{\"text\": \"\"}}\n")).collect();
    let part = Split::Validation { validation_fraction: 1e-9, seed: 7 };
    let found = said("rows.jsonl", &rows, part);
    assert!(found.contains("--validation-split 0.000000001 takes none of 30 rows"), "{found}");
    let found = said("rows.txt", "words", part);
    assert!(found.contains("takes none of the text"), "{found}");
    for split in [Split::All, part] {
        let found = said("empty.txt", "", split);
        assert!(found.ends_with("nothing to read from: there is no text in it"), "{found}");
    }
}

#[test]
fn a_shuffle_gives_the_same_rows_in_another_order_each_epoch() {
    let tokenizer = smollm2();
    let plain = options(128, 16);
    let shuffled = TextOptions { shuffle_seed: Some(3), shuffle_window: 50, ..plain.clone() };
    let file = [work("sonnets")];
    let open = |options: &TextOptions| StreamingContextDataLoader::open(&file, tokenizer.clone(), options).unwrap();
    let sorted = |mut rows: Vec<Row>| {
        rows.sort_by(|a, b| a.ids.cmp(&b.ids));
        rows
    };
    let in_order = all_rows(&mut open(&plain));
    let mut loader = open(&shuffled);
    let first = all_rows(&mut loader);
    loader.start_epoch(1);
    let second = all_rows(&mut loader);
    loader.start_epoch(0);
    assert!(all_rows(&mut loader) == first, "an epoch is a function of its number");
    assert!(first != in_order && second != first);
    assert!(sorted(first.clone()) == sorted(in_order.clone()) && sorted(second) == sorted(in_order));
    let other = TextOptions { shuffle_seed: Some(4), ..shuffled };
    assert!(all_rows(&mut open(&other)) != first);
}

#[test]
fn seek_yields_the_same_remaining_rows() {
    let tokenizer = smollm2();
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("rows.jsonl");
    let rows: String = (0..40).map(|n| format!("{{\"text\": {:?}}}\n", "many words ".repeat(1 + n * 7 % 60))).collect();
    fs::write(&path, rows).unwrap();
    let files = [work("phoenix_and_the_turtle"), text(&path), work("passionate_pilgrim")];
    for shuffle_seed in [None, Some(11)] {
        let options = TextOptions { shuffle_seed, shuffle_window: 7, isolate_documents: true, ..options(64, 9) };
        resumes(|| StreamingContextDataLoader::open(&files, tokenizer.clone(), &options).unwrap());
        let packed = TextOptions { overlap: 0, ..options };
        resumes(|| PackedDataLoader::open(&files, tokenizer.clone(), &packed).unwrap());
    }
}

fn resumes<L: DataLoader>(open: impl Fn() -> L) {
    let mut loader = open();
    loader.start_epoch(2);
    let all = all_rows(&mut loader);
    assert!(all.len() > 40);
    loader.start_epoch(2);
    for given in 0..=all.len() {
        // Round-trip through JSON, as in a checkpoint.
        let saved = serde_json::to_string(&loader.position()).unwrap();
        let position: Position = serde_json::from_str(&saved).unwrap();
        let mut resumed = open();
        resumed.seek(&position).unwrap();
        assert_eq!((resumed.epoch(), resumed.position()), (2, position));
        for expected in all[given..].iter().take(9) {
            assert!(resumed.next_row().unwrap().as_ref() == Some(expected), "after {given} rows");
        }
        loader.next_row().unwrap();
    }
}

#[test]
fn a_position_of_other_data_or_options_is_refused() {
    let tokenizer = smollm2();
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a.txt");
    fs::write(&path, "To be, or not to be. ".repeat(50)).unwrap();
    let open = |block| StreamingContextDataLoader::open(&[text(&path)], tokenizer.clone(), &options(block, 0)).unwrap();
    let position = open(32).position();
    open(32).seek(&position).unwrap();
    let refused = chain(&open(33).seek(&position).unwrap_err());
    assert!(refused.contains("other data, another tokenizer or other options"), "{refused}");
    fs::write(&path, "To be, or not to bee. ".repeat(50)).unwrap();
    assert!(matches!(open(32).seek(&position), Err(Error::Position { .. })));
}

#[test]
fn packed_documents_are_not_split_and_start_at_position_zero() {
    let tokenizer = smollm2();
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("rows.jsonl");
    let texts: Vec<String> = (0..200).map(|n| format!("{n} {}", "word ".repeat(n * 13 % 90))).collect();
    fs::write(&path, texts.iter().map(|text| format!("{{\"text\": {text:?}}}\n")).collect::<String>()).unwrap();
    let mut loader = PackedDataLoader::open(&[text(&path)], tokenizer.clone(), &options(128, 0)).unwrap();
    let rows = all_rows(&mut loader);
    let mut found: Vec<Vec<u32>> = Vec::new();
    for row in &rows {
        assert!(row.len() <= 128);
        for at in 0..row.len() {
            let is_first = at == 0 || row.documents[at] != row.documents[at - 1];
            if is_first {
                found.push(Vec::new());
            }
            let document = found.last_mut().unwrap();
            assert_eq!(row.positions[at] as usize, document.len());
            assert_eq!(row.labels[at], if is_first { IGNORED } else { i64::from(row.ids[at]) });
            document.push(row.ids[at]);
        }
    }
    let mut expected: Vec<Vec<u32>> = texts
        .iter()
        .map(|text| [tokenizer.encode(text, true).unwrap(), vec![tokenizer.eos_id().unwrap()]].concat())
        .collect();
    found.sort();
    expected.sort();
    assert!(found == expected);
    let filled = rows.iter().map(Row::len).sum::<usize>() as f64 / (rows.len() * 128) as f64;
    assert!(filled > 0.97, "{filled}");

    loader.start_epoch(0);
    let batch = loader.next_batch(4).unwrap().unwrap();
    let bounds = batch.cu_seqlens();
    assert_eq!((bounds[0], *bounds.last().unwrap() as usize), (0, batch.rows * batch.cols));
    for pair in bounds.windows(2) {
        let range = pair[0] as usize..pair[1] as usize;
        assert!(batch.document_ids[range.clone()].iter().all(|id| *id == batch.document_ids[range.start]));
        assert!(batch.position_ids[range].iter().copied().eq(0..pair[1] - pair[0]));
    }
}

#[test]
fn errors_name_file_and_line() {
    let tokenizer = smollm2();
    let dir = TempDir::new().unwrap();
    let refuse = |name: &str, content: &[u8], expected: &[&str]| {
        let path = dir.path().join(name);
        fs::write(&path, content).unwrap();
        let result = StreamingContextDataLoader::open(&[text(&path)], tokenizer.clone(), &options(64, 0));
        let error = result.and_then(|loader| loader.epoch_size()).map(|_| ()).unwrap_err();
        let said = chain(&error);
        assert!(expected.iter().all(|part| said.contains(part)), "{name}: {said}");
    };
    refuse("a.jsonl", b"{\"text\": \"a\"}\n\n{\"txt\": 1}\n", &["a.jsonl:3", "no field \"text\"", "\"txt\""]);
    refuse("b.jsonl", b"{\"text\": 5}", &["b.jsonl:1", "expected a string, found a number"]);
    refuse("c.jsonl", b"{\"text\": \"a\"}\n{\"text\": \"a\"", &["c.jsonl:2", "JSON"]);
    refuse("d.jsonl", b"[1, 2]", &["d.jsonl:1", "expected an object, found a number"]);
    refuse("e.jsonl", b"{\"text\": \"a\"}\n{\"text\": \"\xff\"}", &["e.jsonl:2", "byte 24", "UTF-8"]);
    refuse(
        "f.txt",
        &[b"fine\n".repeat(30_000), b"\xe9t\xe9".to_vec()].concat(),
        &["f.txt:30001", "byte 150000", "iconv"],
    );
    refuse("g.txt", b"", &["g.txt", "nothing to read"]);
    refuse("h.jsonl", &[b"{\"text\": ".to_vec(), b"[".repeat(100_000)].concat(), &["h.jsonl:1", "recursion"]);
    refuse("i.jsonl", &b"[".repeat(100_000), &["i.jsonl:1", "before the list's"]);
    let missing = |pattern: String| {
        StreamingContextDataLoader::open(&[pattern], tokenizer.clone(), &options(64, 0)).err().unwrap()
    };
    assert!(matches!(missing(text(&dir.path().join("none.txt"))), Error::Missing { .. }));
    assert!(matches!(missing(text(&dir.path().join("*.csv"))), Error::NoMatch { .. }));
    assert!(matches!(missing(text(dir.path())), Error::NotAFile { .. }));
    assert!(matches!(missing("/dev/zero".to_owned()), Error::NotAFile { .. }));
    for bad in
        [options(1, 0), options(8, 8), options(usize::MAX, 0), TextOptions { shuffle_window: 0, ..options(8, 0) }]
    {
        assert!(matches!(bad.check(), Err(Error::Setting { .. })), "{bad:?}");
    }
    let nan = Split::Train { validation_fraction: f64::NAN, seed: 0 };
    assert!(TextOptions { split: nan, ..options(8, 0) }.check().is_err());
}

#[test]
fn patterns_name_each_file_once_and_in_order() {
    let tokenizer = smollm2();
    let dir = TempDir::new().unwrap();
    for name in ["b.txt", "a.txt", "c[1].txt"] {
        fs::write(dir.path().join(name), name).unwrap();
    }
    let patterns = [text(&dir.path().join("c[1].txt")), text(&dir.path().join("*.txt"))];
    let options = TextOptions { append_eos: false, ..options(1024, 0) };
    let rows = all_rows(&mut StreamingContextDataLoader::open(&patterns, tokenizer.clone(), &options).unwrap());
    assert_eq!(tokenizer.decode(&rows[0].ids, false).unwrap(), "c[1].txta.txtb.txt");
}

/// Loaded once: the cases of a property are many.
fn shared() -> Arc<Tokenizer> {
    static LOADED: OnceLock<Arc<Tokenizer>> = OnceLock::new();
    LOADED.get_or_init(smollm2).clone()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn packing_puts_every_document_into_one_row_and_fills_no_row_over(
        lengths in prop::collection::vec(0usize..=70, 0..200), capacity in 70usize..200,
    ) {
        let rows = unswag_data::pack(&lengths, capacity).unwrap();
        let mut seen: Vec<usize> = rows.iter().flatten().copied().collect();
        seen.sort();
        prop_assert!(seen.into_iter().eq(0..lengths.len()));
        let filled: Vec<usize> = rows.iter().map(|row| row.iter().map(|index| lengths[*index]).sum()).collect();
        prop_assert!(filled.iter().all(|tokens| *tokens <= capacity));
        // Any two rows together would overflow one: so at least half is filled.
        for (a, first) in filled.iter().enumerate() {
            prop_assert!(filled[a + 1..].iter().all(|second| first + second > capacity));
        }
    }

    #[test]
    fn any_documents_give_the_stream_and_the_exact_overlap(
        texts in prop::collection::vec("[a-c 0-2\\n\u{e9}\u{65e5}\u{1f642}]{0,60}", 1..12),
        block in 2usize..40, overlap_share in 0.0f64..1.0, window in 1usize..6, stop in 0usize..30,
    ) {
        let tokenizer = shared();
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("rows.jsonl");
        fs::write(&path, texts.iter().map(|text| format!("{}\n", serde_json::json!({"text": text}))).collect::<String>()).unwrap();
        let eos = tokenizer.eos_id().unwrap();
        let non_empty = texts.iter().filter(|text| !text.is_empty());
        let expected: Vec<u32> = non_empty.flat_map(|text| [tokenizer.encode(text, true).unwrap(), vec![eos]].concat()).collect();
        prop_assume!(!expected.is_empty());
        let overlap = (block as f64 * overlap_share) as usize;
        let open = |options: &TextOptions| StreamingContextDataLoader::open(&[text(&path)], tokenizer.clone(), options).unwrap();
        let plain = options(block, overlap);
        let rows = all_rows(&mut open(&plain));
        prop_assert_eq!(stream_of(&rows, overlap), expected.clone());
        prop_assert!(rows.windows(2).all(|pair| pair[0].ids[block - overlap..] == pair[1].ids[..overlap]));
        prop_assert!(rows.iter().skip(1).all(|row| row.len() > overlap && row.len() <= block));
        let shuffled = TextOptions { shuffle_seed: Some(9), shuffle_window: window, ..plain };
        let mut loader = open(&shuffled);
        for _ in 0..stop {
            loader.next_row().unwrap();
        }
        let mut resumed = open(&shuffled);
        resumed.seek(&loader.position()).unwrap();
        prop_assert_eq!(all_rows(&mut resumed), all_rows(&mut loader));
    }

    #[test]
    fn packing_names_the_document_that_is_too_long(length in 11usize..1000, at in 0usize..5) {
        let mut lengths = [3; 5];
        lengths[at] = length;
        prop_assert_eq!(unswag_data::pack(&lengths, 10), Err(at));
    }
}
