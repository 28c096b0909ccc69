//! The functions that ours stand in front of.
//!
//! All are looked up, by redhook, when the library is loaded, so that no hook ever waits for the
//! linker. A hook that is called even earlier, by another library's constructor, looks its function
//! up itself. Redhook's own `hook!` is not used: it would catch the unwinding of a thread that is
//! cancelled, and its `Once` is not safe in a signal handler or after fork.

use core::ffi::c_void;
use core::marker::PhantomData;
use core::mem::{size_of, transmute_copy};
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};
use std::panic::catch_unwind;

/// The next function of a name, after ours in the search order.
pub struct Real<F> {
    name: &'static str,
    at: AtomicPtr<c_void>,
    kind: PhantomData<F>,
}

impl<F: Copy> Real<F> {
    /// The function of this name, which ends in NUL. `F` must be its true type: a function pointer.
    ///
    /// # Safety
    /// The caller vouches for `F`.
    pub const unsafe fn new(name: &'static str) -> Real<F> {
        assert!(size_of::<F>() == size_of::<*mut c_void>());
        assert!(matches!(name.as_bytes(), [.., 0]), "the name ends in NUL");
        Real { name, at: AtomicPtr::new(ptr::null_mut()), kind: PhantomData }
    }

    /// The function; nothing when libc has none of that name.
    #[inline]
    pub fn get(&self) -> Option<F> {
        let mut at = self.at.load(Ordering::Relaxed);
        if at.is_null() {
            at = self.look_up();
            if at.is_null() {
                return None;
            }
        }
        // SAFETY: `at` is the address of the function of this name, whose type is F as `new` was
        // promised, and both have the size of a pointer.
        Some(unsafe { transmute_copy(&at) })
    }

    /// Looks it up now.
    #[cold]
    pub fn look_up(&self) -> *mut c_void {
        let name = self.name;
        // SAFETY: the name ends in NUL, as `new` has checked.
        let found = catch_unwind(|| unsafe { redhook::ld_preload::dlsym_next(name) });
        let at = found.map_or(ptr::null_mut(), |at| at.cast_mut().cast());
        self.at.store(at, Ordering::Relaxed);
        at
    }
}
