//! Every format of rows: the same rows whatever the file, prompts and completions with the loss where it belongs, positions
//! that resume, and what is refused, by line.
//!
//! Needs the Python environment and SmolLM2, which `make test` lays down.

mod common;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use common::{all_rows, chain, text};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value as Json, json};
use tempfile::TempDir;
use unswag_data::{
    ChatDataLoader, ChatOptions, ChatTemplate, Columns, CompletionDataLoader, CompletionOptions, DataKind, DataLoader,
    DataSet, Error, IGNORED, Overlong, ProbeFormat, Row, RowFormat, RowRemarks, Split, StreamingContextDataLoader,
    TextOptions, Tokenizer, read_rows,
};

fn smollm2() -> Arc<Tokenizer> {
    static TOKENIZER: OnceLock<Arc<Tokenizer>> = OnceLock::new();
    TOKENIZER.get_or_init(common::smollm2).clone()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A folder of data.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Files(TempDir::new().unwrap())
    }

    fn add(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).unwrap();
        text(&path)
    }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parquet").join(name)
}

fn open(path: &str, options: &CompletionOptions) -> Result<CompletionDataLoader, Error> {
    CompletionDataLoader::open(&[path.to_owned()], smollm2(), options)
}

fn rows_of(path: &str, options: &CompletionOptions) -> Vec<Row> {
    all_rows(&mut open(path, options).unwrap_or_else(|error| panic!("{path}: {}", chain(&error))))
}

/// What a row says, and the part of it that is learned.
fn said(row: &Row, tokenizer: &Tokenizer) -> (String, String) {
    let learned: Vec<u32> =
        row.ids.iter().zip(&row.labels).filter(|(_, label)| **label != IGNORED).map(|(id, _)| *id).collect();
    (tokenizer.decode(&row.ids, false).unwrap(), tokenizer.decode(&learned, false).unwrap())
}

#[track_caller]
fn refused<T>(outcome: Result<T, Error>, expected: &[&str]) {
    let said = chain(&outcome.err().expect("it is refused"));
    assert!(expected.iter().all(|part| said.contains(part)), "{said}");
}

const ALPACA: &str = r####"Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request.

### Instruction:
Translate "to"
French.

### Input:
cheese, please

### Response:
du fromage 🧀"####;

fn alpaca() -> Vec<Json> {
    vec![
        json!({"instruction": "Translate \"to\"\nFrench.", "input": "cheese, please", "output": "du fromage 🧀"}),
        json!({"instruction": "Say hello.", "input": "", "output": "Hello!"}),
        json!({"instruction": "Say nothing.", "input": "", "output": ""}),
    ]
}

fn csv(rows: &[Json], names: &[&str], delimiter: &str) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let line =
        |row: &Json| names.iter().map(|name| quoted(row[*name].as_str().unwrap())).collect::<Vec<_>>().join(delimiter);
    let lines: Vec<String> = std::iter::once(names.join(delimiter)).chain(rows.iter().map(line)).collect();
    format!("\u{feff}{}\r\n", lines.join("\r\n"))
}

