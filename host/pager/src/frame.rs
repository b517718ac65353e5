//! Memory for one page.

/// In words, so that what lies in it may be f32 or u64: it starts at a multiple of 8 bytes.
pub(crate) struct Frame {
    words: Box<[u64]>,
}

impl Frame {
    pub fn zeros(bytes: usize) -> Self {
        Frame { words: vec![0; bytes / size_of::<u64>()].into() }
    }

    pub fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.words)
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.words)
    }
}
