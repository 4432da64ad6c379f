//! How a program says that it is one.

/// Has the program started in a way that lets it wait, where that takes more than a `main`: one
/// line, once, beside `main` or in a crate of tests.
///
/// On WASI 0.3 (feature `wasi-p3`) a program's `main` may not wait unless the host has started it
/// as an asynchronous function. With this it does, and [`block_on`](crate::block_on) works in
/// `main` and in `#[test]`s. Everywhere else this is nothing, so that the same source serves all.
///
/// A component that is no program but exports functions of its own has no need of it.
///
/// # Examples
/// ```
/// coracle::wasi_main!();
///
/// fn main() {
///     coracle::block_on(coracle::time::sleep(std::time::Duration::from_millis(1)));
/// }
/// ```
#[cfg(not(all(target_os = "wasi", feature = "wasi-p3")))]
#[macro_export]
macro_rules! wasi_main {
    () => {};
}

/// Has the host start the program's `main` as an asynchronous function, so that it may wait: one
/// line, once, beside `main` or in a crate of tests.
///
/// Everywhere else this is nothing, so that the same source serves all. A component that is no
/// program but exports functions of its own has no need of it.
///
/// # Examples
/// ```
/// coracle::wasi_main!();
///
/// fn main() {
///     coracle::block_on(coracle::time::sleep(std::time::Duration::from_millis(1)));
/// }
/// ```
#[cfg(all(target_os = "wasi", feature = "wasi-p3"))]
#[macro_export]
macro_rules! wasi_main {
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
