//! Conversations: the template against transformers, the loss mask, and what is refused.
//!
//! Needs the Python environment and SmolLM2, which `make test` lays down.

mod common;

use std::{fs, path::Path, sync::Arc};

use common::{all_rows, chain, smollm2, text};
use serde_json::{Map, Value as Json, json};
use tempfile::TempDir;
use unswag_data::{
    ChatDataLoader, ChatOptions, ChatTemplate, DataLoader, Error, IGNORED, Message, Overlong, Position, Row,
    RowRemarks, Split, Tokenizer, preview, preview_chat,
};

const NOW: &str = "2026-11-21T08:05:09";

fn compile(tokenizer: &Tokenizer, source: Option<&str>) -> Arc<ChatTemplate> {
    let template = match source {
        Some(source) => ChatTemplate::new(source.to_owned(), Path::new("test.jinja"), tokenizer, Some(NOW)),
        None => ChatTemplate::load(&unswag_tests::smollm2(), tokenizer, Some(NOW)),
    };
    Arc::new(template.unwrap())
}

/// A data set of these rows.
struct Data {
    dir: TempDir,
}

impl Data {
    fn of(rows: &[Json]) -> Self {
        Data::lines(&rows.iter().map(|row| format!("{row}\n")).collect::<String>())
    }

    fn lines(content: &str) -> Self {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("chat.jsonl"), content).unwrap();
        Data { dir }
    }

    fn patterns(&self) -> Vec<String> {
        vec![text(&self.dir.path().join("chat.jsonl"))]
    }

    fn open(&self, source: Option<&str>, options: &ChatOptions) -> Result<ChatDataLoader, Error> {
        let tokenizer = smollm2();
        let template = compile(&tokenizer, source);
        ChatDataLoader::open(&self.patterns(), tokenizer, template, options)
    }

    #[track_caller]
    fn refused(&self, source: Option<&str>, options: &ChatOptions, expected: &[&str]) {
        let said = chain(&self.open(source, options).err().expect("it is refused"));
        assert!(expected.iter().all(|part| said.contains(part)), "{said}");
    }
}

fn turn(role: &str, content: &str) -> Json {
    json!({ "role": role, "content": content })
}

/// The pieces of a row's text that a loss is taken on.
fn supervised(row: &Row, tokenizer: &Tokenizer) -> Vec<String> {
    let mut parts: Vec<Vec<u32>> = Vec::new();
    for at in 0..row.len() {
        if row.labels[at] == IGNORED {
            continue;
        }
        assert_eq!(row.labels[at], i64::from(row.ids[at]));
        if at == 0 || row.labels[at - 1] == IGNORED {
            parts.push(Vec::new());
        }
        parts.last_mut().unwrap().push(row.ids[at]);
    }
    parts.iter().map(|ids| tokenizer.decode(ids, false).unwrap()).collect()
}

const MARKED: &str = "{{ bos_token }}
{%- for message in messages %}
    {%- if message['role'] == 'assistant' %}
        {{- '[A]' }}
        {%- generation %}
        {{- message.content + eos_token }}
        {%- endgeneration %}
    {%- else %}
        {{- '[U]' + message.content }}
    {%- endif %}
{%- endfor %}
";

