//! The state of all tensors in pages, of which as many are in memory as the budget has room for.

use std::path::{Path, PathBuf};

use unswag_pager::{FileBacking, Pager};

use super::{
    Part, Trained, Update,
    layout::{Kept, Layout},
};
use crate::TrainError;

/// The system's page, which a file is written in whole multiples of.
const LEAST_PAGE_BYTES: u64 = 4096;
/// Large enough that a disk is as fast as it can be, small enough that few of them are a budget.
const MOST_PAGE_BYTES: u64 = 2 << 20;
/// What a budget has room for at least: a page in use, those that come, and some that stay.
const PAGES_OF_A_BUDGET: u64 = 16;

/// State that lies in pages.
pub(crate) struct Paged {
    layout: Layout,
    budget_bytes: u64,
    /// Where its file goes.
    folder: PathBuf,
    /// Made when state is first used: before that, nothing is written.
    pager: Option<Pager>,
}

impl Paged {
    /// The least budget there can be.
    pub const LEAST_BUDGET: u64 = PAGES_OF_A_BUDGET * LEAST_PAGE_BYTES;

    pub(super) fn new(kept: Vec<Kept>, budget_bytes: u64, folder: &Path) -> Self {
        let page_bytes = (budget_bytes / PAGES_OF_A_BUDGET).clamp(LEAST_PAGE_BYTES, MOST_PAGE_BYTES);
        let page_bytes = page_bytes / LEAST_PAGE_BYTES * LEAST_PAGE_BYTES;
        let layout = Layout::new(kept, page_bytes as usize);
        Paged { layout, budget_bytes, folder: folder.to_owned(), pager: None }
    }

    pub fn file_bytes(&self) -> u64 {
        self.layout.file_bytes()
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn is_open(&self) -> bool {
        self.pager.is_some()
    }

    /// Makes the file, where it is not there yet.
    ///
    /// # Errors
    /// The folder cannot be used, or its disk has too little room.
    pub fn open(&mut self) -> Result<(), TrainError> {
        if self.pager.is_some() {
            return Ok(());
        }
        let Layout { pages, page_bytes, .. } = self.layout;
        let backing = FileBacking::new(&self.folder, pages, page_bytes)?;
        let budget = usize::try_from(self.budget_bytes).unwrap_or(usize::MAX);
        self.pager = Some(Pager::new(pages, page_bytes, budget, Box::new(backing))?);
        Ok(())
    }

    fn pager(&mut self) -> Result<(&Layout, &mut Pager), TrainError> {
        self.open()?;
        Ok((&self.layout, self.pager.as_mut().expect("it was opened a line ago")))
    }

    pub(super) fn kept(&self) -> &[Kept] {
        &self.layout.kept
    }

    /// One step of a tensor, stretch by stretch. Tensors that come in order find their pages fetched.
    ///
    /// # Errors
    /// The disk fails: some of the tensor is stepped then, and some not.
    pub fn step(&mut self, tensor: usize, update: &Update<'_>, trained: Trained<'_>) -> Result<(), TrainError> {
        let (layout, pager) = self.pager()?;
        let Trained { params, grads, decays } = trained;
        for stretch in layout.of_tensor(tensor) {
            let page = pager.write(stretch.page)?;
            let elements = stretch.elements.clone();
            let mut moments = layout.kept[tensor].moments(elements.len(), &mut page[stretch.offset..]);
            update.run(decays, &mut params[elements.clone()], &grads[elements], &mut moments)?;
        }
        Ok(())
    }

    /// Hands on the bytes of a part, in order and in pieces.
    ///
    /// # Errors
    /// The disk's, or those of `take`.
    pub fn read<E: From<TrainError>>(
        &mut self,
        part: &Part,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let (layout, pager) = self.pager()?;
        for stretch in layout.of_tensor(part.tensor) {
            let page = pager.read(stretch.page).map_err(TrainError::from)?;
            take(&page[layout.range(stretch, part.field, part.moment)])?;
        }
        Ok(())
    }

    /// Fills everything, page by page: `fill` is given a part, a place in it in bytes, and what to fill from there.
    ///
    /// # Errors
    /// The disk's, or those of `fill`.
    pub fn fill(
        &mut self,
        mut fill: impl FnMut(&Part, usize, &mut [u8]) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        let (layout, pager) = self.pager()?;
        for stretch in &layout.stretches {
            let page = pager.write(stretch.page)?;
            for part in layout.kept[stretch.tensor].parts(stretch.tensor) {
                let at = part.field.bytes(stretch.elements.start);
                fill(&part, at, &mut page[layout.range(stretch, part.field, part.moment)])?;
            }
        }
        Ok(())
    }
}
