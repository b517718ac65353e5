//! Orders and choices made by a seed. They are functions of their arguments: the same on every machine, in every
//! release, and without a state that would have to be saved.

/// A number in `0..2^64` that belongs to these arguments.
pub(crate) fn draw(purpose: &str, seed: u64, key: &[u8]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(purpose.len() as u64).to_le_bytes()).update(purpose.as_bytes());
    hasher.update(&seed.to_le_bytes()).update(key);
    let hash = hasher.finalize();
    u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("eight of 32 bytes"))
}

/// `0..count` in a random order.
pub(crate) fn order(purpose: &str, seed: u64, epoch: u64, window: u64, count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_cached_key(|&index| {
        let mut key = [0; 24];
        for (part, number) in key.chunks_exact_mut(8).zip([epoch, window, index as u64]) {
            part.copy_from_slice(&number.to_le_bytes());
        }
        (draw(purpose, seed, &key), index)
    });
    order
}

/// True for about `fraction` of all texts; always the same for the same text.
pub(crate) fn is_chosen(seed: u64, text: &str, fraction: f64) -> bool {
    // Two to the 53rd: every such number is exact in f64.
    ((draw("validation", seed, text.as_bytes()) >> 11) as f64) / ((1u64 << 53) as f64) < fraction
}
