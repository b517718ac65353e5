//! The loss mask of conversations under the shapes that chat templates have.
//!
//! What is expected is stated by the template itself: each is written with ⟦ and ⟧ around what the model writes. With
//! `{% generation %}` in their place the mask is given; without them it must be found, and be the same.

mod common;

use std::{fmt::Write as _, fs, path::Path, sync::Arc};

use common::{chain, text};
use serde_json::{Value as Json, json};
use tempfile::TempDir;
use unswag_data::{ChatDataLoader, ChatOptions, ChatTemplate, Error, IGNORED, Row, Tokenizer};

/// A byte-level tokenizer without merges that has these special tokens.
fn tokenizer(special: &[&str], eos: &str) -> Arc<Tokenizer> {
    let is_printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut others = 256u32..;
    let letter = |byte: u8| match is_printable(byte) {
        true => char::from(byte),
        false => char::from_u32(others.next().unwrap()).unwrap(),
    };
    let vocabulary: serde_json::Map<String, Json> =
        (0..=255).map(letter).enumerate().map(|(id, letter)| (letter.to_string(), json!(id))).collect();
    let added: Vec<Json> = special
        .iter()
        .enumerate()
        .map(|(number, token)| {
            json!({"id": 256 + number, "content": token, "special": true, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false})
        })
        .collect();
    let model = json!({"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary, "merges": []});
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let file = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level, "model": model});
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("tokenizer.json"), file.to_string()).unwrap();
    let config = json!({"eos_token": eos, "bos_token": special[0]});
    fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    Arc::new(Tokenizer::load(dir.path()).unwrap())
}

struct Shape {
    name: &'static str,
    /// The first begins a text.
    special: &'static [&'static str],
    eos: &'static str,
    source: &'static str,
    /// Whether it takes tools and their calls.
    takes_tools: bool,
}

