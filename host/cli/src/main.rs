//! unswag (being written)
fn main() {}
