//! The lists of tensors that a call carries. A tensor is checked when it is taken out, so a call pays for what it uses.

use unswag_abi::frame::{TensorView, Views};

use super::{Slot, Tensor, TensorError, TensorMut};

/// Tensors that a call reads.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    list: &'static str,
    views: &'a [TensorView<'a>],
}

impl<'a> Inputs<'a> {
    /// `list` names the argument in errors: `inputs`.
    ///
    /// # Safety
    /// The promises at the head of [`crate::tensor`] hold for every view, for `'a`.
    pub unsafe fn from_views(list: &'static str, views: Views<'a>) -> Self {
        Self { list, views: views.as_slice() }
    }

    pub fn len(&self) -> usize {
        self.views.len()
    }

    pub fn is_empty(&self) -> bool {
        self.views.is_empty()
    }

    /// # Errors
    /// There is no such tensor, or its description cannot be.
    pub fn get(&self, index: usize) -> Result<Tensor<'a>, TensorError> {
        let slot = Slot { list: self.list, index };
        let view = self.views.get(index).ok_or(TensorError::Missing { slot, found: self.views.len() })?;
        // SAFETY: promised to `from_views`.
        unsafe { Tensor::new(slot, view) }
    }

    /// All of them at once: `let [gate, up] = inputs.array()?;`
    ///
    /// # Errors
    /// There are more or fewer than `N`, or one's description cannot be.
    pub fn array<const N: usize>(&self) -> Result<[Tensor<'a>; N], TensorError> {
        let views: &'a [TensorView<'a>; N] = exactly(self.list, self.views)?;
        let mut tensors = [const { None }; N];
        for (index, (tensor, view)) in tensors.iter_mut().zip(views).enumerate() {
            // SAFETY: promised to `from_views`.
            *tensor = Some(unsafe { Tensor::new(Slot { list: self.list, index }, view) }?);
        }
        Ok(tensors.map(|tensor| tensor.expect("every element was set")))
    }

    pub fn iter(&self) -> impl Iterator<Item = Result<Tensor<'a>, TensorError>> + '_ {
        (0..self.len()).map(|index| self.get(index))
    }
}

/// Tensors that a call writes. No two of them overlap, nor does one overlap an input.
pub struct Outputs<'a> {
    list: &'static str,
    views: &'a [TensorView<'a>],
}

impl<'a> Outputs<'a> {
    /// `list` names the argument in errors: `outputs`.
    ///
    /// # Safety
    /// The promises at the head of [`crate::tensor`] hold for every view, for `'a`, and this is the only `Outputs` of them.
    pub unsafe fn from_views(list: &'static str, views: Views<'a>) -> Self {
        Self { list, views: views.as_slice() }
    }

    pub fn len(&self) -> usize {
        self.views.len()
    }

    pub fn is_empty(&self) -> bool {
        self.views.is_empty()
    }

    /// # Errors
    /// There is no such tensor, or its description cannot be.
    pub fn get(&mut self, index: usize) -> Result<TensorMut<'_>, TensorError> {
        let slot = Slot { list: self.list, index };
        let view = self.views.get(index).ok_or(TensorError::Missing { slot, found: self.views.len() })?;
        // SAFETY: promised to `from_views`; `&mut self` keeps a second view of it away.
        unsafe { TensorMut::new(slot, view) }
    }

    /// All of them at once: `let [d_gate, d_up] = grad_inputs.array()?;`
    ///
    /// # Errors
    /// There are more or fewer than `N`, or one's description cannot be.
    pub fn array<const N: usize>(self) -> Result<[TensorMut<'a>; N], TensorError> {
        let views: &'a [TensorView<'a>; N] = exactly(self.list, self.views)?;
        let mut tensors = [const { None }; N];
        for (index, (tensor, view)) in tensors.iter_mut().zip(views).enumerate() {
            // SAFETY: promised to `from_views`; `self` is consumed, and each view is used once.
            *tensor = Some(unsafe { TensorMut::new(Slot { list: self.list, index }, view) }?);
        }
        Ok(tensors.map(|tensor| tensor.expect("every element was set")))
    }

    /// As [`Self::array`], for a number that is not known beforehand.
    ///
    /// # Errors
    /// One's description cannot be.
    pub fn into_vec(self) -> Result<Vec<TensorMut<'a>>, TensorError> {
        let list = self.list;
        let slots = self.views.iter().enumerate();
        // SAFETY: as in `array`.
        slots.map(|(index, view)| unsafe { TensorMut::new(Slot { list, index }, view) }).collect()
    }
}

fn exactly<'a, const N: usize>(
    list: &'static str,
    views: &'a [TensorView<'a>],
) -> Result<&'a [TensorView<'a>; N], TensorError> {
    views.try_into().map_err(|_| TensorError::Count { list, expected: N, found: views.len() })
}
