//! Builds what is measured: the binaries of this package, the echo servers of the crate, and
//! a Python environment for uvloop.

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The release profile of this package, passed to every build so that the crate's own, which
/// may be another, plays no part.
const PROFILE: [(&str, &str); 6] = [
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3"),
    ("CARGO_PROFILE_RELEASE_LTO", "fat"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
    ("CARGO_PROFILE_RELEASE_PANIC", "abort"),
    ("CARGO_PROFILE_RELEASE_STRIP", "symbols"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "0"),
];

/// The directory of this package.
pub fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The directory of the crate that is measured.
pub fn crate_root() -> PathBuf {
    package().join("..")
}

/// The target directory, which is the one this program was built in.
pub fn target() -> io::Result<PathBuf> {
    let program = env::current_exe()?;
    match program.ancestors().nth(2) {
        Some(target) => Ok(target.to_owned()),
        None => Err(io::Error::other("the harness is in no target directory")),
    }
}

/// Builds a binary of this package with nothing but its own feature.
pub fn binary(name: &str) -> io::Result<PathBuf> {
    let target = target()?;
    cargo_build(
        name,
        Command::new(cargo())
            .current_dir(package())
            .args(["build", "--release", "--bin", name])
            .args(["--no-default-features", "--features", name])
            .arg("--target-dir")
            .arg(&target),
    )?;
    Ok(target.join("release").join(name))
}

/// Builds an example of the crate, with the same settings, in a directory of ours.
pub fn example(name: &str, default_features: bool) -> io::Result<PathBuf> {
    // Apart, so that one does not replace the other.
    let target = target()?.join(match default_features {
        true => "coracle",
        false => "coracle-no-default-features",
    });
    let mut command = Command::new(cargo());
    command
        .current_dir(crate_root())
        .args(["build", "--release", "--example", name])
        .arg("--target-dir")
        .arg(&target);
    if !default_features {
        command.arg("--no-default-features");
    }
    cargo_build(name, &mut command)?;
    Ok(target.join("release").join("examples").join(name))
}

/// The package of the guests.
pub fn guests() -> PathBuf {
    package().join("guests")
}

/// The target of the guests.
pub const WASI: &str = "wasm32-wasip2";

/// Builds a component of the package of the guests with nothing but its own feature.
pub fn guest(name: &str) -> io::Result<PathBuf> {
    let options = ["--bin", name, "--no-default-features", "--features", name];
    let directory = wasi_build(name, &guests(), &options)?;
    Ok(directory.join(name).with_extension("wasm"))
}

/// Builds an example of the crate as a component, on WASI 0.2 or 0.3.
pub fn guest_example(name: &str, on_0_3: bool) -> io::Result<PathBuf> {
    // Apart, so that one does not replace the other.
    let (directory, features) = match on_0_3 {
        true => ("wasi-p3", "wasi-p3"),
        false => ("wasi", ""),
    };
    let options = ["--example", name, "--features", features];
    let directory = wasi_build_in(directory, name, &crate_root(), &options)?;
    Ok(directory.join("examples").join(name).with_extension("wasm"))
}

/// Builds with whatever the machine has for the target, and returns where the result is.
fn wasi_build(name: &str, package: &Path, options: &[&str]) -> io::Result<PathBuf> {
    wasi_build_in("wasi", name, package, options)
}

fn wasi_build_in(
    directory: &str,
    name: &str,
    package: &Path,
    options: &[&str],
) -> io::Result<PathBuf> {
    // Apart from what runs here, so that the two do not wait for each other's lock.
    let target = target()?.join(directory);
    let mut command = Command::new(setup());
    command
        .current_dir(package)
        // The one it finds may be another than the one that started this program.
        .args(["cargo", "build", "--release", "--target", WASI])
        .args(options)
        .arg("--target-dir")
        .arg(&target);
    cargo_build(&format!("{name} for {WASI}"), &mut command)?;
    Ok(target.join(WASI).join("release"))
}

/// The crate's script that sets up the target and its host.
fn setup() -> PathBuf {
    crate_root().join("wasm").join("setup")
}

/// The host of the guests.
pub fn wasmtime() -> io::Result<PathBuf> {
    let output = Command::new(setup())
        .arg("--wasmtime")
        .stderr(Stdio::inherit())
        .output()?;
    let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() || path.is_empty() {
        return Err(io::Error::other("there is no Wasmtime"));
    }
    Ok(path.into())
}

/// Compiles a component for this machine beforehand, so that no server does it when it starts.
pub fn precompiled(wasmtime: &Path, component: &Path) -> io::Result<PathBuf> {
    let compiled = component.with_extension("cwasm");
    let mut command = Command::new(wasmtime);
    command
        .arg("compile")
        .arg("-o")
        .args([&*compiled, component]);
    if !run(&mut command)? {
        let message = format!("{} could not be compiled", component.display());
        return Err(io::Error::other(message));
    }
    Ok(compiled)
}

fn cargo_build(name: &str, command: &mut Command) -> io::Result<()> {
    eprintln!("building {name}");
    command.arg("--quiet").envs(PROFILE).stdout(Stdio::null());
    let status = run(command)?;
    if !status {
        return Err(io::Error::other(format!("{name} could not be built")));
    }
    Ok(())
}

pub fn cargo() -> String {
    env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}

/// The Python interpreter itself: what is on the path may be a wrapper around it.
pub fn python() -> io::Result<PathBuf> {
    let output = Command::new("python3")
        .args(["-c", "import sys; print(sys.executable)"])
        .output()
        .map_err(|error| io::Error::new(error.kind(), format!("python3: {error}")))?;
    let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() || path.is_empty() {
        return Err(io::Error::other("python3 does not run"));
    }
    Ok(path.into())
}

/// An interpreter that has uvloop, in an environment made on first use.
pub fn python_with_uvloop() -> io::Result<PathBuf> {
    let environment = target()?.join("venv");
    let python = environment.join("bin").join("python");
    let has_uvloop = || {
        let mut command = Command::new(&python);
        command.args(["-c", "import uvloop"]).stderr(Stdio::null());
        run(&mut command).unwrap_or(false)
    };
    if has_uvloop() {
        return Ok(python);
    }
    eprintln!("installing uvloop in an environment of its own");
    let mut create = Command::new(self::python()?);
    create.args(["-m", "venv"]).arg(&environment);
    let mut install = Command::new(&python);
    install
        .args(["-m", "pip", "install", "--quiet", "--requirement"])
        .arg(package().join("peers").join("requirements.txt"));
    for command in [&mut create, &mut install] {
        if !run(command.stdout(Stdio::null()))? {
            return Err(io::Error::other(
                "uvloop could not be installed (python3 with venv, and a package index, are needed)",
            ));
        }
    }
    if !has_uvloop() {
        return Err(io::Error::other("uvloop is installed but does not load"));
    }
    Ok(python)
}

/// Whether the command succeeded.
fn run(command: &mut Command) -> io::Result<bool> {
    let name = command.get_program().to_string_lossy().into_owned();
    match command.stdin(Stdio::null()).status() {
        Ok(status) => Ok(status.success()),
        Err(error) => Err(io::Error::new(error.kind(), format!("{name}: {error}"))),
    }
}
