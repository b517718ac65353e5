//! What a merge did to the weights, and how much of what the adapter intends arrived.

use serde::Serialize;

/// Sums over the elements of one weight, or of all that changed: with W the base's weight, D what the adapter adds before rounding,
/// and W' what was written. Norms are Frobenius norms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Change {
    /// |W|
    pub weight_norm: f64,
    /// |D|
    pub adapter_norm: f64,
    /// |W' - W|
    pub delta_norm: f64,
    /// The share of the intended change that arrived: <W' - W, D> / <D, D>. 1 where nothing is lost, 0 where rounding left the weights
    /// as they were; rounding that adds noise across D leaves it as it is. `None` where D is zero.
    pub arrived: Option<f64>,
    /// |W' - W - D| / |D|: what rounding added. `None` where D is zero.
    pub rounding_error: Option<f64>,
    /// Elements that differ, of `elements`.
    pub changed: u64,
    pub elements: u64,
}

/// How far one weight was moved.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModuleChange {
    /// The module's path, in the model's order in a report.
    pub module: String,
    #[serde(flatten)]
    pub change: Change,
}

/// What a merge did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MergeReport {
    pub modules: Vec<ModuleChange>,
    /// Over all modules.
    pub total: Change,
    /// The element types of the merged weights.
    pub dtypes: Vec<String>,
    /// Whether the head shared the embedding's matrix before and does no longer.
    pub unties_head: bool,
    /// What a user should know, in sentences.
    pub notes: Vec<String>,
}

/// Below this share of the change a merge says that some was lost.
const LOSES_SOME: f64 = 0.9;
/// Below this share most of it was.
const LOSES_MOST: f64 = 0.5;

impl MergeReport {
    /// The sentence about what was lost to rounding, where it is worth one.
    pub(crate) fn loss_note(total: &Change, dtypes: &[String]) -> Option<String> {
        let arrived = total.arrived.filter(|arrived| *arrived < LOSES_SOME)?;
        let how_much = if arrived < LOSES_MOST { "most" } else { "a part" };
        Some(format!(
            "{how_much} of what the adapter adds was lost: {:.1} % arrived, the rest is below the precision of {}; merge with \
             --dtype float32, or with --rounding stochastic, which keeps it on average",
            100.0 * arrived.max(0.0),
            dtypes.join(" and "),
        ))
    }
}

/// The sums that a [`Change`] is computed from. They add up over rows and modules.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sums {
    pub weight: f64,
    pub intended: f64,
    pub moved: f64,
    /// <moved, intended>
    pub along: f64,
    pub changed: u64,
    pub elements: u64,
}

impl Sums {
    pub fn add_element(&mut self, weight: f64, intended: f64, moved: f64) {
        self.weight += weight * weight;
        self.intended += intended * intended;
        self.moved += moved * moved;
        self.along += moved * intended;
        self.changed += u64::from(moved != 0.0);
        self.elements += 1;
    }

    pub fn plus(self, other: Sums) -> Sums {
        Sums {
            weight: self.weight + other.weight,
            intended: self.intended + other.intended,
            moved: self.moved + other.moved,
            along: self.along + other.along,
            changed: self.changed + other.changed,
            elements: self.elements + other.elements,
        }
    }

    pub fn change(self) -> Change {
        let share = |of: f64| (self.intended > 0.0).then(|| of / self.intended);
        // |moved - intended|^2, which rounding of the sums can bring below 0.
        let off = (self.moved - 2.0 * self.along + self.intended).max(0.0);
        Change {
            weight_norm: self.weight.sqrt(),
            adapter_norm: self.intended.sqrt(),
            delta_norm: self.moved.sqrt(),
            arrived: share(self.along),
            rounding_error: share(off).map(f64::sqrt),
            changed: self.changed,
            elements: self.elements,
        }
    }
}