#[test]
fn an_alpaca_row_is_the_published_prompt_and_the_loss_is_on_the_output_alone() {
    let files = Files::new();
    let lines: String = alpaca().iter().map(|row| format!("{row}\n")).collect();
    let tokenizer = smollm2();
    let rows = rows_of(&files.add("alpaca.jsonl", &lines), &CompletionOptions::default());
    let end = tokenizer.decode(&[tokenizer.eos_id().unwrap()], false).unwrap();
    assert_eq!(said(&rows[0], &tokenizer), (format!("{ALPACA}{end}"), format!("du fromage 🧀{end}")));
    let (whole, learned) = said(&rows[1], &tokenizer);
    assert!(!whole.contains("### Input") && whole.contains("describes a task. Write a response"), "{whole}");
    assert_eq!(learned, format!("Hello!{end}"));
    assert_eq!(said(&rows[2], &tokenizer).1, end, "an empty output: the end alone");
    let loader = open(&files.add("alpaca.jsonl", &lines), &CompletionOptions::default()).unwrap();
    assert_eq!(loader.remarks(), RowRemarks { rows: 3, empty_completions: 1, shared_tokens: 0 });
    // A system prompt takes the place of the first sentence; earlier turns have none in a prompt.
    let system = json!({"instruction": "Go.", "output": "Gone.", "system": "You are a door."});
    let rows = rows_of(&files.add("system.jsonl", system.to_string()), &CompletionOptions::default());
    assert!(
        said(&rows[0], &tokenizer).0.starts_with("You are a door.\n\n### Instruction:\nGo.\n\n### Response:\nGone.")
    );
    let history = json!({"instruction": "Go.", "output": "Gone.", "history": [["a", "b"]]});
    refused(
        open(&files.add("history.jsonl", history.to_string()), &CompletionOptions::default()),
        &["history.jsonl:1", "--chat"],
    );
}

#[test]
fn the_rows_are_the_same_in_every_format() {
    let files = Files::new();
    let rows = alpaca();
    let names = ["instruction", "input", "output"];
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let expected = rows_of(&files.add("a.jsonl", &lines), &CompletionOptions::default());
    assert_eq!(expected.len(), 3);
    let list = Json::Array(rows.clone());
    let (compact, pretty) = (list.to_string(), format!("\u{feff}{list:#}\n"));
    let (first, second) = lines.split_at(lines.find('\n').unwrap() + 1);
    let written: Vec<(&str, Vec<u8>)> = vec![
        ("compact.json", compact.clone().into_bytes()),
        ("pretty.json", pretty.clone().into_bytes()),
        ("lines.json", lines.clone().into_bytes()),
        ("crlf.jsonl", lines.replace('\n', "\r\n").into_bytes()),
        ("rows.csv", csv(&rows, &names, ",").into_bytes()),
        ("semicolons.csv", csv(&rows, &["output", "input", "instruction"], ";").into_bytes()),
        ("rows.tsv", csv(&rows, &names, "\t").into_bytes()),
        ("a.jsonl.gz", gzip(lines.as_bytes())),
        // Two members, as `cat a.gz b.gz` writes them.
        ("members.jsonl.gz", [gzip(first.as_bytes()), gzip(second.as_bytes())].concat()),
        ("list.json.gz", gzip(pretty.as_bytes())),
        ("rows.csv.gz", gzip(csv(&rows, &names, ",").as_bytes())),
        // A download that lost its name.
        ("unnamed.jsonl", gzip(lines.as_bytes())),
    ];
    for (name, bytes) in written {
        assert_eq!(rows_of(&files.add(name, bytes), &CompletionOptions::default()), expected, "{name}");
    }
}

