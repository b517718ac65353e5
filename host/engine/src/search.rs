//! The fastest policies that fit a budget, and the longest sequence.
//!
//! # Why the answer is the best there is
//!
//! A block's policy is felt in two ways only: what it keeps while later blocks run, and what is alive while it runs itself. So
//! with `kept(j)` what block j keeps, the peak is
//!
//! ```text
//! max over blocks i of  start + sum over j < i of kept(j) + own(i)      own(i): its forward's or its backward's most
//! and, at the head,     start + sum over all j of kept(j) + head
//! ```
//!
//! where `kept(i)` and `own(i)` depend on the policy of block i alone: blocks share no tensor but those that live through the
//! whole step anyway. One step on sizes under each policy, the same for all blocks, therefore measures every term, and any
//! mixture's peak is a sum of them ([`Survey::peak_bytes`]; the tests hold it to the byte against steps of that mixture).
//! A graph whose blocks reach past their neighbours (a value that two later blocks use) breaks this; a plan is made by a step
//! of the mixture itself, so that it is right all the same, and only "fastest" is then a guess.
//!
//! The search goes over the blocks in order and holds partial choices as (bytes kept, seconds). Of two partial choices, one
//! that keeps no more and takes no longer is never worse, whatever comes after: each limit ahead only falls with the bytes
//! kept before it. So all others are dropped and nothing is lost. Blocks of one kind are interchangeable up to their position,
//! hence sums repeat and few partial choices remain: with k policies that matter and n equal blocks at most
//! (n + k - 1 choose k - 1) of them, and no more than there are distinct sums of bytes.

use crate::{
    EngineError, Pass, Plan, PlanOptions, Point, Policy, Program, Work,
    plan::{MOST_TOKENS, measure},
};

/// Partial choices that are held at once. No model that was seen comes near; beyond it the choice fits and may not be the
/// fastest.
const MOST_CHOICES: usize = 1 << 15;

/// Times that a choice is tightened whose peak is above its budget.
const MOST_TRIES: usize = 16;

/// What one policy means to one segment. Bytes are counted from what is alive when the segment's forward begins.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Terms {
    /// What is still alive when the next segment begins.
    kept: i64,
    /// The most that is alive while it runs, forward or backward.
    own: i64,
    seconds: f64,
}

/// What every policy means to every block of a program, at one size of batch.
#[derive(Clone, Debug)]
pub struct Survey<'a> {
    program: &'a Program,
    options: PlanOptions,
    /// Alive when the first segment begins.
    start: i64,
    /// Of each segment, in the order of the policies; segments that are no block have one.
    terms: Vec<Vec<Terms>>,
    /// Of the head, counted from what is alive when it begins.
    head: i64,
    /// The most that is alive before the first segment.
    floor: i64,
    /// Of all that has no policy.
    seconds: f64,
}

impl<'a> Survey<'a> {
    /// Runs one step on sizes for each policy that may be chosen.
    ///
    /// # Errors
    /// As [`Plan::new`], or no policy to choose from.
    pub fn new(program: &'a Program, options: &PlanOptions) -> Result<Self, EngineError> {
        if options.policies.is_empty() {
            let (expected, got) = ("at least one".to_owned(), "none".to_owned());
            return Err(EngineError::Batch { what: "policies to choose from", expected, got });
        }
        let segments = program.segments.len();
        let mut survey = Survey {
            program,
            options: options.clone(),
            start: 0,
            terms: vec![Vec::new(); segments],
            head: 0,
            floor: 0,
            seconds: 0.0,
        };
        for (at, &policy) in options.policies.iter().enumerate() {
            let measured = measure(program, options, &vec![policy; program.blocks()])?;
            let of = |segment| measured.points.iter().filter(move |point| point.place.segment == segment);
            let begins = |segment| -> i64 {
                of(segment).find(|point| point.place.pass == Pass::Forward).map_or(0, |point| point.live_bytes as i64)
            };
            let highest = |segment| of(segment).map(|point| point.peak_bytes).max().unwrap_or(0) as i64;
            for (segment, terms) in survey.terms.iter_mut().enumerate() {
                // What stands around the blocks is the same under each.
                if at > 0 && program.segments[segment].block.is_none() {
                    continue;
                }
                let start = begins(segment);
                let seconds = options.rates.seconds(&work(of(segment)));
                terms.push(Terms { kept: begins(segment + 1) - start, own: highest(segment) - start, seconds });
            }
            if at == 0 {
                survey.start = begins(0);
                survey.head = highest(segments) - begins(segments);
                survey.seconds = options.rates.seconds(&work(of(segments)));
                survey.floor = survey.start;
            }
        }
        Ok(survey)
    }

