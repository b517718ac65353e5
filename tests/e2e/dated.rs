//! Conversations under a template that writes the date and the time: a run keeps those of its start.

use std::fs;

use crate::{
    house::House,
    train::{house, metrics},
};

/// Each process that reads the clock writes another text. Byte 0 ends one under the tiny model's tokenizer.
const TEMPLATE: &str = "{{ strftime_now('%d %B %Y %H:%M:%S.%f') }}
{% for m in messages %}{{ m.role + ': ' + m.content }}\0{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}";

fn dated() -> House {
    let house = house();
    fs::write(house.path("model/chat_template.jinja"), TEMPLATE).unwrap();
    let rows = (0..24).map(|n| {
        format!(r#"{{"messages": [{{"role": "user", "content": "say {n}"}}, {{"role": "assistant", "content": "{n} it is"}}]}}"#)
    });
    fs::write(house.path("rows.jsonl"), rows.collect::<Vec<_>>().join("\n")).unwrap();
    house
}

fn train<'a>(output: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let data = [
        "train",
        "model",
        "--data",
        "rows.jsonl",
        "--chat",
        "--block-size",
        "128",
        "--validation-split",
        "0.2",
        "--eval-steps",
        "2",
    ];
    [&data[..], &["--max-steps", "4", "--save-steps", "2", "--lora-r", "4", "-o", output], more].concat()
}

#[test]
fn a_run_whose_template_writes_the_time_is_resumed_at_the_time_of_its_start() {
    let house = dated();
    house.run(&train("run", &[])).ok();
    let result = |run: &str| {
        let losses: Vec<_> = metrics(&house.path(run))
            .into_iter()
            .map(|line| (line["loss"].clone(), line["eval_loss"].clone()))
            .collect();
        (fs::read(house.path(run).join("adapter/adapter_model.safetensors")).unwrap(), losses.last().cloned())
    };
    let expected = result("run");
    // As if it had been killed after its second step.
    for name in ["run/adapter", "run/checkpoint-4"] {
        fs::remove_dir_all(house.path(name)).unwrap();
    }
    house.run(&train("run", &["--resume-from-checkpoint", "auto"])).ok();
    assert!(result("run") == expected, "resumed, it learned another text");
    house.run(&train("other", &["--resume-from-checkpoint", "run/checkpoint-2"])).ok();
    assert!(result("other") == expected, "resumed elsewhere, it learned another text");
}
