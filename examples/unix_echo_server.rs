//! Echoes what comes over Unix connections until it is killed.
//!
//! `unix_echo_server PATH`, where `@name` is an abstract name (Linux)

#[cfg(unix)]
fn main() -> std::io::Result<()> {
    use coracle::{create_unix_server, on_data, UnixServerOptions};

    let Some(path) = std::env::args().nth(1) else {
        eprintln!("usage: unix_echo_server PATH");
        std::process::exit(2);
    };
    coracle::block_on(async {
        let echo = || on_data(|transport, data| transport.write(data));
        let options = UnixServerOptions::new().path(path).backlog(1024);
        let server = create_unix_server(echo, options).await?;
        for addr in server.local_addrs() {
            println!("listening on {addr}");
        }
        server.serve_forever().await
    })
}

#[cfg(not(unix))]
fn main() {
    eprintln!("this platform has no Unix connections");
    std::process::exit(1);
}
