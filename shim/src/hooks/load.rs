//! dlopen: a library opened with `RTLD_DEEPBIND` would see libc's connect ahead of ours.

use core::arch::naked_asm;
use core::ffi::{c_char, c_int, c_void};

type Function = unsafe extern "C" fn(*const c_char, c_int) -> *mut c_void;
// SAFETY: this is the prototype of the function of this name.
static REAL: crate::real::Real<Function> = unsafe { crate::real::Real::new("dlopen\0") };
super::look_up_when_loaded!(REAL);

/// Opens a library, without `RTLD_DEEPBIND`.
///
/// The real function looks at its return address to know who asks, whose search path counts. So it
/// is jumped to, not called.
///
/// # Safety
/// As the libc function of this name demands.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void {
    naked_asm!(
        "push rdi",
        "push rsi",
        "sub rsp, 8",
        "call {real}",
        "add rsp, 8",
        "pop rsi",
        "pop rdi",
        "and esi, {keep}",
        "jmp rax",
        real = sym real,
        keep = const !libc::RTLD_DEEPBIND,
    )
}

/// The real function; one that fails when libc has none.
extern "C" fn real() -> Function {
    unsafe extern "C" fn missing(_: *const c_char, _: c_int) -> *mut c_void {
        core::ptr::null_mut()
    }
    REAL.get().unwrap_or(missing)
}