#[test]
fn prompts_and_completions_are_found_by_the_names_that_people_give_them() {
    let files = Files::new();
    let tokenizer = smollm2();
    let end = tokenizer.decode(&[tokenizer.eos_id().unwrap()], false).unwrap();
    for (prompt, completion) in [
        ("prompt", "completion"),
        ("Prompt", "Response"),
        ("question", "answer"),
        ("query", "response"),
        ("input", "output"),
    ] {
        let row = json!({ prompt: "2 + 2 =", completion: " 4", "id": 7 });
        let rows = rows_of(&files.add("pair.jsonl", row.to_string()), &CompletionOptions::default());
        assert_eq!(said(&rows[0], &tokenizer), (format!("2 + 2 = 4{end}"), format!(" 4{end}")), "{prompt}");
    }
    // Numbers are their digits, and columns can be named.
    let columns = Columns { prompt: Some("Q".into()), completion: Some("A".into()), ..Columns::default() };
    let named = CompletionOptions { columns, ..CompletionOptions::default() };
    let rows = rows_of(&files.add("named.jsonl", json!({"Q": "6 * 7 = ", "A": 42, "text": "x"}).to_string()), &named);
    assert_eq!(said(&rows[0], &tokenizer).1, format!("42{end}"));
    // A token across the border is learned: it holds a part of the completion.
    let rows = rows_of(
        &files.add("border.jsonl", json!({"prompt": "wond", "completion": "erful"}).to_string()),
        &CompletionOptions::default(),
    );
    let whole = tokenizer.encode("wonderful", true).unwrap();
    assert_eq!(rows[0].ids[..whole.len()], whole);
    let shared = |prompt: &str, completion: &str| {
        let row = json!({"prompt": prompt, "completion": completion}).to_string();
        open(&files.add("shared.jsonl", row), &CompletionOptions::default()).unwrap().remarks().shared_tokens
    };
    assert_eq!(shared("wond", "erful"), 1);
    // The space is a part of the word's token.
    assert_eq!(shared("It is ", "wonderful"), 1);
    assert_eq!(shared("It is", " wonderful"), 0);
    assert_eq!(shared("It is\n", "wonderful"), 0);
    assert_eq!(shared("", "wonderful"), 0);
}

#[test]
fn columns_that_could_mean_several_things_are_listed_with_the_options_that_name_them() {
    let files = Files::new();
    let default = CompletionOptions::default();
    let set = |path: &str, columns: &Columns, is_chat| DataSet::open(&[path.to_owned()], columns, is_chat);
    let unknown = files.add("unknown.csv", "a,b\n1,2\n");
    refused(
        set(&unknown, &Columns::default(), false),
        &["unknown.csv", "\"a\", \"b\"", "--text-column", "--prompt-column", "--completion-column"],
    );
    let prose = files.add("prose.txt", "Shall I compare thee\n");
    refused(set(&prose, &Columns::default(), true), &["prose.txt:1", "a JSON object on each line", "leave out --chat"]);
    let both = files.add("both.jsonl", json!({"prompt": "a", "answer": "b", "response": "c"}).to_string());
    refused(open(&both, &default), &["\"response\", \"answer\"", "--completion-column"]);
    let messages = files.add("messages.jsonl", json!({"messages": [{"role": "user", "content": "a"}]}).to_string());
    refused(set(&messages, &Columns::default(), false), &["\"messages\"", "add --chat"]);
    let plain = files.add("plain.jsonl", json!({"text": "a"}).to_string());
    refused(set(&plain, &Columns::default(), true), &["\"text\"", "leave out --chat", "--messages-column"]);
    let misspelt = Columns { prompt: Some("promt".into()), ..Columns::default() };
    refused(set(&both, &misspelt, false), &["\"promt\"", "--prompt-column", "\"prompt\""]);
    let text = DataSet::open(&[plain.clone(), files.add("a.txt", "words")], &Columns::default(), false).unwrap();
    assert_eq!(text.kind().unwrap(), DataKind::Text { column: Some("text".to_owned()) });
    let mixed = DataSet::open(
        &[plain, files.add("pair.jsonl", json!({"prompt": "a", "completion": "b"}).to_string())],
        &Columns::default(),
        false,
    );
    refused(mixed.unwrap().kind(), &["pair.jsonl", "plain.jsonl", "--data-format"]);
    // Text wins over conversations where no template is asked for, and not where one is.
    let two = files.add("two.jsonl", json!({"messages": [{"role": "user", "content": "a"}], "text": "a"}).to_string());
    assert_eq!(set(&two, &Columns::default(), false).unwrap().describe()[0].rows_are.as_deref(), Some("text"));
    assert_eq!(set(&two, &Columns::default(), true).unwrap().describe()[0].other_columns, ["text"]);
    refused(DataSet::open(&[files.add("a.zip", "PK")], &Columns::default(), false), &["a.zip", "unpack"]);
    refused(
        DataSet::open(&[files.add("a.txt.gz", gzip(b"words"))], &Columns::default(), false),
        &["a.txt.gz", "gunzip"],
    );
}

