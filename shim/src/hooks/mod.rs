//! The functions that stand in front of libc's, one file per kind. They convert C's arguments and
//! results; what is decided is decided in [`crate::ops`].
//!
//! One macro makes all of them. A hook lets a forced unwind through, which is how a thread that is
//! cancelled in the real call ends, so the real call is never made where a panic is caught.

pub mod aware;
pub mod clock;
pub mod connect;
pub mod descriptor;
pub mod host;
#[cfg(target_arch = "x86_64")]
pub mod load;
pub mod name;
pub mod option;
pub mod resolve;
pub mod stream;
pub mod wait;

use core::ffi::c_int;

use crate::raw::set_errno;

/// Defines hooks with one body for several names, each with its own real function.
macro_rules! hook {
    (
        $(#[$doc:meta])+ [$($name:ident),+] $arguments:tt -> $result:ty, $real:ident => $body:block
    ) => {
        $crate::hooks::hook! {
            @each [$($name),+] { $(#[$doc])+ $arguments -> $result, $real => $body }
        }
    };
    (@each [$($name:ident),+] $rest:tt) => {
        $($crate::hooks::hook! { @one $name $rest })+
    };
    (
        @one $name:ident {
            $(#[$doc:meta])+ ($($argument:ident: $kind:ty),*) -> $result:ty, $real:ident
            => $body:block
        }
    ) => {
        $(#[$doc])+
        ///
        /// # Safety
        /// As the libc function of this name demands.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name($($argument: $kind),*) -> $result {
            type Function = unsafe extern "C-unwind" fn($($kind),*) -> $result;
            static REAL: $crate::real::Real<Function> =
                // SAFETY: this is the prototype of the function of this name.
                unsafe { $crate::real::Real::new(concat!(stringify!($name), "\0")) };
            $crate::hooks::look_up_when_loaded!(REAL);
            let Some($real) = REAL.get() else {
                return $crate::hooks::Missing::missing();
            };
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

/// What a hook returns whose libc has no function of its name.
pub(crate) trait Missing {
    /// The result of a call that failed, with errno set.
    fn missing() -> Self;
}

impl Missing for c_int {
    fn missing() -> c_int {
        set_errno(libc::ENOSYS);
        -1
    }
}

impl Missing for u32 {
    fn missing() -> u32 {
        set_errno(libc::ENOSYS);
        0
    }
}

impl Missing for isize {
    fn missing() -> isize {
        set_errno(libc::ENOSYS);
        -1
    }
}

impl<T> Missing for *mut T {
    fn missing() -> *mut T {
        set_errno(libc::ENOSYS);
        core::ptr::null_mut()
    }
}
