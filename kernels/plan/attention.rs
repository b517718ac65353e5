//! Attention: what it is, and the scratch of its kernel.

/// Queries of each head that a task takes: whole tiles of rows.
pub const QUERIES: usize = 96;
/// Keys that are packed at a time: whole tiles, as rows and as lanes.
pub const KEYS: usize = 192;
/// Rows of a tile; even, so that words of two rows never cross tiles.
pub const ROWS: usize = 6;
/// Words of a line of the cache.
pub const LINE: usize = 16;

/// An attention over `batch` sequences of `seq` tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention<'a> {
    pub batch: usize,
    pub seq: usize,
    /// A multiple of `kv_heads`: so many heads of queries share a key.
    pub heads: usize,
    pub kv_heads: usize,
    /// Of a query and a key.
    pub head_dim: usize,
    pub v_head_dim: usize,
    /// Factor on the scores.
    pub scale: f32,
    /// A query sees no later key.
    pub causal: bool,
    /// Keys that a query sees, itself included; only with `causal`.
    pub sliding_window: Option<usize>,
    /// Scores become cap tanh(score / cap) after the scale.
    pub logit_softcap: Option<f32>,
    /// Which document each token is of, \[batch seq\], never decreasing in a sequence: a query sees the keys of its own.
    pub documents: Option<&'a [u32]>,
}

impl Default for Attention<'_> {
    /// One sequence without tokens, one head without elements, no mask, a scale of 1.
    fn default() -> Self {
        Attention {
            batch: 1,
            seq: 0,
            heads: 1,
            kv_heads: 1,
            head_dim: 0,
            v_head_dim: 0,
            scale: 1.0,
            causal: false,
            sliding_window: None,
            logit_softcap: None,
            documents: None,
        }
    }
}

/// What is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub argument: &'static str,
    pub expected: String,
    pub got: String,
}

impl Attention<'_> {
    /// # Errors
    /// What no attention can be.
    pub fn check(&self) -> Result<(), Problem> {
        let refuse = |argument, expected: &str, got: String| Err(Problem { argument, expected: expected.into(), got });
        if self.kv_heads == 0 || !self.heads.is_multiple_of(self.kv_heads) || self.heads == 0 {
            return refuse("heads", "a multiple of kv_heads, and both above 0", self.heads.to_string());
        }
        for (argument, size) in [("head_dim", self.head_dim), ("v_head_dim", self.v_head_dim)] {
            if size == 0 {
                return refuse(argument, "above 0", size.to_string());
            }
        }
        for (argument, value) in [("scale", Some(self.scale)), ("logit_softcap", self.logit_softcap)] {
            if let Some(value) = value.filter(|value| !value.is_finite() || *value <= 0.0) {
                return refuse(argument, "finite and above 0", value.to_string());
            }
        }
        if let Some(window) = self.sliding_window
            && (window == 0 || !self.causal)
        {
            return refuse("sliding_window", "at least 1, and with `causal`", window.to_string());
        }
        let rows = self.batch.checked_mul(self.seq);
        let widest = self.heads.checked_mul(self.head_dim.max(self.v_head_dim).next_multiple_of(LINE));
        // With room for words of four bytes, and for sums of a block beside each.
        let elements =
            rows.and_then(|rows| rows.checked_add(KEYS)).zip(widest).and_then(|(rows, wide)| rows.checked_mul(wide));
        let Some(rows) = rows.filter(|_| elements.is_some_and(|elements| elements < usize::MAX >> 8)) else {
            let got =
                format!("{} x {} x {} x {}", self.batch, self.seq, self.heads, self.head_dim.max(self.v_head_dim));
            return refuse("batch", "sizes that fit the address space", got);
        };
        match self.documents {
            Some(documents) => check_documents(documents, rows, self.seq),
            None => Ok(()),
        }
    }

    /// Heads of queries that share a key.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Tasks of a call.
    pub fn tasks(&self) -> usize {
        self.batch * self.kv_heads * self.seq.div_ceil(QUERIES)
    }
}