#[test]
fn a_resumed_run_sees_the_rows_that_would_have_come_in_every_format() {
    let files = Files::new();
    let rows: Vec<Json> =
        (0..23).map(|n| json!({"prompt": format!("Count\n{n}:"), "completion": format!(" {}\"", n * n)})).collect();
    let lines: String = rows.iter().map(|row| format!("{row}\n\n")).collect();
    let list = Json::Array(rows.clone());
    let parquet = fixture("plain.parquet");
    let paths = [
        files.add("a.jsonl", &lines),
        files.add("a.jsonl.gz", gzip(lines.as_bytes())),
        files.add("compact.json", list.to_string()),
        files.add("pretty.json", format!("{list:#}")),
        files.add("a.csv", csv(&rows, &["prompt", "completion"], ",")),
        text(&parquet),
    ];
    // The Parquet file has rows without a completion: its text is taken instead.
    let by_text = Columns { prompt: Some("prompt".into()), completion: Some("number".into()), ..Columns::default() };
    for path in &paths {
        for (packing, shuffle_seed) in [(false, None), (true, Some(3))] {
            let columns = if path.ends_with("parquet") { by_text.clone() } else { Columns::default() };
            let options = CompletionOptions {
                block_size: 64,
                packing,
                shuffle_seed,
                shuffle_window: 7,
                columns,
                ..CompletionOptions::default()
            };
            let expected = rows_of(path, &options);
            for stop in [1, 7, expected.len() - 1].into_iter().filter(|stop| *stop < expected.len()) {
                let mut loader = open(path, &options).unwrap();
                for row in &expected[..stop] {
                    assert_eq!(loader.next_row().unwrap().as_ref(), Some(row));
                }
                let saved = serde_json::to_string(&loader.position()).unwrap();
                let mut resumed = open(path, &options).unwrap();
                resumed.seek(&serde_json::from_str(&saved).unwrap()).unwrap();
                assert_eq!(all_rows(&mut resumed), expected[stop..], "{path}, from {stop}, packing {packing}");
            }
        }
    }
    // Text that is cut into blocks resumes inside of a row too.
    let columns = TextOptions { block_size: 16, overlap: 3, field: "prompt".to_owned(), ..TextOptions::default() };
    for path in &paths {
        let open = || StreamingContextDataLoader::open(std::slice::from_ref(path), smollm2(), &columns).unwrap();
        let expected = all_rows(&mut open());
        let mut loader = open();
        for _ in 0..5 {
            loader.next_row().unwrap();
        }
        let mut resumed = open();
        resumed.seek(&loader.position()).unwrap();
        assert_eq!(all_rows(&mut resumed), expected[5..], "{path}");
    }
}

#[test]
fn a_row_that_is_too_long_is_refused_cut_or_left_out() {
    let files = Files::new();
    let rows = [("short", "a"), ("long ", &"word ".repeat(40) as &str)];
    let lines: String = rows.iter().map(|(p, c)| format!("{}\n", json!({"prompt": p, "completion": c}))).collect();
    let path = files.add("a.jsonl", lines);
    let options = |overlong| CompletionOptions { block_size: 16, overlong, ..CompletionOptions::default() };
    refused(open(&path, &options(Overlong::Refuse)), &["a.jsonl:2", "more than the 16"]);
    assert_eq!(rows_of(&path, &options(Overlong::Skip)).len(), 1);
    let cut = rows_of(&path, &options(Overlong::Truncate));
    assert_eq!((cut.len(), cut[1].len()), (2, 16));
    let prompt = files.add("b.jsonl", json!({"prompt": "word ".repeat(40), "completion": "a"}).to_string());
    refused(open(&prompt, &options(Overlong::Truncate)), &["b.jsonl:1", "no supervised token", "the prompt alone"]);
}

