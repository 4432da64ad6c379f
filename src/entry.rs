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
/// ```no_run
/// coracle::wasi_main!();
///
/// fn main() {
///     coracle::block_on(coracle::time::sleep(std::time::Duration::from_millis(1)));
/// }
/// ```
#[macro_export]
macro_rules! wasi_main {
    () => {
        $crate::__wasi_start!();
    };
}
