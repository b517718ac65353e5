//! Where a result that is not finite comes from. It is searched for only after one was seen, so that no step pays for it.

use crate::TrainingModel;

impl TrainingModel {
    /// The first tensor in memory that holds NaN or infinity: a weight of the base, or of an adapter.
    pub(crate) fn broken_tensor(&self) -> Option<String> {
        let tensors = self.program.params().iter().zip(self.params.tensors());
        // The codes of a quantised weight are finite: what is not is refused when it is quantised.
        let is_broken = |tensor: &unswag_torch::TorchTensor| {
            tensor.to_f32().is_ok_and(|values| !values.iter().all(|value| value.is_finite()))
        };
        tensors.into_iter().find(|(_, tensor)| is_broken(tensor)).map(|(info, _)| info.name.clone())
    }

    /// What to say after "... is not finite": the tensor at fault, or that there is none.
    pub(crate) fn why_not_finite(&self) -> String {
        match self.broken_tensor() {
            Some(name) => format!(
                "tensor {name} holds NaN or infinity: the checkpoint or the adapter is damaged, or training diverged"
            ),
            None => "every weight is finite, so numbers overflowed on the way: try --dtype float32".to_owned(),
        }
    }
}