#[test]
fn a_part_of_the_split_without_a_row_says_how_many_rows_there_are() {
    let files = Files::new();
    let rows: String = (0..30).map(|n| format!("{}\n", json!({"prompt": "a", "completion": n}))).collect();
    let path = files.add("a.jsonl", rows);
    let split = Split::Train { validation_fraction: 0.999_999_999, seed: 7 };
    let options = CompletionOptions { split, ..CompletionOptions::default() };
    refused(open(&path, &options), &["a.jsonl", "--validation-split 0.999999999 takes all of 30 rows", "to train on"]);
    let long = CompletionOptions { block_size: 2, overlong: Overlong::Skip, ..CompletionOptions::default() };
    refused(open(&path, &long), &["every row is longer than a block", "--block-size"]);
}

#[test]
fn unsound_files_are_refused_by_line() {
    let files = Files::new();
    let default = CompletionOptions::default();
    let good = "{\"prompt\": \"a\", \"completion\": \"b\"}";
    let whole = gzip(format!("{good}\n").repeat(5000).as_bytes());
    let mut damaged = whole.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x55;
    let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
        (
            "open.csv",
            b"prompt,completion\na,b\n\"a\nb,c\nd,e\n".to_vec(),
            &["open.csv:3", "a quote is opened and not closed"],
        ),
        ("fields.csv", b"prompt,completion\na,b\na,b,c\n".to_vec(), &["fields.csv:3", "2 fields", "found 3"]),
        ("few.tsv", b"prompt\tcompletion\na\n".to_vec(), &["few.tsv:2", "found 1"]),
        ("twice.csv", b"prompt,completion,prompt\na,b,c\n".to_vec(), &["twice.csv:1", "\"prompt\"", "rename"]),
        ("latin1.csv", b"prompt,completion\na,caf\xe9\n".to_vec(), &["latin1.csv:2", "UTF-8"]),
        ("utf16.csv", b"\xff\xfep\0r\0".to_vec(), &["utf16.csv:1", "UTF-8"]),
        ("cut.json", format!("[{good},\n{good}").into_bytes(), &["cut.json:2", "cut"]),
        ("comma.json", format!("[{good},\n{good} {good}]").into_bytes(), &["comma.json:2", "\",\" or \"]\""]),
        ("trailing.json", format!("[{good},\n]").into_bytes(), &["trailing.json:2", "after a comma"]),
        ("more.json", format!("[{good}]\n{good}").into_bytes(), &["more.json:2", "after the list"]),
        (
            "element.json",
            format!("[{good}, 5]").into_bytes(),
            &["element.json:1", "expected an object, found a number"],
        ),
        ("brackets.json", format!("[{good},\n{{\"prompt\": \"]}}\" \"}}]").into_bytes(), &["brackets.json:2", "JSON"]),
        (
            "missing.jsonl",
            format!("{good}\n{{\"prompt\": \"a\"}}").into_bytes(),
            &["missing.jsonl:2", "\"completion\""],
        ),
        (
            "null.jsonl",
            format!("{good}\n{{\"prompt\": \"a\", \"completion\": null}}").into_bytes(),
            &["null.jsonl:2", "found null"],
        ),
        ("list.jsonl", b"{\"prompt\": [], \"completion\": \"a\"}".to_vec(), &["list.jsonl:1", "--chat"]),
        ("cut.jsonl.gz", whole[..whole.len() - 9].to_vec(), &["cut.jsonl.gz:", "gzip", "cut off"]),
        ("damaged.jsonl.gz", damaged, &["damaged.jsonl.gz:"]),
        (
            "cut.parquet",
            fs::read(fixture("pyarrow.parquet")).unwrap()[..9000].to_vec(),
            &["cut.parquet:1", "Parquet", "cut"],
        ),
        ("no.parquet", b"prompt,completion\n".to_vec(), &["no.parquet:1", "Parquet"]),
        ("empty.json", b"[]".to_vec(), &["empty.json", "no row"]),
        ("header.csv", b"prompt,completion\n".to_vec(), &["header.csv", "no row"]),
    ];
    for (name, bytes, expected) in cases {
        refused(open(&files.add(name, bytes), &default), expected);
    }
    let bare = CompletionOptions { columns: Columns { format: RowFormat::Alpaca, ..Columns::default() }, ..default };
    refused(open(&text(&fixture("pyarrow.parquet")), &bare), &["instruction", "--prompt-column", "\"prompt\""]);
}

