//! `unswag plan` as a user runs it: what it says adds up, and what it refuses it refuses in words.

use serde_json::Value;
use unswag_tests::Family;

use crate::house::House;

fn house() -> House {
    let house = House::new();
    house.tiny(Family::Llama, "model");
    house
}

fn parts(page: &Value) -> u64 {
    page["plan"]["parts"].as_object().unwrap().values().map(|bytes| bytes.as_u64().unwrap()).sum()
}

#[test]
fn the_parts_add_up_to_the_peak_and_a_budget_is_kept() {
    let house = house();
    let keep = house.json(&["plan", "model", "--seq", "300", "--lora-r", "4"]);
    let peak = keep["plan"]["peak_bytes"].as_u64().unwrap();
    assert_eq!(parts(&keep), peak);
    let bars = keep["plan"]["bars"].as_array().unwrap();
    assert_eq!(bars.iter().map(|bar| bar["peak_bytes"].as_u64().unwrap()).max(), Some(peak));

    let (budget, longer) = ((peak - 1).to_string(), |page: &Value| page["plan"]["estimated_seconds"].as_f64().unwrap());
    let tight = house.json(&["plan", "model", "--seq", "300", "--lora-r", "4", "--memory-budget", &budget]);
    let tight_peak = tight["plan"]["peak_bytes"].as_u64().unwrap();
    assert!(tight_peak < peak && parts(&tight) == tight_peak, "{tight_peak} within {budget}");
    assert!(longer(&tight) > longer(&keep), "what takes less is slower, or it would be the default");
    assert!(tight["longest_seq"]["seq"].as_u64().unwrap() >= 300);

    // Adapters large enough that their moments are kept in 8 bits.
    let moments = |optim: &str| {
        let page = house.json(&["plan", "model", "--seq", "300", "--lora-r", "64", "--optim", optim]);
        page["plan"]["parts"]["optimizer"].as_u64().unwrap()
    };
    let (whole, eight) = (moments("adamw_torch"), moments("adamw_8bit"));
    // Those of fewer than 4,096 elements stay as they are.
    assert!(10 * eight < 6 * whole, "{eight} bytes of moments in 8 bits, {whole} in f32");
    // Of a paged optimizer's moments only what is in memory counts; the masters in f32 are not paged.
    let paged = |budget: &str| {
        let args =
            ["plan", "model", "--seq", "300", "--lora-r", "64", "--optim", "paged_adamw", "--optim-memory-budget"];
        let page = house.json(&[&args[..], &[budget]].concat());
        let bytes = page["plan"]["parts"]["optimizer"].as_u64().unwrap();
        (bytes, page["paged_optimizer_bytes"].as_u64().unwrap())
    };
    let state = whole / 3 * 2;
    assert_eq!(paged("1GiB"), (whole, 0));
    assert_eq!(paged("64KiB"), (whole - state + (64 << 10), state));
    let page = house.run(&["plan", "model", "--seq", "300", "--gradient-checkpointing"]);
    for said in ["blocks 0..1 recompute", "frozen parameters", "longest sequence", "a step of 1 x 300 tokens", "█"] {
        assert!(page.ok().contains(said), "{said}: {}", page.stdout);
    }
}

#[test]
fn a_budget_that_no_policy_fits_says_the_least_that_would() {
    let house = house();
    let refused = house.run(&["plan", "model", "--memory-budget", "1k"]);
    let said = refused.code(2);
    let least = said.rsplit('(').next().and_then(|rest| rest.split(" bytes").next()).expect(said).replace(',', "");
    assert!(said.contains("does not fit the memory budget of 1.0 KiB"), "{said}");
    let fits = house.json(&["plan", "model", "--memory-budget", &least]);
    assert_eq!(fits["plan"]["peak_bytes"].to_string(), least);
    let less = (least.parse::<u64>().unwrap() - 1).to_string();
    house.run(&["plan", "model", "--memory-budget", &less]).code(2);
    // With somewhere to write, less would do.
    house.run(&["plan", "model", "--memory-budget", &less, "--offload-folder", "."]).ok();
}

#[test]
fn what_surgery_wrote_is_planned_with_its_plugins() {
    let house = house();
    for mode in ["exact", "8bit"] {
        house.run(&["surgery", "-p", &format!("delhi:mode={mode}"), "model", "-o", mode]).ok();
    }
    // As it is chosen, and where all is kept that ops ask for.
    let saved = |model: &str| {
        let page = house.json(&["plan", model, "--seq", "300"]);
        let alike = page["policies"].as_array().unwrap();
        let keep = alike.iter().find(|policy| policy["policy"] == "keep").unwrap();
        [&page["plan"]["parts"]["saved_in_blocks"], &keep["kept_bytes"]].map(|bytes| bytes.as_u64().unwrap())
    };
    let [plain, exact, eight] = ["model", "exact", "8bit"].map(saved);
    assert_eq!(exact[0], plain[0], "the plain model makes its gated product again too");
    assert!(exact[1] < plain[1], "kept: the protocol's {} bytes, the model's {}", exact[1], plain[1]);
    assert!(eight[0] < exact[0] && eight[1] < exact[1], "fewer bits: {eight:?} of {exact:?}");
}

#[test]
fn what_cannot_be_planned_is_refused() {
    let house = house();
    for (args, said) in [
        (&["plan", "model", "--seq", "0"][..], "0 is not in"),
        (&["plan", "model", "--seq", "99999999999"], "tokens to plan for: expected 1 to 16777216"),
        (&["plan", "model", "--lora-r", "0"], "lora_r: the rank: expected 1 to 65536, got 0"),
        (
            &["plan", "model", "--lora-target-modules", "nothing_like_it"],
            "no linear layer of this model is named \"nothing_like_it\"",
        ),
        (&["plan", "model", "--memory-budget", "plenty"], "expected a size such as 2GiB"),
        (&["plan", "model", "--memory-budget", "1GiB", "--gradient-checkpointing"], "cannot be used with"),
        (&["plan", "none"], "none"),
    ] {
        let outcome = house.run(args);
        assert!(outcome.code(2).contains(said), "{args:?}: expected {said}, got {}", outcome.stderr);
    }
}
