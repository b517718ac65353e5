//! The plugin as unswag sees it: through the library's own entry point, without the host program.

use unswag_sdk::{
    Dtype, Edit, Meta, OpCall, TensorBuf,
    serde_json::json,
    test::{OpTest, PluginTest, ProtocolTest, Settings, sample},
};

use {{ident}}::unswag_plugin;

const ID: &str = "{{name}}";
const KIND: &str = "{{name}}.relu";

fn protocol() -> ProtocolTest {
    let plugin = PluginTest::new(unswag_plugin());
    plugin.open(ID, json!({})).unwrap()
}

fn op() -> OpTest {
    protocol().op(KIND).unwrap()
}

fn call(shape: &[u64]) -> OpCall {
    let x = Meta {
        dtype: Dtype::F32,
        shape: shape.to_vec(),
    };
    OpCall {
        kind: KIND.to_owned(),
        inputs: vec![x],
        ..OpCall::default()
    }
}

#[test]
fn it_passes_the_conformance_suite() {
    PluginTest::new(unswag_plugin()).check().assert_passed();
}

#[test]
fn every_relu_of_opt_is_rewritten() {
    let graph = sample("opt");
    let patch = protocol().rewrite(&graph).unwrap();
    let relus = graph.nodes.iter().filter(|node| node.kind == "relu");
    assert!(
        patch
            .edits
            .iter()
            .all(|edit| matches!(edit, Edit::Replace { .. }))
    );
    assert_eq!(patch.edits.len(), relus.count());
    assert_eq!(patch.lossy, None);
}

#[test]
fn a_model_without_relu_is_refused_by_saying_what_it_has() {
    let error = protocol().rewrite(&sample("llama")).unwrap_err();
    assert!(
        error.message().contains("nodes of kind swiglu; try delhi"),
        "{error}"
    );
}

#[test]
fn the_mask_takes_one_byte_per_element() {
    let call = call(&[3, 5]);
    let op = op();
    assert_eq!(
        op.plan(&call).unwrap().saved,
        [Meta {
            dtype: Dtype::U8,
            shape: vec![3, 5]
        }]
    );
}

#[test]
fn gradients_are_those_of_finite_differences() {
    let op = op();
    let kernel = op.cpu(&call(&[4])).unwrap();
    let x = [-1.5f32, 0.25, -0.125, 3.0];
    let forward = |x: &[f32]| {
        let x = TensorBuf::from_slice(x, &[4]).unwrap();
        kernel.forward(&Settings::default(), &[x]).unwrap()
    };
    let dy = TensorBuf::from_slice(&[1.0f32; 4], &[4]).unwrap();
    let grads = kernel
        .backward(&Settings::default(), &forward(&x).saved, &[dy])
        .unwrap();
    let dx = grads[0].as_ref().unwrap().as_slice::<f32>().unwrap();
    // The step is smaller than any |x|, so no difference crosses the kink at 0; all sums are exact in f32.
    let step = 1.0 / 64.0;
    for index in 0..x.len() {
        let at = |offset: f32| {
            let mut moved = x;
            moved[index] += offset;
            forward(&moved).outputs[0]
                .as_slice::<f32>()
                .unwrap()
                .iter()
                .sum::<f32>()
        };
        assert_eq!(dx[index], (at(step) - at(-step)) / (2.0 * step));
    }
}
