//! The functions that stand in front of libc's: conversion only, one file per kind.
//!
//! Two macros make them. Those that can wait, and so can be cancelled by `pthread_cancel`, are made
//! by `hook!` below: they let a forced unwind through, and their real call is never made where a
//! panic is caught. The others, for names and options, are made by redhook.

pub mod connect;
pub mod host;
#[cfg(target_arch = "x86_64")]
pub mod load;
pub mod name;
pub mod option;
pub mod resolve;
pub mod stream;

use core::ffi::c_int;

use crate::raw::set_errno;

/// Defines hooks with one body for several names, each with its own real function.
macro_rules! hook {
    (
        #[$doc:meta] [$($name:ident),+] $arguments:tt -> $result:ty, $real:ident => $body:block
    ) => {
        $($crate::hooks::hook! { @one #[$doc] $name $arguments -> $result, $real => $body })+
    };
    (
        @one #[$doc:meta] $name:ident ($($argument:ident: $kind:ty),*) -> $result:ty, $real:ident
        => $body:block
    ) => {
        #[$doc]
        ///
        /// # Safety
        /// As the libc function of this name demands.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name($($argument: $kind),*) -> $result {
            type Function = unsafe extern "C-unwind" fn($($kind),*) -> $result;
            // SAFETY: this is the prototype of the function of this name.
            static REAL: $crate::real::Real<Function> = unsafe {
                $crate::real::Real::new($crate::hooks::c_name(concat!(stringify!($name), "\0")))
            };
            $crate::hooks::look_up_when_loaded!(REAL);
            let Some($real) = REAL.get() else { return $crate::hooks::missing() as $result };
            $body
        }
    };
}
pub(crate) use hook;

/// Has a real function looked up by the linker's list of constructors, ahead of our own.
macro_rules! look_up_when_loaded {
    ($real:ident) => {
        #[used]
        #[unsafe(link_section = ".init_array.00090")]
        static LOOK_UP: extern "C" fn() = {
            extern "C" fn look_up() {
                $real.look_up();
            }
            look_up
        };
    };
}
pub(crate) use look_up_when_loaded;

/// A literal that ends in NUL, as a C string.
pub(crate) const fn c_name(name: &'static str) -> &'static core::ffi::CStr {
    match core::ffi::CStr::from_bytes_with_nul(name.as_bytes()) {
        Ok(name) => name,
        Err(_) => panic!("the name of a hook ends in NUL"),
    }
}

/// What a hook says whose libc has no function of its name.
pub(crate) fn missing() -> c_int {
    set_errno(libc::ENOSYS);
    -1
}

/// Looks up the functions behind the hooks made by redhook.
pub(crate) fn look_up_redhook() {
    name::look_up();
    option::look_up();
}
