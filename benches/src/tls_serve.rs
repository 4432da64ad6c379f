// One connection of a TLS server, for streams with the traits `AsyncRead` and `AsyncWrite` of
// either kind and their extensions: included where these are in scope.

/// Does what the client's commands say until it goes.
async fn obey(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
    let mut block = vec![7; tls::BLOCK];
    loop {
        let mut command = [0; tls::COMMAND];
        stream.read_exact(&mut command).await?;
        let (what, mut left) = tls::parse(&command);
        while left > 0 {
            let some = left.min(tls::BLOCK as u64) as usize;
            if what == b'u' {
                left -= stream.read(&mut block[..some]).await? as u64;
            } else {
                stream.write_all(&block[..some]).await?;
                left -= some as u64;
            }
        }
        if what == b'u' {
            stream.write_all(&[0]).await?;
        }
        stream.flush().await?;
    }
}