fn check_documents(documents: &[u32], rows: usize, seq: usize) -> Result<(), Problem> {
    let (argument, got) = ("documents", documents.len());
    if got != rows {
        return Err(Problem { argument, expected: format!("one for each of {rows} rows"), got: got.to_string() });
    }
    for sequence in documents.chunks(seq.max(1)) {
        if let Some(at) = sequence.windows(2).position(|pair| pair[0] > pair[1]) {
            let got = format!("{} after {} at {}", sequence[at + 1], sequence[at], at + 1);
            return Err(Problem { argument, expected: "numbers that never decrease in a sequence".into(), got });
        }
    }
    Ok(())
}

/// Words that a call wants lent: \[forward, backward\]. `per_word`: elements in 32 bits.
///
/// # Errors
/// What no attention can be.
pub fn scratch_len(config: &Attention<'_>, per_word: usize, threads: usize) -> Result<[usize; 2], Problem> {
    config.check()?;
    let sizes = Sizes::of(config, per_word);
    let workers = threads.clamp(1, config.tasks().max(1));
    // Up to the first whole line is skipped.
    Ok([workers * sizes.forward, workers * sizes.backward + sizes.sums].map(|words| words + LINE - 1))
}

/// Words of what is packed for one key, query or value, and of the scratch that holds it all.
#[derive(Clone, Copy)]
pub struct Sizes {
    /// Words of a query or key; of a value.
    pub q_words: usize,
    pub v_words: usize,
    /// Lanes of the same.
    pub q_lanes: usize,
    pub v_lanes: usize,
    /// Elements in a word.
    pub per_word: usize,
    pub group: usize,
    /// Scratch of a task.
    pub forward: usize,
    pub backward: usize,
    /// The sums of dk and dv, in f32.
    pub sums: usize,
}

impl Sizes {
    pub fn of(config: &Attention<'_>, per_word: usize) -> Self {
        let (d, dv, group) = (config.head_dim, config.v_head_dim, config.group());
        let (q_words, v_words) = (d.div_ceil(per_word), dv.div_ceil(per_word));
        let (q_lanes, v_lanes) = (d.next_multiple_of(16), dv.next_multiple_of(16));
        let mut sizes = Sizes { q_words, v_words, q_lanes, v_lanes, per_word, group, forward: 0, backward: 0, sums: 0 };
        sizes.forward = sizes.forward_parts().iter().map(|part| part.next_multiple_of(LINE)).sum();
        sizes.backward = sizes.backward_parts().iter().map(|part| part.next_multiple_of(LINE)).sum();
        let blocks = config.batch * config.kv_heads * config.seq.div_ceil(KEYS);
        sizes.sums = blocks * sizes.sums_of_block();
        sizes
    }

    /// The sums of one block of keys.
    pub fn sums_of_block(&self) -> usize {
        KEYS * (self.q_lanes + self.v_lanes)
    }

    /// Queries; keys turned; values in columns; sums of y; maxima; sums; a tile's scores; its weights.
    pub fn forward_parts(&self) -> [usize; 8] {
        let queries = self.group * QUERIES;
        [
            queries * self.q_words,
            self.q_words * KEYS,
            KEYS / self.per_word * self.v_lanes,
            queries * self.v_lanes,
            queries,
            queries * 16,
            ROWS * KEYS,
            ROWS * KEYS / self.per_word,
        ]
    }

    /// q and dy in rows; q and dy in columns; lse; delta; dq; keys and values turned; keys in columns; ds of a tile in rows; p and
    /// ds of a head in columns; dk and dv.
    pub fn backward_parts(&self) -> [usize; 15] {
        let (queries, per) = (self.group * QUERIES, self.per_word);
        [
            queries * self.q_words,
            queries * self.v_words,
            queries / per * self.q_lanes,
            queries / per * self.v_lanes,
            queries,
            queries,
            queries * self.q_lanes,
            KEYS * self.q_words,
            KEYS * self.v_words,
            KEYS / per * self.q_lanes,
            ROWS * KEYS / per,
            QUERIES / per * KEYS,
            QUERIES / per * KEYS,
            KEYS * self.q_lanes,
            KEYS * self.v_lanes,
        ]
    }
}
