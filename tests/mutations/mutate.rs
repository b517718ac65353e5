//! Deterministic mutations of valid inputs.

/// Numbers at which parsers go wrong.
const NUMBERS: [u64; 14] = [
    0,
    1,
    7,
    8,
    255,
    65_536,
    100_000_001,
    u32::MAX as u64,
    u32::MAX as u64 + 1,
    i64::MAX as u64,
    i64::MAX as u64 + 1,
    u64::MAX - 7,
    u64::MAX - 1,
    u64::MAX,
];
/// Replacements of a JSON value: values of other types, extreme numbers, unclosed lists.
const WORDS: [&str; 16] = [
    "null",
    "true",
    "-1",
    "-0.0",
    "1e999",
    "1e-400",
    "18446744073709551616",
    "\"\"",
    "\"..\"",
    "\"a\\u0000b\"",
    "\"\\ud800\"",
    "[]",
    "{}",
    "[[[[[[[[",
    "\"*\"",
    "\"model.layers.0\"",
];
/// Short fragments of templates and YAML that are expensive to process.
const PIECES: [&str; 24] = [
    "{{",
    "}}",
    "{%",
    "%}",
    "{% for x in y %}",
    "{% endfor %}",
    "{% set ns.a = ns %}",
    "~",
    "**",
    " * 999999999",
    "|join",
    "|replace('', 'aa')",
    ".format(",
    "[::-1]",
    "range(10**9)",
    "loop(",
    "namespace()",
    "((((((((",
    "&a [*a, *a, *a, *a]",
    "*a",
    "<<: *a",
    "\n- ",
    "? ",
    "\u{2581}",
];
const LARGEST_INPUT: usize = 64 << 10;

pub struct Mutator {
    state: u64,
}

impl Mutator {
    pub fn new(seed: u64) -> Self {
        Mutator { state: seed }
    }

    /// One of the seeds with one to four changes.
    pub fn mutate(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut input = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(4) {
            self.change(&mut input, seeds);
        }
        input.truncate(LARGEST_INPUT);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        if input.is_empty() {
            input.push(self.next() as u8);
            return;
        }
        let at = self.below(input.len());
        let end = at + self.below((input.len() - at).min(64)) + 1;
        match self.below(12) {
            0 => input[at] ^= 1 << self.below(8),
            1 => input[at] = self.next() as u8,
            2 => input.truncate(at),
            3 => drop(input.drain(at..end)),
            4 => {
                let piece = input[at..end].to_vec();
                input.splice(at..at, piece);
            }
            5 => {
                // A little-endian number of 4 or 8 bytes, as headers of binary files hold.
                let width = [4, 8][self.below(2)];
                let bytes = NUMBERS[self.below(NUMBERS.len())].to_le_bytes();
                let end = (at + width).min(input.len());
                input[at..end].copy_from_slice(&bytes[..end - at]);
            }
            6 => {
                // The tail of another seed.
                let other = &seeds[self.below(seeds.len())];
                let from = self.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            7 => {
                let number = NUMBERS[self.below(NUMBERS.len())].to_string();
                self.replace_token(input, |byte| byte.is_ascii_digit(), number.as_bytes());
            }
            8 => self.swap_strings(input),
            9 => {
                let word = WORDS[self.below(WORDS.len())];
                self.replace_token(input, |byte| byte.is_ascii_alphanumeric(), word.as_bytes());
            }
            10 => {
                let piece = PIECES[self.below(PIECES.len())].bytes();
                input.splice(at..at, piece);
            }
            _ => self.replace_string(input),
        }
    }

    /// Puts `with` where a run of bytes of one class stands.
    fn replace_token(&mut self, input: &mut Vec<u8>, is_in: fn(&u8) -> bool, with: &[u8]) {
        let Some(start) = self.find(input, is_in) else { return };
        let length = input[start..].iter().take_while(|byte| is_in(byte)).count();
        input.splice(start..start + length, with.iter().copied());
    }

    /// Puts one quoted string of a text in the place of another: names that exist, where they do not belong.
    fn swap_strings(&mut self, input: &mut Vec<u8>) {
        let strings = quoted(input);
        if strings.len() < 2 {
            return;
        }
        let (from, to) = (self.below(strings.len()), self.below(strings.len()));
        let piece = input[strings[from].clone()].to_vec();
        input.splice(strings[to].clone(), piece);
    }

    fn replace_string(&mut self, input: &mut Vec<u8>) {
        let strings = quoted(input);
        if !strings.is_empty() {
            let word = WORDS[self.below(WORDS.len())];
            input.splice(strings[self.below(strings.len())].clone(), word.bytes());
        }
    }

    /// The first byte of the class at or after a random place.
    fn find(&mut self, input: &[u8], is_in: fn(&u8) -> bool) -> Option<usize> {
        let at = self.below(input.len());
        input[at..].iter().position(is_in).map(|offset| at + offset)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// SplitMix64 (Steele et al. 2014).
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }
}

/// Where the quoted strings of a text lie, quotes included. Escapes are not understood: a mutation need not be sound.
fn quoted(input: &[u8]) -> Vec<std::ops::Range<usize>> {
    let quotes: Vec<usize> = (0..input.len()).filter(|&at| input[at] == b'"').take(4096).collect();
    quotes.chunks_exact(2).map(|pair| pair[0]..pair[1] + 1).collect()
}
