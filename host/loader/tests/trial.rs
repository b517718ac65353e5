//! A plugin's kernels in a child process: whatever they do, the parent has an answer for each run.

mod support;

use std::time::{Duration, Instant};

use serde_json::json;
use support::{probe_options, raw_plugin};
use unswag_abi::doc::{Attrs, Dtype, Meta, OpCall};
use unswag_loader::{
    Consent, Ending, KernelAnswers, KernelRun, Plugin, PluginFile, RunError, TrialOptions, load, run_kernels,
};

fn plugin() -> Plugin {
    load(&PluginFile::read(raw_plugin()).unwrap(), Consent::Unlocked).unwrap()
}

fn options(silence: Duration) -> TrialOptions {
    TrialOptions { program: probe_options().program, silence_limit: silence, total_limit: Duration::from_secs(60) }
}

fn one_to_six() -> Vec<u8> {
    (1..=6u8).flat_map(|x| f32::from(x).to_le_bytes()).collect()
}

/// `raw.double` of `x`, ended as `ends` says.
fn double<'a>(ends: &str, x: &'a [u8]) -> KernelRun<'a> {
    let meta = Meta { dtype: Dtype::F32, shape: vec![2, 3] };
    let attrs = Attrs::from([("ends".to_owned(), json!(ends))]);
    KernelRun {
        call: OpCall { kind: "raw.double".to_owned(), inputs: vec![meta], attrs },
        inputs: vec![x],
        threads: 1,
        is_training: false,
    }
}

fn answers(ends: &[&str], options: &TrialOptions) -> KernelAnswers {
    let x = one_to_six();
    let runs: Vec<KernelRun> = ends.iter().map(|ends| double(ends, &x)).collect();
    run_kernels(&plugin(), "raw", &Attrs::new(), &runs, options).unwrap()
}

fn run(ends: &[&str]) -> Vec<Result<Vec<Vec<u8>>, RunError>> {
    answers(ends, &options(Duration::from_secs(20))).outputs
}

#[test]
fn a_kernel_computes_in_the_child_what_it_computes_here() {
    let answers = run(&["well", "well"]);
    let expected: Vec<u8> = (1..=6u8).flat_map(|x| (2.0 * f32::from(x)).to_le_bytes()).collect();
    assert_eq!(answers.len(), 2);
    for answer in answers {
        assert_eq!(answer.unwrap(), std::slice::from_ref(&expected));
    }
}

#[test]
fn an_exit_or_a_crash_is_the_answer_of_its_own_run_and_the_next_ones_are_not_run() {
    for (ends, expected) in
        [("exit", Ending::Exited(0)), ("abort", Ending::Killed("SIGABRT")), ("segv", Ending::Killed("SIGSEGV"))]
    {
        let [first, second, third] = run(&["well", ends, "well"]).try_into().expect("one answer for each run");
        assert_eq!(first.unwrap().len(), 1, "{ends}: what came before stands");
        assert!(matches!(&second, Err(RunError::Ended(ending)) if *ending == expected), "{ends}: {second:?}");
        assert!(matches!(third, Err(RunError::NotRun)), "{ends}: {third:?}");
    }
}

#[test]
fn a_kernel_that_does_not_return_ends_at_the_limit() {
    let limit = Duration::from_millis(500);
    let start = Instant::now();
    let answers = answers(&["wait"], &options(limit)).outputs;
    assert!(matches!(&answers[0], Err(RunError::Ended(Ending::Silent(found))) if *found == limit), "{answers:?}");
    assert!(start.elapsed() < Duration::from_secs(20), "it waited for the kernel");
}

#[test]
fn a_refused_system_call_does_not_end_the_run_and_is_named() {
    let answers = answers(&["well", "socket"], &options(Duration::from_secs(20)));
    assert!(answers.outputs.iter().all(Result::is_ok));
    assert_eq!(answers.refused, ["socket"]);
}

#[test]
fn an_op_without_a_kernel_for_the_cpu_says_so_and_the_next_run_is_done() {
    let answers = run(&["nowhere", "well"]);
    assert!(matches!(&answers[0], Err(RunError::NoKernel)), "{answers:?}");
    assert!(answers[1].is_ok());
}

#[test]
fn messages_of_the_plugin_itself_neither_prolong_a_trial_nor_count_as_answers() {
    // A thread of the kernel writes complete messages into every pipe, and the forward does not return.
    let limit = Duration::from_millis(500);
    let start = Instant::now();
    let talks = answers(&["talk"], &TrialOptions { total_limit: limit, ..options(Duration::from_secs(20)) });
    assert!(matches!(&talks.outputs[0], Err(RunError::Ended(Ending::Garbage))), "{talks:?}");
    // Lines that end no message are no sign of life either.
    let mutters = answers(&["mutter"], &TrialOptions { total_limit: limit, ..options(Duration::from_secs(20)) });
    assert!(
        matches!(&mutters.outputs[0], Err(RunError::Ended(Ending::Overtime(found))) if *found == limit),
        "{mutters:?}"
    );
    assert!(start.elapsed() < Duration::from_secs(15), "it waited for the plugin");
}

#[test]
fn a_write_outside_of_the_outputs_is_found() {
    for (ends, said) in [("overrun", "outside of the tensors"), ("input", "to an input")] {
        let answers = run(&[ends, "well"]);
        assert!(matches!(&answers[0], Err(RunError::Refused(why)) if why.contains(said)), "{answers:?}");
        assert!(answers[1].is_ok(), "{ends}: the next run is not touched by it");
    }
}

#[test]
fn what_the_plugin_refuses_is_in_its_own_words() {
    let x = one_to_six();
    let mut unknown = double("well", &x);
    unknown.call.kind = "raw.triple".to_owned();
    let answers = run_kernels(&plugin(), "raw", &Attrs::new(), &[unknown], &options(Duration::from_secs(20)));
    let answers = answers.unwrap().outputs;
    assert!(matches!(&answers[0], Err(RunError::Refused(why)) if why.contains("raw.triple")), "{answers:?}");
}
