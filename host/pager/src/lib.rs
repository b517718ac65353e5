//! Bytes that are larger than the memory they may take.
//!
//! ```text
//! whoever uses the bytes ──read(page), write(page)──► Pager: page table, frames (the budget)
//!                                                        │ jobs: store a page, load a page, in one frame
//!                                                        ▼
//!                                                     a thread of its own ──► Backing: RAM, or a file without a name
//! ```
//!
//! A [`Pager`] holds a fixed number of pages of which only as many are in memory as its budget has frames for; the others lie
//! in a [`Backing`]. Pages are expected to be used in the order of their numbers, round and round, as an optimizer goes over
//! its state: the next ones are fetched while one is used, and the one that goes is the one whose turn is furthest. Any other
//! order is right too, and slower.
//!
//! Nothing here knows what the bytes mean. A fault of the backing is an error, and never costs a byte: a page leaves memory only
//! once it is stored.
//!
//! ```
//! use unswag_pager::{MemoryBacking, Pager};
//! let (pages, page_bytes, budget_bytes) = (100, 4096, 10 * 4096);
//! let mut pager = Pager::new(pages, page_bytes, budget_bytes, Box::new(MemoryBacking::default()))?;
//! for page in 0..pages {
//!     pager.write(page)?[0] = page as u8;
//! }
//! assert_eq!(pager.read(7)?[..2], [7, 0]);
//! assert!(pager.resident_bytes() <= budget_bytes);
//! # Ok::<(), unswag_pager::PagerError>(())
//! ```

mod backing;
mod error;
mod frame;
mod pager;
mod scratch;
mod worker;

pub use backing::{Backing, FileBacking, MemoryBacking};
pub use error::PagerError;
pub use pager::{Pager, Transfers};
pub use scratch::ScratchFile;
