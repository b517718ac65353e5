//! The misbehaving protocol: every panic becomes an error, every wrong patch is refused by the host's own rules.

use serde_json::json;
use unswag_every_edit::{BAD_PATCHES, PANICS, unswag_plugin};
use unswag_graph::{Ops, apply};
use unswag_sdk::{
    Dtype, Error, Meta, OpCall, OpPlan, TensorBuf, TransformJob,
    test::{PluginTest, ProtocolTest, Settings, sample},
};

fn open(options: serde_json::Value) -> Result<ProtocolTest, Error> {
    PluginTest::new(unswag_plugin()).open("hostile", options)
}

struct PluginOps<'a>(&'a ProtocolTest);

impl Ops for PluginOps<'_> {
    fn plan(&self, call: &OpCall) -> Result<OpPlan, String> {
        let plan = self.0.op(&call.kind).and_then(|op| op.plan(call));
        plan.map_err(Error::into_message)
    }
}

/// Walks the whole way from opening to a gradient; gives the first error.
fn whole_way(options: serde_json::Value) -> Result<(), Error> {
    let protocol = open(options)?;
    let graph = sample("llama");
    let patch = protocol.rewrite(&graph)?;
    apply(&graph, &patch, &PluginOps(&protocol)).map_err(|error| Error::new(error.to_string()))?;
    let meta = Meta { dtype: Dtype::F32, shape: vec![3] };
    let job = TransformJob {
        job: "copy".to_owned(),
        inputs: vec![meta.clone()],
        outputs: vec![meta.clone()],
        ..Default::default()
    };
    let x = TensorBuf::from_slice(&[1.0f32, -2.0, 0.5], &[3])?;
    protocol.transform(&job, std::slice::from_ref(&x))?;
    let call = OpCall { kind: "hostile.swiglu".to_owned(), inputs: vec![meta.clone(), meta], ..Default::default() };
    let kernel = protocol.op(&call.kind)?.cpu(&call)?;
    let inputs = [x.clone(), x.clone()];
    let forward = kernel.forward(&Settings::default(), &inputs)?;
    kernel.backward(&Settings::default(), &kernel.saved(&inputs, &forward)?, &[x])?;
    Ok(())
}

#[test]
fn unprovoked_it_behaves() {
    whole_way(json!({})).unwrap();
}

#[test]
fn every_panic_becomes_an_error_with_its_place() {
    for place in PANICS {
        let outcome = whole_way(json!({"panic": place}));
        let error = match *place {
            // A destructor has no way to return an error; that the process is still here is the test.
            "drop" => {
                outcome.unwrap();
                continue;
            }
            // The frame has no way either: a panic there reads as an op that is not there.
            "op" => {
                assert!(outcome.unwrap_err().message().contains("no op"));
                continue;
            }
            _ => outcome.unwrap_err(),
        };
        assert!(error.message().contains("the plugin panicked at "), "{place}: {error}");
        assert!(error.message().contains("src/hostile.rs:"), "{place}: {error}");
    }
}

#[test]
fn after_a_panic_the_protocol_can_still_be_asked() {
    let protocol = open(json!({"panic": "rewrite"})).unwrap();
    for _ in 0..3 {
        assert!(protocol.rewrite(&sample("llama")).is_err());
    }
    assert!(protocol.op("hostile.swiglu").is_ok());
}

#[test]
fn every_wrong_patch_is_refused_with_an_error_that_names_what_is_wrong() {
    let graph = sample("llama");
    for bad in BAD_PATCHES {
        let protocol = open(json!({"bad": bad.name})).unwrap();
        let refused = match protocol.rewrite(&graph) {
            Err(error) => error.into_message(),
            Ok(patch) => match apply(&graph, &patch, &PluginOps(&protocol)) {
                Err(error) => error.to_string(),
                Ok(_) => panic!("{}: the host takes it", bad.name),
            },
        };
        assert!(refused.to_lowercase().contains(bad.said), "{}: expected {:?} in: {refused}", bad.name, bad.said);
        assert!(!refused.contains('\u{0}'), "{}: a control character reaches the terminal", bad.name);
    }
}

#[test]
fn names_of_wrong_patches_are_distinct() {
    let mut names = Vec::from_iter(BAD_PATCHES.iter().map(|bad| bad.name));
    names.sort();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count);
}