/// Drops the thoughts of earlier turns, and puts an empty one into the last, as models that reason do.
const FORGETFUL: &str = "{%- set ns = namespace(last=-1) %}
{%- for message in messages %}{% if message.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == 'assistant' %}
        {%- set thought = '' %}
        {%- if '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.index0 > ns.last %}{{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}{% endif %}
        {{- content.lstrip('\\n') + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}";

/// No generation prompt, strict roles, and the end of a text behind each answer.
const BRACKETS: &str = "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate user/assistant/user/...') }}{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'].strip() + ' [/INST]' }}{% else %}{{ ' ' + message['content'].strip() + eos_token }}{% endif %}{% endfor %}";

const HELPERS: &str = "Today: {{ strftime_now('%d %b %Y') }} {{ strftime_now('%Y-%m-%d %H:%M:%S %A %j %-d') }}
{% for message in messages %}
    {% if message.role == 'skip' %}
        {% continue %}
    {% endif %}
    {% if loop.index > 6 %}{% break %}{% endif %}
  <{{ message['role'] | upper }} {{ loop.index0 }}>{{ message['content'] | trim }}
    {# a remark #}
    {% if message.data is defined %}
{{ message.data | tojson }}
{{ message.data | tojson(indent=2) }}
{{ message.data | tojson(sort_keys=true, separators=(',', ':'), ensure_ascii=true) }}
{{ message.data }} {{ message.data.a is mapping }} {{ message.data.a is string }}
{% for key, value in message.data.items() %}{{ key }}={{ value }};{% endfor +%}
{{ message.data.get('nothing', 'else') }} {{ message.data.keys() | list }}
    {% endif %}
{% endfor %}
{% if tools %}{% for tool in tools %}{{ tool | tojson(indent=4) }}
{% endfor %}{% else %}{{ tools }}{% endif %}
{% macro shout(text, times=2) -%}{{ text.upper() * times }}{%- endmacro %}
{{ shout('a') }}{{ messages[::-1][0].role }}{{ messages[1:] | length }} {{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join('|') }}
{{ nothing }}{{ none }}{{ true }} {{ 3 / 2 }} {{ 7 // 2 }} {{ 2 ** 10 }} {{ 1.0 }} {{ 'x' ~ 1 ~ 'y' }} {{ [1, 'a', none, true, 2.5] }} {{ {'k': \"it's\"} }}
{{ 'a,b,,c'.split(',') }} {{ '  x '.strip() }}| {{ 'abc'.startswith('ab') }} {{ 'Ab'.title() }} {{ 'x' if messages else 'y' }} {{ enable_thinking | default(false) }}
";

#[test]
fn templates_write_what_transformers_writes() {
    let tokenizer = smollm2();
    let plain = json!([
        turn("user", "Hi  there\n"),
        turn("assistant", "Hello! 🙂 naïve"),
        turn("user", "Bye"),
        turn("assistant", " So long. ")
    ]);
    let with_system = json!([turn("system", "Be brief."), turn("user", "<|im_start|>?"), turn("assistant", "No.")]);
    let asked = json!([turn("user", "Only a question")]);
    let thoughtful = json!([
        turn("user", "1+1"),
        turn("assistant", "<think>\nadd\n</think>\n\n2"),
        turn("user", "2+2"),
        turn("assistant", "<think>\nagain\n</think>\n\n4"),
    ]);
    let data = json!({"z": 1, "a": {"é": [1.0, 1e16, 1e-5, 0.1, -0.0, 123456789012345680.0, true, null, "t\u{8}\u{c}\u{1}\"\\/<&>'\n"]}, "m": [], "o": {}, "big": 18446744073709551615u64, "neg": -5});
    let rich = json!([
        {"role": "user", "content": "  x  ", "data": data}, turn("skip", "-"), turn("tool", "a\nb"), {"role": "user", "content": "it's", "data": {"a": {}}},
    ]);
    let tools = json!([{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"x": {"type": "number"}}}}}]);
    let mut cases = Vec::new();
    for messages in [&plain, &with_system, &asked, &thoughtful] {
        for prompt in [false, true] {
            cases.push(json!({"messages": messages, "prompt": prompt}));
            for template in [MARKED, FORGETFUL, BRACKETS] {
                cases.push(json!({"messages": messages, "prompt": prompt, "template": template}));
            }
        }
    }
    for now in [NOW, "2024-02-29T00:00:00"] {
        cases.push(json!({"messages": rich, "template": HELPERS, "tools": tools, "now": now, "variables": {"enable_thinking": true}}));
        cases.push(json!({"messages": rich, "template": HELPERS, "now": now}));
    }
    let dir = TempDir::new().unwrap();
    let (asked, answered) = (dir.path().join("cases.json"), dir.path().join("answers.json"));
    fs::write(&asked, serde_json::to_vec(&cases).unwrap()).unwrap();
    let output = unswag_tests::python("peers/chat.py")
        .args([&unswag_tests::smollm2(), &asked, &answered])
        .output()
        .expect("the environment's Python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answers: Vec<Json> = serde_json::from_slice(&fs::read(&answered).unwrap()).unwrap();
    assert_eq!(answers.len(), cases.len());

    let (mut compared, mut refused, mut marked) = (0, 0, 0);
    for (case, answer) in cases.iter().zip(&answers) {
        let template = match case["template"].as_str() {
            Some(source) => {
                let now = case["now"].as_str().or(Some(NOW));
                ChatTemplate::new(source.to_owned(), Path::new("t"), &tokenizer, now).unwrap()
            }
            None => ChatTemplate::load(&unswag_tests::smollm2(), &tokenizer, None).unwrap(),
        };
        let mut extra: Map<String, Json> = case["variables"].as_object().cloned().unwrap_or_default();
        if let Some(tools) = case.get("tools") {
            extra.insert("tools".to_owned(), tools.clone());
        }
        let ours = template.render_json(&case["messages"].to_string(), case["prompt"] == true, &extra);
        let Some(expected) = answer["text"].as_str() else {
            assert!(ours.is_err(), "transformers refuses this: {answer}");
            refused += 1;
            continue;
        };
        let ours = ours.unwrap_or_else(|error| panic!("{error}\n{case}"));
        assert_eq!(ours, expected, "{case}");
        let ids: Vec<u32> = serde_json::from_value(answer["ids"].clone()).unwrap();
        assert_eq!(tokenizer.encode(&ours, false).unwrap(), ids);
        compared += 1;
        // What transformers takes as written by the assistant is what we take the loss on.
        if let Some(generated) = answer["generated"].as_array().filter(|mask| mask.iter().any(|one| *one == 1)) {
            let options = ChatOptions::default();
            let row = json!({"messages": case["messages"]});
            let data = Data::of(&[row]);
            let mut loader = data.open(case["template"].as_str(), &options).unwrap();
            let mut row = loader.next_row().unwrap().unwrap();
            if case["prompt"] == true {
                continue;
            }
            let mask: Vec<Json> = row.labels.drain(..).map(|label| json!(i32::from(label != IGNORED))).collect();
            assert_eq!(&mask, generated, "{case}");
            marked += 1;
        }
    }
    assert!(compared == cases.len() - 2 && refused == 2 && marked == 3, "{compared} {refused} {marked}");
}

#[test]
fn the_loss_is_on_the_assistants_words_and_the_token_that_ends_them() {
    let tokenizer = smollm2();
    let row = json!({"messages": [turn("system", "S"), turn("user", "Hi"), turn("assistant", "Hello!"), turn("user", "Bye"), turn("assistant", "So long.\n")]});
    let data = Data::of(&[row]);
    let mut loader = data.open(None, &ChatOptions::default()).unwrap();
    let row = loader.next_row().unwrap().unwrap();
    assert_eq!(supervised(&row, &tokenizer), ["Hello!<|im_end|>", "So long.\n<|im_end|>"]);
    let whole = "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\nSo long.\n<|im_end|>\n";
    assert_eq!(tokenizer.decode(&row.ids, false).unwrap(), whole);
    assert!(loader.next_row().unwrap().is_none());
}

#[test]
fn sharegpt_rows_are_the_same_conversations() {
    let data = Data::of(&[
        json!({"messages": [turn("system", "S"), turn("user", "Hi"), turn("assistant", "Hello!")]}),
        json!({"id": 7, "system": "S", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]}),
        json!({"conversations": [turn("system", "S"), turn("user", "Hi"), turn("assistant", "Hello!")]}),
    ]);
    let rows = all_rows(&mut data.open(None, &ChatOptions::default()).unwrap());
    assert!(rows.len() == 3 && rows.iter().all(|row| *row == rows[0]));
}

#[test]
fn a_template_that_rewrites_earlier_turns_still_shows_what_the_assistant_says() {
    let tokenizer = smollm2();
    let messages = [
        turn("user", "1+1"),
        turn("assistant", "<think>\nadd\n</think>\n\n2"),
        turn("user", "2+2"),
        turn("assistant", "<think>\nadd more\n</think>\n\n4"),
    ];
    let data = Data::of(&[json!({ "messages": messages })]);
    let mut loader = data.open(Some(FORGETFUL), &ChatOptions::default()).unwrap();
    let row = loader.next_row().unwrap().unwrap();
    assert_eq!(supervised(&row, &tokenizer), ["2<|im_end|>", "<think>\nadd more\n</think>\n\n4<|im_end|>"]);

    let messages = [turn("user", " a "), turn("assistant", " b "), turn("user", "c"), turn("assistant", "d")];
    let data = Data::of(&[json!({ "messages": messages })]);
    let mut loader = data.open(Some(BRACKETS), &ChatOptions::default()).unwrap();
    let row = loader.next_row().unwrap().unwrap();
    assert_eq!(supervised(&row, &tokenizer), [" b<|im_end|>", " d<|im_end|>"]);
}

#[test]
fn rows_that_teach_nothing_or_are_broken_are_refused_by_line() {
    let good = json!({"messages": [turn("user", "Hi"), turn("assistant", "Hello!")]});
    let options = ChatOptions::default();
    let second = |row: Json, expected: &[&str]| {
        Data::of(&[good.clone(), row]).refused(None, &options, &[&["chat.jsonl:2: "], expected].concat());
    };
    second(json!({"messages": [turn("user", "Hi")]}), &["no supervised token", "role \"assistant\""]);
    second(json!({"messages": []}), &["no message"]);
    second(json!({"text": "plain"}), &["no field \"messages\"", "\"conversations\"", "\"text\""]);
    second(json!({"messages": "Hi"}), &["expected a list of messages, found a string"]);
    second(json!({"messages": [5]}), &["message 1", "expected an object, found a number"]);
    second(json!({"messages": [{"content": "x"}]}), &["message 1", "no \"role\""]);
    second(json!({"messages": [turn("user", "x"), {"role": "assistant"}]}), &["message 2", "no \"content\""]);
    second(
        json!({"messages": [turn("user", "x"), {"role": "assistant", "content": 5}]}),
        &["message 2", "found a number"],
    );
    second(json!({"conversations": [{"from": "alien", "value": "x"}]}), &["message 1", "\"alien\"", "human"]);
    second(json!({"messages": [turn("user", "x\u{fdd0}"), turn("assistant", "y")]}), &["U+FDD0"]);
    second(json!([1]), &["expected an object, found a list"]);
    Data::lines(&format!("{good}\n\n{{\"messages\": [\n")).refused(
        None,
        &options,
        &["chat.jsonl:3: ", "not valid JSON"],
    );
    Data::lines("\n").refused(None, &options, &["nothing to read"]);

    let twice = json!({"messages": [turn("user", "a"), turn("user", "b")]});
    Data::of(&[twice]).refused(
        Some(BRACKETS),
        &options,
        &["chat.jsonl:1: ", "refuses", "Roles must alternate", "line 1 of the template"],
    );
    let good = [good];
    for (template, why) in [
        ("{% for m in messages %}{{ m.content + m.content }}{% endfor %}", "more than once"),
        ("{% for m in messages %}{{ m.role }}{% endfor %}", "does not render its content"),
        (
            "{% for m in messages %}{{ m.content }}{% endfor %}{{ messages[1].content | length }}",
            "depends on its content",
        ),
    ] {
        Data::of(&good).refused(
            Some(template),
            &options,
            &["chat.jsonl:1", "turn of message 2", why, "{% generation %}"],
        );
    }
    let endless = "{% for a in range(100000) %}{{ 'x' * 1000000 }}{% endfor %}";
    Data::of(&good).refused(Some(endless), &options, &["chat.jsonl:1", "the template writes more than", "test.jinja"]);
}

#[test]
fn a_learned_turn_that_says_nothing_is_counted() {
    let talk = |content: Json| json!({"messages": [turn("user", "Hi"), {"role": "assistant", "content": content}]});
    let context = json!({"role": "assistant", "content": "", "weight": 0});
    let data = Data::of(&[
        talk(json!("Hello!")),
        talk(json!("")),
        talk(json!(" \n")),
        json!({"messages": [turn("user", "Hi"), context, turn("user", "Hi?"), turn("assistant", "Hello!")]}),
    ]);
    let loader = data.open(None, &ChatOptions::default()).unwrap();
    assert_eq!(loader.remarks(), RowRemarks { rows: 4, empty_completions: 2, shared_tokens: 0 });
}

#[test]
fn rows_longer_than_a_block_are_refused_cut_or_left_out_as_asked() {
    let long = json!({"messages": [turn("user", "Hi"), turn("assistant", &"very ".repeat(100))]});
    let late = json!({"messages": [turn("user", &"very ".repeat(100)), turn("assistant", "Hello!")]});
    let good = json!({"messages": [turn("user", "Hi"), turn("assistant", "Hello!")]});
    let options = |overlong| ChatOptions { block_size: 60, overlong, ..ChatOptions::default() };
    let data = Data::of(&[good.clone(), long.clone()]);
    data.refused(None, &options(Overlong::Refuse), &["chat.jsonl:2", "tokens, more than the 60"]);
    let rows = all_rows(&mut data.open(None, &options(Overlong::Truncate)).unwrap());
    assert_eq!((rows.len(), rows[1].len()), (2, 60));
    assert_eq!(all_rows(&mut data.open(None, &options(Overlong::Skip)).unwrap()).len(), 1);
    Data::of(&[good, late]).refused(
        None,
        &options(Overlong::Truncate),
        &["chat.jsonl:2", "no supervised token", "60 tokens"],
    );
    let long = [long];
    Data::of(&long).refused(None, &options(Overlong::Skip), &["longer than a block"]);
    Data::of(&long).refused(
        None,
        &options(Overlong::Truncate),
        &["chat.jsonl:1", "never learn to stop", "cut at 60", "raise the block size"],
    );
}

#[test]
fn data_that_never_shows_the_end_of_a_turn_is_refused() {
    let rows = [json!({"messages": [turn("user", "Hi"), turn("assistant", "Hello!")]})];
    let options = ChatOptions::default();
    let outside = MARKED
        .replace("message.content + eos_token }}", "message.content }}")
        .replace("{%- endgeneration %}", "{%- endgeneration %}\n{{- eos_token }}");
    Data::of(&rows).refused(
        Some(&outside),
        &options,
        &["chat.jsonl:1", "<|im_end|>", "outside of {% generation %}", "endgeneration"],
    );
    let bare = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}";
    Data::of(&rows).refused(Some(bare), &options, &["no special token after a turn"]);
}

#[test]
fn packed_conversations_are_whole_rows_apart() {
    let rows: Vec<Json> = (0..60)
        .map(|n| json!({"messages": [turn("user", &format!("Question {n}")), turn("assistant", &"word ".repeat(n % 23))]}))
        .filter(|row| row["messages"][1]["content"] != "")
        .collect();
    let data = Data::of(&rows);
    let alone = all_rows(&mut data.open(None, &ChatOptions::default()).unwrap());
    let options = ChatOptions { packing: true, block_size: 256, shuffle_seed: Some(5), ..ChatOptions::default() };
    let mut loader = data.open(None, &options).unwrap();
    let packed = all_rows(&mut loader);
    let mut found = Vec::new();
    for row in &packed {
        assert!(row.len() <= 256);
        for document in 0..=*row.documents.last().unwrap() {
            let at = |index: &usize| row.documents[*index] == document;
            let indices: Vec<usize> = (0..row.len()).filter(at).collect();
            assert!(indices.iter().enumerate().all(|(n, index)| row.positions[*index] as usize == n));
            found.push((
                indices.iter().map(|i| row.ids[*i]).collect::<Vec<_>>(),
                indices.iter().map(|i| row.labels[*i]).collect::<Vec<_>>(),
            ));
        }
    }
    let mut expected: Vec<_> = alone.into_iter().map(|row| (row.ids, row.labels)).collect();
    found.sort();
    expected.sort();
    assert!(found == expected && packed.len() < 20);

    // Any position resumes.
    loader.start_epoch(0);
    for expected in &packed {
        let mut resumed = data.open(None, &options).unwrap();
        resumed.seek(&loader.position()).unwrap();
        assert!(resumed.next_row().unwrap().as_ref() == Some(expected));
        loader.next_row().unwrap();
    }
}

#[test]
fn the_split_keeps_equal_conversations_together() {
    let rows: Vec<Json> = (0..200)
        .map(|n| json!({"id": n, "messages": [turn("user", "Hi"), turn("assistant", &format!("{}", n % 150))]}))
        .collect();
    let data = Data::of(&rows);
    let part = |split| all_rows(&mut data.open(None, &ChatOptions { split, ..ChatOptions::default() }).unwrap());
    let (validation_fraction, seed) = (0.25, 1);
    let train = part(Split::Train { validation_fraction, seed });
    let validation = part(Split::Validation { validation_fraction, seed });
    assert_eq!(train.len() + validation.len(), 200);
    assert!(validation.len() > 20 && validation.iter().all(|row| train.iter().all(|other| other.ids != row.ids)));
}

#[test]
fn a_template_that_writes_the_date_writes_the_saved_one() {
    let tokenizer = smollm2();
    let source = "{{ strftime_now('%d %B') }}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
    let on = |now| Arc::new(ChatTemplate::new(source.to_owned(), Path::new("t"), &tokenizer, now).unwrap());
    let data = Data::of(&[json!({"messages": [turn("user", "Hi"), turn("assistant", "Hello!")]})]);
    let open = |template: &Arc<ChatTemplate>| {
        ChatDataLoader::open(&data.patterns(), tokenizer.clone(), template.clone(), &ChatOptions::default()).unwrap()
    };
    let today = on(None);
    let position = open(&today).position();
    assert_eq!(position.template_date.as_deref(), Some(today.now()));
    let saved: Position = serde_json::from_str(&serde_json::to_string(&position).unwrap()).unwrap();
    open(&on(saved.template_date.as_deref())).seek(&saved).unwrap();
    assert!(matches!(open(&on(Some("1999-12-31T00:00:00"))).seek(&position), Err(Error::Position { .. })));
    let messages = [Message { role: "user".to_owned(), content: "Hi".to_owned() }];
    let rendered = on(Some("1999-12-31T00:00:00")).render(&messages, true, &Map::new()).unwrap();
    assert_eq!(rendered, "31 December<|im_start|>user\nHi<|im_end|><|im_start|>assistant\n");
    let bad = ChatTemplate::new(source.to_owned(), Path::new("t"), &tokenizer, Some("tomorrow"));
    assert!(chain(&bad.unwrap_err()).contains("2026-11-21T08:00:00"));
    let unsound = ChatTemplate::new("a\n{% if %}".to_owned(), Path::new("t.jinja"), &tokenizer, None).unwrap_err();
    assert!(chain(&unsound).contains("t.jinja") && chain(&unsound).contains("line 2"), "{unsound}");
}

#[test]
fn the_preview_shows_each_token_and_the_report_each_fault() {
    let tokenizer = smollm2();
    let template = compile(&tokenizer, None);
    let good = json!({"messages": [turn("user", "Hi"), turn("assistant", "Hello!")]});
    let data = Data::lines(&format!("\n{good}\nnonsense\n{{}}\n{good}\n"));
    let options = ChatOptions::default();
    let shown = preview_chat(&data.patterns(), tokenizer.clone(), template.clone(), &options, 5).unwrap();
    assert_eq!(shown.len(), 2);
    assert!(
        shown[0].place.as_ref().unwrap().ends_with("chat.jsonl:2")
            && shown[1].place.as_ref().unwrap().ends_with("chat.jsonl:5")
    );
    let learned: Vec<&str> =
        shown[0].tokens.iter().filter(|token| token.is_supervised).map(|token| token.text.as_str()).collect();
    assert_eq!(learned, ["Hello", "!", "<|im_end|>"]);
    assert!(
        shown[0].supervises_an_end
            && shown[0].supervised_tokens == 3
            && shown[0].text.starts_with("<|im_start|>system")
    );
    let json = serde_json::to_value(&shown[0]).unwrap();
    assert_eq!(json["tokens"][0]["piece"], "<|im_start|>");
    let report = ChatDataLoader::report(&data.patterns(), tokenizer.clone(), template, &options).unwrap();
    assert_eq!((report.rows, report.fault_count, report.supervised_tokens), (2, 2, 6));
    let places: Vec<u64> = report.faults.iter().map(|fault| fault.place().unwrap().line).collect();
    assert_eq!(places, [3, 4]);
    assert_eq!(report.end_of_turn_ids.into_iter().collect::<Vec<_>>(), tokenizer.eos_ids());

    let data = Data::of(&[good]);
    let mut loader = data.open(None, &options).unwrap();
    let (before, shown) = (loader.position(), preview(&mut loader, &tokenizer, 9).unwrap());
    assert!(shown.len() == 1 && loader.position() == before && loader.next_row().unwrap().is_some());
}

#[test]
fn a_template_is_asked_which_tokens_end_a_turn() {
    let tokenizer = smollm2();
    let ids = |source: Option<&str>| {
        let ids = ChatDataLoader::end_of_turn_ids(&tokenizer, &compile(&tokenizer, source));
        ids.into_iter().map(|id| tokenizer.piece(id).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(ids(None), ["<|im_end|>"]);
    let ending = |end: &str| {
        format!(
            "{{% for m in messages %}}[{{{{ m.role }}}}]{{{{ m.content }}}}{end}{{% endfor %}}{{% if add_generation_prompt %}}[assistant]{{% endif %}}"
        )
    };
    // Another token than the tokenizer's own end; one that is outside of what is marked as generated; none; a template that rejects.
    assert_eq!(ids(Some(&ending("<|endoftext|>\n"))), ["<|endoftext|>"]);
    let marked = "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}<|endoftext|>{% endfor %}";
    assert_eq!(ids(Some(marked)), ["<|endoftext|>"]);
    assert_eq!(ids(Some(&ending("\n"))), Vec::<String>::new());
    assert_eq!(ids(Some("{{ raise_exception('no') }}")), Vec::<String>::new());
}
