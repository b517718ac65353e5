//! Views that a host should never pass, and some that it may: what safe code gets of each.

use std::{ffi::c_void, marker::PhantomData, ptr};

use unswag_abi::frame::{DlDataType, DlDevice, TensorView, Views};
use unswag_sdk::{
    Dtype, Inputs, Meta, Outputs, TensorBuf, TensorError,
    half::bf16,
    tensor::{with_inputs, with_outputs},
};

const F32: DlDataType = DlDataType { code: 2, bits: 32, lanes: 1 };
const CPU: DlDevice = DlDevice { kind: 1, index: 0 };

fn view<'a>(data: &'a [f32], shape: &'a [i64]) -> TensorView<'a> {
    TensorView {
        data: data.as_ptr().cast_mut().cast(),
        device: CPU,
        ndim: shape.len() as i32,
        dtype: F32,
        shape: shape.as_ptr(),
        strides: ptr::null(),
        byte_offset: 0,
        life: PhantomData,
    }
}

/// The elements of a view, or why there are none.
fn read(view: TensorView<'_>) -> Result<Vec<f32>, TensorError> {
    let views = [view];
    // SAFETY: every view below describes memory that is there, or is refused before it is read.
    let inputs = unsafe { Inputs::from_views("inputs", Views::from_slice(&views)) };
    Ok(inputs.get(0)?.as_slice::<f32>()?.to_vec())
}

#[test]
fn a_plain_view_reads_as_what_it_is() {
    let data = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    assert_eq!(read(view(&data, &[2, 3])).unwrap(), data);
    assert_eq!(read(view(&data[..1], &[])).unwrap(), [1.0], "a scalar has one element");
}

#[test]
fn the_offset_counts_bytes_from_the_data() {
    let data = [1.0, 2.0, 3.0];
    let view = TensorView { byte_offset: 4, ..view(&data, &[2]) };
    assert_eq!(read(view).unwrap(), [2.0, 3.0]);
}

#[test]
fn an_offset_beyond_the_address_space_is_refused() {
    let data = [1.0];
    let view = TensorView { byte_offset: u64::MAX, ..view(&data, &[1]) };
    assert!(matches!(read(view), Err(TensorError::TooLarge { .. })));
}

#[test]
fn sizes_that_cannot_be_are_refused_before_anything_is_read() {
    let data = [1.0; 4];
    for shape in [&[-1i64][..], &[2, -2], &[i64::MIN]] {
        assert!(matches!(read(view(&data, shape)), Err(TensorError::NegativeSize { .. })), "{shape:?}");
    }
    for shape in [&[i64::MAX][..], &[i64::MAX, i64::MAX], &[1 << 40, 1 << 40, 2], &[1 << 61]] {
        assert!(matches!(read(view(&data, shape)), Err(TensorError::TooLarge { .. })), "{shape:?}");
    }
    for ndim in [-1, 65, i32::MAX, i32::MIN] {
        let view = TensorView { ndim, ..view(&data, &[4]) };
        assert!(matches!(read(view), Err(TensorError::Rank { .. })), "{ndim}");
    }
    let without_shape = TensorView { shape: ptr::null(), ..view(&data, &[4]) };
    assert!(matches!(read(without_shape), Err(TensorError::Rank { shape_is_null: true, .. })));
}

#[test]
fn an_empty_tensor_has_no_elements_wherever_it_points() {
    for shape in [&[0i64][..], &[3, 0, 5], &[i64::MAX, 0, i64::MAX]] {
        let nowhere = TensorView { data: ptr::null_mut(), ..view(&[], shape) };
        assert_eq!(read(nowhere).unwrap(), [0f32; 0], "{shape:?}");
    }
}

#[test]
fn strides_of_a_contiguous_tensor_are_taken_and_others_refused_by_name() {
    let data = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    let with =
        |strides: &'static [i64], shape: &'static [i64]| TensorView { strides: strides.as_ptr(), ..view(&data, shape) };
    assert_eq!(read(with(&[3, 1], &[2, 3])).unwrap(), data);
    assert_eq!(read(with(&[99, 1], &[1, 6])).unwrap(), data, "the stride of one row is never used");
    for strides in [&[1i64, 2][..], &[0, 1], &[-3, 1], &[6, 2]] {
        let strides: &'static [i64] = Vec::leak(strides.to_vec());
        let error = read(with(strides, &[2, 3])).unwrap_err();
        assert!(matches!(error, TensorError::Strided { .. }), "{error}");
        assert!(error.to_string().contains(&format!("{strides:?}")), "{error}");
    }
}

