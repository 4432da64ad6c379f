//! The TLS benchmark on coracle's endpoints.

#[path = "../tls.rs"]
mod tls;

mod rt {
    use std::io;
    use std::os::unix::net::UnixListener;
    use std::sync::Arc;

    use coracle::{create_unix_server, Protocol, Transport, UnixServerOptions};
    use rustls::ServerConfig;

    use crate::tls::{parse, BLOCK, COMMAND};

    #[derive(Default)]
    struct Obey {
        command: Vec<u8>,
        /// Bytes to be received.
        up: u64,
        /// Bytes to be sent.
        down: u64,
        paused: bool,
    }

    impl Obey {
        fn send(&mut self, transport: &Transport) -> io::Result<()> {
            static DATA: [u8; BLOCK] = [7; BLOCK];
            while self.down > 0 && !self.paused {
                let some = self.down.min(BLOCK as u64);
                transport.write(&DATA[..some as usize])?;
                self.down -= some;
                let (_, high) = transport.write_buffer_limits();
                self.paused = transport.write_buffer_size() >= high;
            }
            Ok(())
        }
    }

    impl Protocol for Obey {
        fn data_received(&mut self, transport: &Transport, mut data: &[u8]) -> io::Result<()> {
            while !data.is_empty() {
                if self.up > 0 {
                    let some = self.up.min(data.len() as u64);
                    self.up -= some;
                    data = &data[some as usize..];
                    if self.up == 0 {
                        transport.write(&[0])?;
                    }
                    continue;
                }
                let (part, rest) = data.split_at(data.len().min(COMMAND - self.command.len()));
                self.command.extend(part);
                data = rest;
                if let Ok(command) = <[u8; COMMAND]>::try_from(&self.command[..]) {
                    self.command.clear();
                    match parse(&command) {
                        (b'u', len) => self.up = len,
                        (_, len) => self.down = len,
                    }
                    self.send(transport)?;
                }
            }
            Ok(())
        }

        fn pause_writing(&mut self, _: &Transport) {
            self.paused = true;
        }

        fn resume_writing(&mut self, transport: &Transport) {
            self.paused = false;
            let _ = self.send(transport);
        }
    }

    pub fn serve(listener: UnixListener, config: Arc<ServerConfig>) {
        let served = coracle::block_on(async {
            let options = UnixServerOptions::new().sock(listener).tls(config);
            let options = options.cleanup_socket(false);
            let server = create_unix_server(Obey::default, options).await?;
            server.serve_forever().await
        });
        served.expect("the server serves for ever");
    }
}

fn main() -> std::io::Result<()> {
    tls::run()
}
