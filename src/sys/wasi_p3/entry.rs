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
    /// The program's `main`, as the C library calls it; for tests, the harness.
    // By this name the compiler does not know it, which would refuse what it compiles `main` with:
    // the tests of this crate.
    #[link_name = "\u{1}__main_void"]
    fn main_of_program() -> c_int;
}

/// Runs `main`; false if it failed.
#[doc(hidden)]
pub fn run_main() -> bool {
    // SAFETY: the linker defines it in every program, and the macro is for programs. It is called
    // once: the host starts either this or what calls it otherwise. The bindings have run what
    // goes before `main`.
    unsafe { main_of_program() == 0 }
}