#[test]
fn other_types_devices_and_addresses_are_refused() {
    let data = [1.0, 2.0];
    let other_type = TensorView { dtype: DlDataType { code: 4, bits: 16, lanes: 1 }, ..view(&data, &[2]) };
    let error = read(other_type).unwrap_err();
    assert!(error.to_string().contains("inputs[0]: expected elements of F32, got BF16"), "{error}");
    let no_type = TensorView { dtype: DlDataType { code: 5, bits: 64, lanes: 1 }, ..view(&data, &[2]) };
    assert!(matches!(read(no_type), Err(TensorError::UnknownDtype { code: 5, .. })));
    let vector = TensorView { dtype: DlDataType { lanes: 4, ..F32 }, ..view(&data, &[2]) };
    assert!(matches!(read(vector), Err(TensorError::UnknownDtype { lanes: 4, .. })));
    let cuda = TensorView { device: DlDevice { kind: 2, index: 0 }, ..view(&data, &[2]) };
    assert!(matches!(read(cuda), Err(TensorError::Device { kind: 2, .. })));
    let pinned = TensorView { device: DlDevice { kind: 3, index: 0 }, ..view(&data, &[2]) };
    assert_eq!(read(pinned).unwrap(), data);
    let moved = TensorView { byte_offset: 2, ..view(&data, &[1]) };
    assert!(matches!(read(moved), Err(TensorError::Misaligned { align: 4, off_by: 2, .. })));
    let absent = TensorView { data: ptr::null_mut::<c_void>(), ..view(&data, &[2]) };
    assert!(matches!(read(absent), Err(TensorError::Null { .. })));
}

#[test]
fn bytes_can_be_read_at_any_address() {
    let buf = TensorBuf::from_slice(&[bf16::ONE; 3], &[3]).unwrap().misaligned(1);
    with_inputs("inputs", &[buf], |inputs| {
        let x = inputs.get(0).unwrap();
        assert!(x.as_slice::<bf16>().is_err());
        assert_eq!(x.as_bytes().unwrap(), [0x80, 0x3F].repeat(3));
    });
}

#[test]
fn a_bool_tensor_reads_as_bytes() {
    let buf = TensorBuf::zeros(&Meta { dtype: Dtype::Bool, shape: vec![3] }).unwrap();
    with_inputs("mask", &[buf], |mask| assert_eq!(mask.get(0).unwrap().as_slice::<u8>().unwrap(), [0; 3]));
}

#[test]
fn a_wrong_number_of_tensors_names_the_list_and_both_numbers() {
    let buf = TensorBuf::zeros(&Meta { dtype: Dtype::F32, shape: vec![1] }).unwrap();
    with_inputs("saved", std::slice::from_ref(&buf), |saved| {
        let error = saved.array::<2>().unwrap_err();
        assert!(error.to_string().starts_with("saved: expected 2 tensors, got 1"), "{error}");
        assert!(saved.get(1).unwrap_err().to_string().starts_with("saved[1]: no such tensor"));
    });
    with_outputs("outputs", &mut [buf], |outputs: Outputs<'_>| {
        assert!(matches!(outputs.array::<3>(), Err(TensorError::Count { expected: 3, found: 1, .. })));
    });
}

#[test]
fn what_is_written_is_there_afterwards() {
    let mut bufs = [(); 2].map(|()| TensorBuf::guarded(&Meta { dtype: Dtype::F32, shape: vec![2] }, 0xAA).unwrap());
    with_outputs("outputs", &mut bufs, |outputs| {
        let [mut a, b] = outputs.array().unwrap();
        a.as_mut_slice::<f32>().unwrap().copy_from_slice(&[1.0, 2.0]);
        b.into_mut_slice::<f32>().unwrap().fill(3.0);
    });
    assert_eq!(bufs[0].as_slice::<f32>().unwrap(), [1.0, 2.0]);
    assert_eq!(bufs[1].as_slice::<f32>().unwrap(), [3.0, 3.0]);
    bufs.iter().for_each(|buf| buf.check_bands().unwrap());
}

#[test]
fn guard_bands_tell_a_write_outside_and_its_side() {
    let meta = Meta { dtype: Dtype::F32, shape: vec![3] };
    for (offset, said) in
        [(-1isize, "1 bytes before the start"), (12, "1 bytes past the end"), (20, "9 bytes past the end")]
    {
        let mut buf = TensorBuf::guarded(&meta, 0).unwrap();
        // SAFETY: a view points into the whole allocation, of which the bands on both sides are part.
        unsafe { buf.view_mut().data.cast::<u8>().offset(offset).write(1) };
        let error = buf.check_bands().unwrap_err();
        assert!(error.message().starts_with(said), "{error}");
    }
}