#[test]
fn a_report_goes_on_after_a_bad_byte_and_says_where_a_file_cannot_be_read_further() {
    let files = Files::new();
    let report =
        |patterns: &[String]| CompletionDataLoader::report(patterns, smollm2(), &CompletionOptions::default()).unwrap();
    let good = "{\"prompt\": \"a\", \"completion\": \" b\"}";
    let [csv, lines, list] = [
        ("bad.csv", b"prompt,completion\na, b\na,caf\xe9\na, b\n".to_vec()),
        ("bad.jsonl", [good.as_bytes(), b"\n{\"prompt\": \"\xe9\"}\n", good.as_bytes()].concat()),
        ("bad.json", [&b"["[..], good.as_bytes(), b",\n{\"prompt\": \"\xe9\"},", good.as_bytes(), b"]"].concat()),
    ]
    .map(|(name, bytes)| files.add(name, bytes));
    for (path, said) in
        [(&csv, "bad.csv:3: field \"completion\": not UTF-8"), (&lines, "not UTF-8"), (&list, "not UTF-8")]
    {
        let report = report(std::slice::from_ref(path));
        assert_eq!((report.size.rows, report.fault_count, report.stops.len()), (2, 1, 0), "{path}");
        let fault = report.faults[0].to_string();
        assert!(fault.contains(said), "{fault}");
    }
    // What is behind an open quote is a part of the field; the next file is read.
    let open = files.add("open.csv", "prompt,completion\na, b\na,\"b\na, b\n");
    let report = report(&[open, lines]);
    assert_eq!((report.size.rows, report.fault_count, report.stops.len()), (3, 2, 1));
    assert!(report.stops[0].to_string().ends_with("open.csv:3"), "{}", report.stops[0]);
}

/// One long row is an error; what is read of it is bounded, and the row after it is read.
#[test]
fn a_row_beyond_the_limit_is_refused_and_the_next_one_read() {
    let long = "a".repeat((1 << 20) + 7);
    let json = format!("{{\"text\": \"{long}\"}}");
    let kinds = [
        (ProbeFormat::JsonLines, format!("{json}\n{{\"text\": \"b\"}}")),
        (ProbeFormat::JsonList, format!("[{json}, {{\"text\": \"b\"}}]")),
        (ProbeFormat::Csv, format!("text\n\"{long}\"\nb\n")),
    ];
    for (format, bytes) in kinds {
        let mut rows = Vec::new();
        read_rows(bytes.as_bytes(), format, false, 1 << 20, |row| rows.push(row.map(str::to_owned))).unwrap();
        let [Err(fault), Ok(next)] = &rows[..] else { panic!("{format:?}: {} rows", rows.len()) };
        assert!(fault.contains("longer than 1048576 bytes"), "{fault}");
        assert_eq!(serde_json::from_str::<Json>(next).unwrap(), json!({"text": "b"}));
    }
}

