//! What the host starts.
#![allow(unsafe_code)]

use std::ffi::c_int;

/// For [`wasi_main`](crate::wasi_main): the export that Wasmtime prefers to the one of `main`.
#[doc(hidden)]
#[macro_export]
macro_rules! __wasi_start {
    () => {
        const _: () = {
            struct Program;

            impl $crate::wasi::private::wasip3::exports::cli::run::Guest for Program {
                async fn run() -> ::core::result::Result<(), ()> {
                    match $crate::wasi::private::run_main() {
                        true => ::core::result::Result::Ok(()),
                        false => ::core::result::Result::Err(()),
                    }
                }
            }

            $crate::wasi::private::wasip3::cli::command::export!(Program);
        };
    };
}

unsafe extern "C" {
    /// The program's `main` behind the C library's preparations; for tests, the harness.
    #[cfg(not(test))]
    fn __main_void() -> c_int;
    /// Around that, for tests of this crate: where `main` itself is compiled, the compiler bears no
    /// declaration of it.
    #[cfg(test)]
    fn _start() -> c_int;
}

/// Runs `main`; false if it failed.
// Not to be compiled where `main` is, either.
#[inline(never)]
#[doc(hidden)]
pub fn run_main() -> bool {
    // SAFETY: the linker defines it in every program, and the macro is for programs. It is called
    // once: the host starts either this or what calls it otherwise.
    #[cfg(not(test))]
    return unsafe { __main_void() == 0 };
    // SAFETY: as above.
    #[cfg(test)]
    return unsafe { _start() == 0 };
}
