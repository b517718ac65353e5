//! What a patch makes: new parameters from expressions and transform jobs, checked without making any.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use unswag_abi::doc::{Attrs, Dtype, Graph, Init, Param};

use super::{NewParam, PatchFault, TransformCall};
use crate::{expr, kinds::show_shape, names, validate::check_sizes};

/// Indices of the edits, and what they make, in their order. Expressions and jobs read the graph before the patch.
pub(super) struct Making<'g> {
    base: &'g Graph,
    made: IndexMap<String, (usize, NewParam)>,
}

impl<'g> Making<'g> {
    pub fn new(base: &'g Graph) -> Self {
        Making { base, made: IndexMap::new() }
    }

    pub fn param(
        &mut self,
        edit: usize,
        name: &str,
        dtype: Dtype,
        shape: &[u64],
        init: &Init,
    ) -> Result<Param, PatchFault> {
        let is_known = self.base.params.contains_key(name);
        if !is_known {
            names::check_path(name).map_err(|why| PatchFault::name("parameter", name, why))?;
        }
        if self.made.contains_key(name) {
            return Err(PatchFault::Duplicate { what: "parameter", name: names::quoted(name) });
        }
        if shape.contains(&0) {
            let why = format!("expected at least one element, got shape {}", show_shape(shape));
            return Err(PatchFault::name("parameter", name, why));
        }
        check_sizes(dtype, shape).map_err(|why| PatchFault::name("parameter", name, why))?;
        match init {
            Init::Expr(init) => self.check_expr(dtype, shape, init)?,
            Init::Transform { job, inputs, .. } => self.check_transform(job, inputs)?,
        }
        let (name, shape) = (name.to_owned(), shape.to_vec());
        let new = NewParam { name: name.clone(), dtype, shape: shape.clone(), init: init.clone() };
        self.made.insert(name, (edit, new));
        Ok(Param { dtype, shape })
    }

    fn check_expr(&self, dtype: Dtype, shape: &[u64], init: &unswag_abi::doc::Expr) -> Result<(), PatchFault> {
        if !expr::computes(dtype) {
            let (expected, got) = (expr::COMPUTED.to_owned(), dtype.to_string());
            return Err(PatchFault::Entry { what: "dtype of a parameter made by an expression", expected, got });
        }
        let found = expr::shape(init, &|name| self.base.params.get(name))?;
        match found == shape {
            true => Ok(()),
            false => Err(PatchFault::InitShape { expected: show_shape(shape), got: show_shape(&found) }),
        }
    }

    fn check_transform(&self, job: &str, inputs: &[String]) -> Result<(), PatchFault> {
        let wrong = |why| PatchFault::Transform { job: names::quoted(job), why };
        names::check(job).map_err(wrong)?;
        if let Some(missing) = inputs.iter().find(|name| !self.base.params.contains_key(*name)) {
            let missing = names::quoted(missing);
            return Err(wrong(format!(
                "input `{missing}`: expected a tensor of the checkpoint as it was before the patch"
            )));
        }
        Ok(())
    }

    /// A dropped parameter need not be made.
    pub fn forget(&mut self, name: &str) {
        self.made.shift_remove(name);
    }

    /// Parameters of the base that are made anew, each with its edit.
    pub fn remade(&self) -> impl Iterator<Item = (&str, usize)> {
        let made = self.made.iter().map(|(name, (edit, _))| (name.as_str(), *edit));
        made.filter(|(name, _)| self.base.params.contains_key(*name))
    }

    pub fn edit_of(&self, name: &str) -> Option<usize> {
        self.made.get(name).map(|(edit, _)| *edit)
    }

    /// The jobs, each once, or a fault and the edit that has it. All mentions of a job agree, and its outputs are 0, 1, … without a gap.
    pub fn transforms(&self) -> Result<Vec<TransformCall>, Box<(usize, PatchFault)>> {
        struct Job<'a> {
            inputs: &'a [String],
            attrs: &'a Attrs,
            outputs: BTreeMap<usize, &'a str>,
            edit: usize,
        }
        let mut jobs: IndexMap<&str, Job<'_>> = IndexMap::new();
        for (name, (edit, new)) in &self.made {
            let Init::Transform { job, inputs, output, attrs } = &new.init else { continue };
            let wrong = |why: String| Box::new((*edit, PatchFault::Transform { job: names::quoted(job), why }));
            let known = jobs.entry(job).or_insert_with(|| Job { inputs, attrs, outputs: BTreeMap::new(), edit: *edit });
            if known.inputs != inputs || known.attrs != attrs {
                let what = if known.inputs != inputs { "inputs" } else { "attrs" };
                let first = known.edit + 1;
                return Err(wrong(format!("{what}: expected the same as edit {first} gives for this job, got others")));
            }
            if let Some(taken) = known.outputs.insert(*output, name) {
                return Err(wrong(format!("output {output}: expected one parameter, got {taken} and {name}")));
            }
        }
        let mut calls = Vec::with_capacity(jobs.len());
        for (job, Job { inputs, attrs, outputs, edit }) in jobs {
            if let Some((gap, _)) = outputs.keys().enumerate().find(|(i, output)| i != *output) {
                let why = format!(
                    "output {gap} goes to no parameter; expected outputs 0 to {} to be used",
                    outputs.len() - 1
                );
                return Err(Box::new((edit, PatchFault::Transform { job: names::quoted(job), why })));
            }
            calls.push(TransformCall {
                job: job.to_owned(),
                inputs: inputs.to_vec(),
                outputs: outputs.into_values().map(str::to_owned).collect(),
                attrs: attrs.clone(),
            });
        }
        Ok(calls)
    }

    pub fn into_params(self) -> Vec<NewParam> {
        self.made.into_values().map(|(_, new)| new).collect()
    }
}