    /// The peak under one policy for each block; each must be one of those that may be chosen.
    pub fn peak_bytes(&self, policies: &[Policy]) -> Option<u64> {
        let choice = self.choice_of(policies)?;
        let mut live = self.start;
        let mut peak = self.floor;
        for (terms, at) in self.terms.iter().zip(choice) {
            peak = peak.max(live + terms[at].own);
            live += terms[at].kept;
        }
        Some(peak.max(live + self.head) as u64)
    }

    /// The time under one policy for each block, by the rates.
    pub fn seconds(&self, policies: &[Policy]) -> Option<f64> {
        let choice = self.choice_of(policies)?;
        Some(self.seconds + self.terms.iter().zip(choice).map(|(terms, at)| terms[at].seconds).sum::<f64>())
    }

    /// What a block keeps from its forward to its backward under a policy, in bytes of memory: what later blocks find taken.
    pub fn kept_bytes(&self, block: usize, policy: Policy) -> Option<u64> {
        let at = self.options.policies.iter().position(|&one| one == policy)?;
        let segment = self.program.segments.iter().position(|segment| segment.block == Some(block))?;
        u64::try_from(self.terms[segment][at].kept).ok()
    }

    /// Positions in the terms of every segment.
    fn choice_of(&self, policies: &[Policy]) -> Option<Vec<usize>> {
        let of = |block: Option<usize>| match block {
            None => Some(0),
            Some(block) => self.options.policies.iter().position(|one| Some(one) == policies.get(block)),
        };
        self.program.segments.iter().map(|segment| of(segment.block)).collect()
    }

    fn policies_of(&self, choice: &[usize]) -> Vec<Policy> {
        let segments = self.program.segments.iter().zip(choice);
        segments.filter(|(segment, _)| segment.block.is_some()).map(|(_, &at)| self.options.policies[at]).collect()
    }

    /// The fastest policies whose peak is within the budget; `None` where none is.
    pub fn fastest_within(&self, budget_bytes: u64) -> Option<Vec<Policy>> {
        /// A partial choice: the step before it, and what was chosen last.
        #[derive(Clone, Copy)]
        struct Partial {
            kept: i64,
            attoseconds: i128,
            from: usize,
            at: usize,
        }
        // Whole numbers: equal blocks in another order are equally fast to the last digit, and one of them is dropped.
        let attoseconds = |seconds: f64| (seconds * 1e18) as i128;
        let budget = i64::try_from(budget_bytes).unwrap_or(i64::MAX);
        if self.floor > budget {
            return None;
        }
        let mut layers: Vec<Vec<Partial>> = vec![vec![Partial { kept: 0, attoseconds: 0, from: 0, at: 0 }]];
        for terms in &self.terms {
            let before = layers.last().expect("there is a first");
            let mut made = Vec::with_capacity(before.len() * terms.len());
            for (from, partial) in before.iter().enumerate() {
                for (at, term) in terms.iter().enumerate() {
                    if self.start + partial.kept + term.own <= budget {
                        let kept = partial.kept + term.kept;
                        let attoseconds = partial.attoseconds + attoseconds(term.seconds);
                        made.push(Partial { kept, attoseconds, from, at });
                    }
                }
            }
            // Stable: of equal choices the one whose earlier blocks keep less is taken, so that what is kept is kept late, and
            // not for long.
            made.sort_by_key(|partial| (partial.kept, partial.attoseconds));
            let mut fastest = i128::MAX;
            made.retain(|partial| {
                let is_faster = partial.attoseconds < fastest;
                fastest = fastest.min(partial.attoseconds);
                is_faster
            });
            // The first keeps least: what fits at all still does.
            if made.len() > MOST_CHOICES {
                let every = made.len().div_ceil(MOST_CHOICES);
                made = made.into_iter().step_by(every).collect();
            }
            layers.push(made);
        }
        let last = layers.last().expect("there is a first");
        // Kept bytes rise and seconds fall along the list.
        let mut index = last.iter().rposition(|partial| self.start + partial.kept + self.head <= budget)?;
        let mut choice = Vec::new();
        for layer in layers[1..].iter().rev() {
            choice.push(layer[index].at);
            index = layer[index].from;
        }
        choice.reverse();
        Some(self.policies_of(&choice))
    }