/// Compact equivalents of the templates that models come with.
const SHAPES: &[Shape] = &[
    Shape {
        name: "ChatML",
        special: &["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        eos: "<|im_end|>",
        source: r"{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}⟦{{ m.content + '<|im_end|>' }}⟧{{ '\n' }}{% else %}{{ m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        takes_tools: false,
    },
    Shape {
        name: "ChatML with an end of text",
        special: &["<s>", "</s>", "<|im_start|>", "<|im_end|>"],
        eos: "</s>",
        source: r"{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}⟦{{ m.content + '<|im_end|>' }}⟧{{ '\n' }}{% else %}{{ m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% else %}{{ eos_token }}{% endif %}",
        takes_tools: false,
    },
    Shape {
        name: "ChatML without a generation prompt, with an end of text",
        special: &["<s>", "</s>", "<|im_start|>", "<|im_end|>"],
        eos: "</s>",
        source: r"{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}⟦{{ m.content + '<|im_end|>' }}⟧{{ '\n' }}{% else %}{{ m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}{{ eos_token }}",
        takes_tools: false,
    },
    Shape {
        name: "Phi-3, whose users' messages open the answer",
        special: &["<s>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"],
        eos: "<|endoftext|>",
        source: r"{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ '<|system|>\n' + m.content + '<|end|>\n' }}{% elif m.role == 'user' %}{{ '<|user|>\n' + m.content + '<|end|>\n<|assistant|>\n' }}{% else %}⟦{{ m.content + '<|end|>' }}⟧{{ '\n' }}{% endif %}{% endfor %}",
        takes_tools: false,
    },
    Shape {
        name: "Phi-3.5",
        special: &["<s>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"],
        eos: "<|endoftext|>",
        source: r"{% for m in messages %}{% if m.role == 'system' and m.content %}{{ '<|system|>\n' + m.content + '<|end|>\n' }}{% elif m.role == 'user' %}{{ '<|user|>\n' + m.content + '<|end|>\n' }}{% elif m.role == 'assistant' %}{{ '<|assistant|>\n' }}⟦{{ m.content + '<|end|>' }}⟧{{ '\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
        takes_tools: false,
    },
    Shape {
        name: "Zephyr, whose tags are plain text",
        special: &["<s>", "</s>"],
        eos: "</s>",
        source: r"{% for m in messages %}{% if m.role == 'user' %}{{ '<|user|>\n' + m.content + eos_token }}{% elif m.role == 'system' %}{{ '<|system|>\n' + m.content + eos_token }}{% else %}{{ '<|assistant|>\n' }}⟦{{ m.content + eos_token }}⟧{% endif %}{{ '\n' }}{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}",
        takes_tools: false,
    },
    Shape {
        name: "Llama 2",
        special: &["<s>", "</s>"],
        eos: "</s>",
        source: r"{% if messages[0].role == 'system' %}{% set rest = messages[1:] %}{% set system = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}{% else %}{% set rest = messages %}{% set system = '' %}{% endif %}{% for m in rest %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' }}{% if loop.first %}{{ system }}{% endif %}{{ m.content.strip() + ' [/INST]' }}{% else %}⟦{{ ' ' + m.content.strip() + ' ' + eos_token }}⟧{% endif %}{% endfor %}",
        takes_tools: false,
    },
    Shape {
        name: "Llama 3.1",
        special: &["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>"],
        eos: "<|eot_id|>",
        source: r"{{ bos_token }}{% for m in messages %}{% set name = 'ipython' if m.role == 'tool' else m.role %}{{ '<|start_header_id|>' + name + '<|end_header_id|>\n\n' }}{% if m.role == 'assistant' %}⟦{% if m.tool_calls %}{{ '{\x22name\x22: \x22' + m.tool_calls[0].function.name + '\x22, \x22parameters\x22: ' + (m.tool_calls[0].function.arguments | tojson) + '}<|eom_id|>' }}{% else %}{{ m.content | trim + '<|eot_id|>' }}{% endif %}⟧{% else %}{% if loop.first and tools %}{{ tools | tojson }}{% endif %}{{ m.content | trim + '<|eot_id|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        takes_tools: true,
    },
    Shape {
        name: "Mistral 7B v0.3",
        special: &[
            "<s>",
            "</s>",
            "[INST]",
            "[/INST]",
            "[TOOL_CALLS]",
            "[AVAILABLE_TOOLS]",
            "[/AVAILABLE_TOOLS]",
            "[TOOL_RESULTS]",
            "[/TOOL_RESULTS]",
        ],
        eos: "</s>",
        source: r"{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}{% set users = rest | selectattr('role', 'equalto', 'user') | list %}{% set ns = namespace(index=0) %}{% for m in rest %}{% if m.role == 'user' or (m.role == 'assistant' and m.tool_calls is not defined) %}{% if (m.role == 'user') != (ns.index % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}{% set ns.index = ns.index + 1 %}{% endif %}{% endfor %}{{ bos_token }}{% for m in rest %}{% if m.role == 'user' %}{% if tools and m == users[-1] %}{{ '[AVAILABLE_TOOLS] ' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}{% endif %}{% if loop.last and system is defined %}{{ '[INST] ' + system + '\n\n' + m.content + '[/INST]' }}{% else %}{{ '[INST] ' + m.content + '[/INST]' }}{% endif %}{% elif m.tool_calls is defined %}⟦{{ '[TOOL_CALLS] [' }}{% for call in m.tool_calls %}{{ (call.function | tojson)[:-1] + ', \x22id\x22: \x22' + call.id + '\x22}' }}{% if not loop.last %}{{ ', ' }}{% endif %}{% endfor %}{{ ']' + eos_token }}⟧{% elif m.role == 'assistant' %}⟦{{ ' ' + m.content | trim + eos_token }}⟧{% else %}{{ '[TOOL_RESULTS] ' + (m.content | tojson) + '[/TOOL_RESULTS]' }}{% endif %}{% endfor %}",
        takes_tools: true,
    },
    Shape {
        name: "Gemma",
        special: &["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"],
        eos: "<eos>",
        source: r"{{ bos_token }}{% if messages[0].role == 'system' %}{% set first = messages[0].content + '\n\n' %}{% set rest = messages[1:] %}{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}{% for m in rest %}{% if m.role == 'assistant' %}{{ '<start_of_turn>model\n' }}⟦{{ m.content | trim + '<end_of_turn>' }}⟧{{ '\n' }}{% else %}{{ '<start_of_turn>' + m.role + '\n' }}{% if loop.first %}{{ first }}{% endif %}{{ m.content | trim + '<end_of_turn>\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
        takes_tools: false,
    },
    Shape {
        name: "Qwen2.5",
        special: &["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        eos: "<|im_end|>",
        source: r"{{ '<|im_start|>system\n' + (messages[0].content if messages[0].role == 'system' else 'You are Qwen.') }}{% if tools %}{{ '\n<tools>' }}{% for tool in tools %}{{ '\n' + (tool | tojson) }}{% endfor %}{{ '\n</tools>' }}{% endif %}{{ '<|im_end|>\n' }}{% for m in messages %}{% if m.role == 'user' or (m.role == 'assistant' and not m.tool_calls) %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}⟦{{ m.content + '<|im_end|>' }}⟧{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{{ '\n' }}{% elif m.role == 'assistant' %}{{ '<|im_start|>assistant' }}{% if m.content %}{{ '\n' }}⟦{{ m.content }}{% for call in m.tool_calls %}{{ '\n<tool_call>\n' + (call.function | tojson) + '\n</tool_call>' }}{% endfor %}{{ '<|im_end|>' }}⟧{% else %}{{ '\n' }}⟦{% for call in m.tool_calls %}{{ '<tool_call>\n' + (call.function | tojson) + '\n</tool_call>' }}{% if not loop.last %}{{ '\n' }}{% endif %}{% endfor %}{{ '<|im_end|>' }}⟧{% endif %}{{ '\n' }}{% elif m.role == 'tool' %}{% if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}{{ '\n<tool_response>\n' + m.content + '\n</tool_response>' }}{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        takes_tools: true,
    },
    Shape {
        name: "Qwen3, which drops earlier thoughts",
        special: &["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        eos: "<|im_end|>",
        source: r"{% if tools %}{{ '<|im_start|>system\n' + (tools | tojson) + '<|im_end|>\n' }}{% endif %}{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}{% for m in messages %}{% if m.role == 'assistant' %}{% set content = m.content or '' %}{% set thought = m.reasoning_content or '' %}{% if '</think>' in content %}{% set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}{{ '<|im_start|>assistant\n' }}⟦{% if loop.index0 > ns.last and (loop.last or thought) %}{{ '<think>\n' + thought.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}{% else %}{{ content }}{% endif %}{% for call in m.tool_calls or [] %}{% if content or not loop.first %}{{ '\n' }}{% endif %}{{ '<tool_call>\n' + (call.function | tojson) + '\n</tool_call>' }}{% endfor %}{{ '<|im_end|>' }}⟧{{ '\n' }}{% elif m.role == 'tool' %}{{ '<|im_start|>user\n<tool_response>\n' + m.content + '\n</tool_response><|im_end|>\n' }}{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        takes_tools: true,
    },
    Shape {
        name: "Qwen3 2507, whose prompt begins the thought",
        special: &["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        eos: "<|im_end|>",
        source: r"{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}{% for m in messages %}{% if m.role == 'assistant' %}{% set content = m.content or '' %}{% set thought = m.reasoning_content or '' %}{% if '</think>' in content %}{% set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}{{ '<|im_start|>assistant\n' }}{% if loop.index0 > ns.last %}{{ '<think>\n' }}⟦{{ thought.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') + '<|im_end|>' }}⟧{% else %}⟦{{ content + '<|im_end|>' }}⟧{% endif %}{{ '\n' }}{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}",
        takes_tools: false,
    },
    Shape {
        name: "DeepSeek-R1, which drops every thought and whose prompt begins one",
        special: &[
            "<｜begin▁of▁sentence｜>",
            "<｜end▁of▁sentence｜>",
            "<｜User｜>",
            "<｜Assistant｜>",
            "<think>",
            "</think>",
        ],
        eos: "<｜end▁of▁sentence｜>",
        source: r"{{ bos_token }}{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}{% for m in messages %}{% if m.role == 'user' %}{{ '<｜User｜>' + m.content }}{% elif m.role == 'assistant' %}{% set content = m.content %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}{{ '<｜Assistant｜>' }}⟦{{ content + '<｜end▁of▁sentence｜>' }}⟧{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}",
        takes_tools: false,
    },
    Shape {
        name: "gpt-oss",
        special: &["<|startoftext|>", "<|return|>", "<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|call|>"],
        eos: "<|return|>",
        source: r"{{ '<|start|>system<|message|>You are ChatGPT.<|end|>' }}{% if tools %}{{ '<|start|>developer<|message|>' + (tools | tojson) + '<|end|>' }}{% endif %}{% set ns = namespace(call=none) %}{% for m in messages %}{% if m.role == 'assistant' %}{% if m.tool_calls %}{{ '<|start|>assistant' }}⟦{% if m.thinking and messages[loop.index0:] | selectattr('role', 'equalto', 'assistant') | rejectattr('tool_calls') | list | length == 0 %}{{ '<|channel|>analysis<|message|>' + m.thinking + '<|end|><|start|>assistant' }}{% endif %}{% set ns.call = m.tool_calls[0].function.name %}{{ ' to=functions.' + ns.call + '<|channel|>commentary json<|message|>' + (m.tool_calls[0].function.arguments | tojson) + '<|call|>' }}⟧{% elif loop.last and not add_generation_prompt %}{{ '<|start|>assistant' }}⟦{% if m.thinking %}{{ '<|channel|>analysis<|message|>' + m.thinking + '<|end|><|start|>assistant' }}{% endif %}{{ '<|channel|>final<|message|>' + m.content + '<|return|>' }}⟧{% else %}{{ '<|start|>assistant' }}⟦{{ '<|channel|>final<|message|>' + m.content + '<|end|>' }}⟧{% endif %}{% elif m.role == 'tool' %}{% if ns.call is none %}{{ raise_exception('there was no call') }}{% endif %}{{ '<|start|>functions.' + ns.call + ' to=assistant<|channel|>commentary<|message|>' + (m.content | tojson) + '<|end|>' }}{% else %}{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}",
        takes_tools: true,
    },
    Shape {
        name: "Command R",
        special: &[
            "<BOS_TOKEN>",
            "<|START_OF_TURN_TOKEN|>",
            "<|END_OF_TURN_TOKEN|>",
            "<|SYSTEM_TOKEN|>",
            "<|USER_TOKEN|>",
            "<|CHATBOT_TOKEN|>",
        ],
        eos: "<|END_OF_TURN_TOKEN|>",
        source: r"{{ bos_token }}{% for m in messages %}{{ '<|START_OF_TURN_TOKEN|>' }}{% if m.role == 'assistant' %}{{ '<|CHATBOT_TOKEN|>' }}⟦{{ m.content.strip() + '<|END_OF_TURN_TOKEN|>' }}⟧{% else %}{{ ('<|SYSTEM_TOKEN|>' if m.role == 'system' else '<|USER_TOKEN|>') + m.content.strip() + '<|END_OF_TURN_TOKEN|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}",
        takes_tools: false,
    },
    Shape {
        name: "Granite",
        special: &["<|begin|>", "<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>", "<|tool_call|>"],
        eos: "<|end_of_text|>",
        source: r"{% if tools %}{{ '<|start_of_role|>available_tools<|end_of_role|>' + (tools | tojson(indent=4)) + '<|end_of_text|>\n' }}{% endif %}{% for m in messages %}{{ '<|start_of_role|>' + ('tool_response' if m.role == 'tool' else m.role) + '<|end_of_role|>' }}{% if m.role == 'assistant' %}⟦{% if m.tool_calls %}{{ '<|tool_call|>[' }}{% for call in m.tool_calls %}{{ call.function | tojson }}{% endfor %}{{ ']' }}{% else %}{{ m.content }}{% endif %}{{ '<|end_of_text|>' }}⟧{% else %}{{ m.content + '<|end_of_text|>' }}{% endif %}{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}",
        takes_tools: true,
    },
    Shape {
        name: "SmolLM3 without thinking, whose prompt holds an empty thought",
        special: &["<|begin_of_text|>", "<|im_start|>", "<|im_end|>"],
        eos: "<|im_end|>",
        source: r"{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{{ '<think>\n\n</think>\n' }}⟦{{ m.content.lstrip('\n') + '<|im_end|>' }}⟧{{ '\n' }}{% else %}{{ m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n\n</think>\n' }}{% endif %}",
        takes_tools: false,
    },
];

fn turn(role: &str, content: &str) -> Json {
    json!({ "role": role, "content": content })
}

fn calling(content: Json, arguments: Json) -> Json {
    let function = json!({"name": "clock", "arguments": arguments});
    json!({"role": "assistant", "content": content, "tool_calls": [{"id": "abcdefghi", "type": "function", "function": function}]})
}

/// Conversations of two and more turns.
fn conversations(takes_tools: bool) -> Vec<Json> {
    let talk = talk();
    let with_system = [&[turn("system", "S")], &talk[..], &[turn("user", "e"), turn("assistant", "f\n\nf")]].concat();
    let odd = [
        turn("user", " x\n"),
        turn("assistant", " <b>b</b> \n"),
        // Words that the template writes too, and words of the turn before.
        turn("user", "b\nassistant\n<|assistant|>\n[/INST]"),
        turn("assistant", "x\nuser\n</b>"),
        turn("user", "c"),
    ];
    let thoughtful = [
        turn("user", "1+1"),
        turn("assistant", "<think>\nadd\n</think>\n\n2"),
        turn("user", "2+2"),
        turn("assistant", "<think>\nadd more\n</think>\n\n4"),
    ];
    let mut rows: Vec<Json> =
        [&talk[..], &with_system, &odd, &thoughtful].map(|messages| json!({"messages": messages})).to_vec();
    if takes_tools {
        let tools = json!([{"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}]);
        let called = [
            turn("user", "time?"),
            calling(Json::Null, json!({"zone": "UTC"})),
            turn("tool", "12:00"),
            turn("assistant", "Noon."),
            turn("user", "and there?"),
            calling(json!(""), json!({"zone": {"hours": [5, null]}, "n": 1})),
            turn("tool", "17:00"),
            turn("assistant", "Five."),
        ];
        let reasoned = |message: &Json| {
            let mut message = message.clone();
            if message["role"] == "assistant" {
                message["reasoning"] = json!("hm");
            }
            message
        };
        rows.push(json!({"messages": called, "tools": tools}));
        rows.push(json!({"messages": called.iter().map(reasoned).collect::<Vec<_>>(), "tools": tools}));
        rows.push(json!({"messages": called[..2], "tools": tools.to_string()}));
    }
    rows
}

fn load(rows: &[Json], source: &str, tokenizer: &Arc<Tokenizer>) -> Result<Vec<Row>, Error> {
    load_with(&ChatOptions { block_size: 1 << 20, ..ChatOptions::default() }, rows, source, tokenizer)
}

fn load_with(
    options: &ChatOptions,
    rows: &[Json],
    source: &str,
    tokenizer: &Arc<Tokenizer>,
) -> Result<Vec<Row>, Error> {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("rows.jsonl");
    fs::write(&path, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    let template = ChatTemplate::new(source.to_owned(), Path::new("t"), tokenizer, None).unwrap();
    let mut loader = ChatDataLoader::open(&[text(&path)], tokenizer.clone(), Arc::new(template), options)?;
    Ok(common::all_rows(&mut loader))
}

fn unmarked(source: &str) -> String {
    source.replace(['⟦', '⟧'], "")
}

fn marked(source: &str) -> String {
    source.replace('⟦', "{% generation %}").replace('⟧', "{% endgeneration %}")
}

fn shape(name: &str) -> &'static Shape {
    SHAPES.iter().find(|shape| shape.name == name).expect("a shape's name")
}

fn talk() -> [Json; 4] {
    [turn("user", "a"), turn("assistant", "b"), turn("user", "c"), turn("assistant", "d")]
}

/// The text, with what is learned in ⟦⟧.
fn shown(row: &Row, tokenizer: &Tokenizer) -> String {
    let mut page = String::new();
    let learned = |at: usize| row.labels[at] != IGNORED;
    let mut at = 0;
    while at < row.len() {
        let end = (at..row.len()).find(|next| learned(*next) != learned(at)).unwrap_or(row.len());
        let text = tokenizer.decode(&row.ids[at..end], false).unwrap();
        match learned(at) {
            true => write!(page, "⟦{text}⟧").unwrap(),
            false => page.push_str(&text),
        }
        at = end;
    }
    page
}

#[test]
fn a_turn_is_what_the_template_marks_as_generated_marked_or_not() {
    let mut compared = 0;
    for shape in SHAPES {
        let tokenizer = tokenizer(shape.special, shape.eos);
        let rows = conversations(shape.takes_tools);
        let said = |error: Error| panic!("{}: {}", shape.name, chain(&error));
        let expected = load(&rows, &marked(shape.source), &tokenizer).unwrap_or_else(said);
        let found = load(&rows, &unmarked(shape.source), &tokenizer).unwrap_or_else(said);
        assert_eq!(found.len(), rows.len());
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(shown(found, &tokenizer), shown(expected, &tokenizer), "{}", shape.name);
            compared += 1;
        }
    }
    assert_eq!(compared, SHAPES.len() * 4 + SHAPES.iter().filter(|shape| shape.takes_tools).count() * 3);
}

#[test]
fn nothing_of_the_next_header_is_learned_where_turns_have_no_ending() {
    let special = ["<s>", "<|endoftext|>", "<|user|>", "<|assistant|>"];
    let tokenizer = tokenizer(&special, "<|endoftext|>");
    let open = r"{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}";
    let rows = [json!({"messages": talk()})];
    let said = chain(&load(&rows, open, &tokenizer).expect_err("no end of a turn is learned"));
    assert!(said.contains("never learn to stop") && said.contains("no special token after a turn"), "{said}");
    // The end of the text ends the last turn, and nothing ends the others.
    let closed = open.replace("{% endif %}", "{% else %}{{ '\\n' + eos_token }}{% endif %}");
    let rows = load(&rows, &closed, &tokenizer).unwrap();
    let expected = "<|user|>\na<|assistant|>\n⟦b⟧<|user|>\nc<|assistant|>\n⟦d\n<|endoftext|>⟧";
    assert_eq!(shown(&rows[0], &tokenizer), expected);
}

#[test]
fn a_message_that_is_marked_as_not_learned_is_not() {
    for name in ["ChatML with an end of text", "gpt-oss", "Mistral 7B v0.3"] {
        let (shape, mut messages) = (shape(name), talk());
        let tokenizer = tokenizer(shape.special, shape.eos);
        let all = load(&[json!({"messages": messages})], &unmarked(shape.source), &tokenizer).unwrap();
        for (index, mark) in [(1, ("weight", json!(0))), (3, ("train", json!(false)))] {
            messages = talk();
            messages[index][mark.0] = mark.1;
            let [marked, unmarked] = [marked(shape.source), unmarked(shape.source)]
                .map(|source| load(&[json!({"messages": messages})], &source, &tokenizer).unwrap());
            assert_eq!(shown(&marked[0], &tokenizer), shown(&unmarked[0], &tokenizer), "{name}");
            let page = shown(&all[0], &tokenizer);
            let mut turns: Vec<&str> = page.split_inclusive('⟧').collect();
            let left_out = turns[index / 2].replace(['⟦', '⟧'], "");
            turns[index / 2] = &left_out;
            assert_eq!(shown(&unmarked[0], &tokenizer), turns.concat(), "{name}");
        }
        messages = talk();
        messages[1]["training"] = json!(false);
        messages[3]["training"] = json!(false);
        let said = chain(&load(&[json!({"messages": messages})], &unmarked(shape.source), &tokenizer).unwrap_err());
        assert!(said.contains("rows.jsonl:1: no supervised token") && said.contains("training"), "{said}");
    }
}

#[test]
fn a_template_that_refuses_other_words_is_rendered_up_to_each_turn() {
    for name in ["ChatML", "Phi-3.5", "Llama 2", "DeepSeek-R1, which drops every thought and whose prompt begins one"] {
        let shape = shape(name);
        let tokenizer = tokenizer(shape.special, shape.eos);
        let strict = "{% for m in messages %}{% if m.content | length > 15 %}{{ raise_exception('too long') }}{% endif %}{% endfor %}";
        let rows =
            [json!({"messages": talk()}), json!({"messages": [turn("user", " a"), turn("assistant", "b\n\nb ")]})];
        let [marked, unmarked] = [marked(shape.source), unmarked(shape.source)]
            .map(|source| load(&rows, &format!("{strict}{source}"), &tokenizer).unwrap());
        for (found, expected) in unmarked.iter().zip(&marked) {
            assert_eq!(shown(found, &tokenizer), shown(expected, &tokenizer), "{name}");
        }
    }
}

#[test]
fn tools_and_calls_that_the_template_does_not_write_are_said() {
    let shape = shape("ChatML");
    let tokenizer = tokenizer(shape.special, shape.eos);
    let source = unmarked(shape.source);
    let tools = json!([{"name": "clock"}]);
    let refused = |rows: &[Json], source: &str, expected: &[&str]| {
        let said = chain(&load(rows, source, &tokenizer).expect_err("it is refused"));
        assert!(expected.iter().all(|part| said.contains(part)), "{said}");
    };
    let good = json!({"messages": talk(), "tools": [], "documents": null});
    let with_tools = json!({"messages": talk(), "tools": tools.to_string()});
    refused(&[good.clone(), with_tools.clone()], &source, &["rows.jsonl:2: ", "\"tools\"", "--ignore-unwritten-tools"]);
    refused(
        &[json!({"messages": talk(), "documents": [{"text": "t"}]})],
        &source,
        &["rows.jsonl:1: ", "\"documents\""],
    );
    let options = ChatOptions { ignore_unwritten_tools: true, ..ChatOptions::default() };
    let rows = load_with(&options, &[good.clone(), with_tools.clone()], &source, &tokenizer).unwrap();
    assert!(rows.len() == 2 && rows[0] == rows[1]);
    // Written late, they are written.
    let late = source.replace(
        "{% endfor %}",
        "{% if loop.last and loop.index > 3 %}{{ tools | tojson if tools }}{% endif %}{% endfor %}",
    );
    load(&[with_tools], &late, &tokenizer).unwrap();
    let call = json!({"messages": [turn("user", "t"), calling(json!("Let me see."), json!({"zone": "UTC"}))]});
    // OpenAI's rows have no content beside a call, and their tools: what the template fails on first is the calls' fault.
    let silent = json!({"messages": [turn("user", "t"), calling(Json::Null, json!({"zone": "UTC"}))], "tools": tools});
    let expected = ["rows.jsonl:1: message 2", "does not render tool calls", "tokenizer_config.json"];
    refused(std::slice::from_ref(&silent), &source, &expected);
    let strict =
        source.replace("m.content +", "(m.content if m.content is defined else raise_exception('no content')) +");
    refused(&[silent], &strict, &expected);
    refused(&[call], &source, &["rows.jsonl:1: message 2", "does not render tool calls", "chat_template.jinja"]);
}