#[test]
fn csv_and_json_are_read_as_python_reads_them() {
    let dir = TempDir::new().unwrap();
    let output = unswag_tests::python("peers/rows.py").current_dir(dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let expected: Vec<Json> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(expected.len(), 300);
    let formats = [
        ("usual.csv", ProbeFormat::Csv),
        ("all.csv", ProbeFormat::Csv),
        ("tabs.tsv", ProbeFormat::Csv),
        ("compact.json", ProbeFormat::JsonList),
        ("pretty.json", ProbeFormat::JsonList),
    ];
    for (name, format) in formats {
        let mut rows: Vec<Json> = Vec::new();
        let bytes = fs::read(dir.path().join(name)).unwrap();
        read_rows(&bytes, format, false, 1 << 20, |row| rows.push(serde_json::from_str(row.unwrap()).unwrap()))
            .unwrap();
        assert_eq!(rows, expected, "{name}");
    }
}

fn chat(path: &str, columns: Columns) -> Result<Vec<(String, String)>, Error> {
    let tokenizer = smollm2();
    let template = Arc::new(ChatTemplate::load(&unswag_tests::smollm2(), &tokenizer, None).unwrap());
    let options = ChatOptions { columns, ..ChatOptions::default() };
    let mut loader = ChatDataLoader::open(&[path.to_owned()], tokenizer.clone(), template, &options)?;
    Ok(all_rows(&mut loader).iter().map(|row| said(row, &tokenizer)).collect())
}

#[test]
fn with_a_chat_template_every_kind_of_row_is_the_conversation_that_it_says() {
    let files = Files::new();
    let turn = |role: &str, content: &str| json!({"role": role, "content": content});
    let conversation = [turn("system", "Be brief."), turn("user", "Add.\n1 1"), turn("assistant", "2")];
    let expected =
        chat(&files.add("messages.jsonl", json!({"messages": conversation}).to_string()), Columns::default()).unwrap();
    assert!(expected[0].0.contains("Be brief.") && expected[0].1.starts_with('2') && !expected[0].1.contains("Add"));
    let alpaca = json!({"instruction": "Add.", "input": "1 1", "output": "2", "system": "Be brief."});
    let pair = json!({"prompt": "Add.\n1 1", "response": "2", "system_prompt": "Be brief."});
    let sharegpt = json!({"conversations": [{"from": "human", "value": "Add.\n1 1"}, {"from": "gpt", "value": "2"}], "system": "Be brief."});
    let trl = json!({"prompt": conversation[..2], "completion": conversation[2..]});
    let packed = csv(&[json!({"messages": json!(conversation).to_string()})], &["messages"], ",");
    let same = [
        files.add("alpaca.json", json!([alpaca]).to_string()),
        files.add("pair.jsonl", pair.to_string()),
        files.add("sharegpt.jsonl.gz", gzip(sharegpt.to_string().as_bytes())),
        files.add("trl.jsonl", trl.to_string()),
        files.add("packed.csv", packed),
    ];
    for path in same {
        assert_eq!(chat(&path, Columns::default()).unwrap(), expected, "{path}");
    }
    let named = Columns { messages: Some("dialog".into()), ..Columns::default() };
    assert_eq!(chat(&files.add("named.jsonl", json!({"dialog": conversation}).to_string()), named).unwrap(), expected);
    // Earlier turns are turns; what the assistant says in a prompt is not learned.
    let history = json!({"instruction": "Add.", "input": "1 1", "output": "2", "history": [["Hi.", "Hello."]]});
    let found = chat(&files.add("history.jsonl", history.to_string()), Columns::default()).unwrap();
    assert!(found[0].1.contains("Hello.") && found[0].1.contains('2') && !found[0].1.contains("Hi."), "{found:?}");
    let longer = [turn("user", "Hi."), turn("assistant", "Hello."), turn("user", "Add.")];
    let trl = json!({"prompt": longer, "completion": [turn("assistant", "2")]});
    let found = chat(&files.add("longer.jsonl", trl.to_string()), Columns::default()).unwrap();
    assert!(found[0].0.contains("Hello.") && !found[0].1.contains("Hello."), "{found:?}");
    // Parquet's lists of structures; a null is no message.
    refused(chat(&text(&fixture("polars.parquet")), Columns::default()), &["polars.parquet:1"]);
}