    /// The least bytes that any choice takes. Where a budget can be kept at all, it is kept by letting each block keep the
    /// least of what its own run allows: that leaves most to all that follow.
    pub fn least_bytes(&self) -> u64 {
        let fits = |budget: i64| {
            let mut live = self.start;
            for terms in &self.terms {
                let allowed = terms.iter().filter(|term| live + term.own <= budget);
                match allowed.map(|term| term.kept).min() {
                    Some(kept) => live += kept,
                    None => return false,
                }
            }
            live + self.head <= budget
        };
        let worst = |terms: &Vec<Terms>| terms.iter().map(|term| term.own.max(term.kept)).max().unwrap_or(0).max(0);
        let (mut below, mut enough) = (self.floor - 1, self.start + self.terms.iter().map(worst).sum::<i64>());
        enough = enough.saturating_add(self.head.max(0)).max(self.floor);
        while enough - below > 1 {
            let middle = below + (enough - below) / 2;
            if fits(middle) { enough = middle } else { below = middle }
        }
        enough as u64
    }
}

fn work<'p>(points: impl Iterator<Item = &'p Point>) -> Work {
    let mut sum = Work::default();
    points.for_each(|point| sum += point.work);
    sum
}

impl Plan {
    /// The plan of the fastest policies that fit a budget.
    ///
    /// # Errors
    /// [`EngineError::Budget`] where nothing fits, with the least that would; else as [`Plan::new`].
    pub fn within(program: &Program, options: &PlanOptions, budget_bytes: u64) -> Result<Self, EngineError> {
        let survey = Survey::new(program, options)?;
        let nothing = || EngineError::Budget {
            batch: options.batch,
            seq: options.seq,
            budget_bytes,
            least_bytes: survey.least_bytes(),
        };
        let mut aim = budget_bytes;
        for _ in 0..MOST_TRIES {
            let policies = survey.fastest_within(aim).ok_or_else(nothing)?;
            let plan = Plan::new(program, options, &policies)?;
            // Never more than the budget where blocks share nothing; where they do, the aim goes down by what they share.
            match plan.peak_bytes.checked_sub(budget_bytes).filter(|&excess| excess > 0) {
                None => return Ok(plan),
                Some(excess) => aim = aim.saturating_sub(excess),
            }
        }
        Err(nothing())
    }
}

/// The longest sequence whose least peak is within the budget; `None` where not even one token fits.
///
/// The peak never falls as a sequence grows: the step runs the same operations on tensors of no fewer rows, and on no fewer
/// stretches. So the longest that fits is found between one that does and one that does not; both were looked at.
///
/// # Errors
/// As [`Survey::new`].
pub fn longest_seq(program: &Program, options: &PlanOptions, budget_bytes: u64) -> Result<Option<u64>, EngineError> {
    let most = MOST_TOKENS / options.batch.max(1);
    let least = |seq: u64| -> Result<u64, EngineError> {
        Ok(Survey::new(program, &PlanOptions { seq, ..options.clone() })?.least_bytes())
    };
    let mut fits = (1, least(1)?);
    if fits.1 > budget_bytes {
        return Ok(None);
    }
    let mut fails = loop {
        let next = (fits.0 * 8).min(most);
        let bytes = least(next)?;
        if bytes > budget_bytes {
            break (next, bytes);
        }
        if next == most {
            return Ok(Some(most));
        }
        fits = (next, bytes);
    };
    // Bytes are almost a straight line: go to where it meets the budget, and halve in turn, should it not be straight.
    let mut halves = false;
    while fails.0 - fits.0 > 1 {
        let (tokens, bytes) = (fails.0 - fits.0, (fails.1 - fits.1).max(1));
        let share = (budget_bytes - fits.1) as f64 / bytes as f64;
        let step = if halves { tokens / 2 } else { (tokens as f64 * share) as u64 };
        let next = fits.0 + step.clamp(1, tokens - 1);
        let found = (next, least(next)?);
        if found.1 > budget_bytes {
            fails = found;
        } else {
            fits = found;
        }
        halves = !halves;
    }
    Ok(Some(fits.0))
}
