//! A session with PostgreSQL over its Unix socket, with the `tokio-postgres` crate, which needs
//! tokio's traits, but none of its runtime: logs in, runs the queries, and prints their rows.
//!
//! `unix_postgres SOCKET USER DATABASE QUERY...`, for example
//! `/var/run/postgresql/.s.PGSQL.5432 postgres postgres 'SELECT version()'`; if there is to be a
//! password, the variable `PGPASSWORD` has it.
//!
//! Exits with 0 if the server accepts all, 3 if it refuses the user or a query, 1 if the
//! connection fails, 2 if the arguments are wrong.

use std::process::ExitCode;

#[cfg(unix)]
mod postgres {
    use std::future::Future;
    use std::io::{self, ErrorKind, Write};
    use std::time::Duration;

    use coracle::net::UnixStream;
    use coracle::time::timeout;
    use tokio_postgres::{Client, Config, Error, NoTls, SimpleQueryMessage};
    use tokio_util::compat::FuturesAsyncReadCompatExt;

    /// How long the server may be silent.
    const PATIENCE: Duration = Duration::from_secs(5);

    async fn in_time<T>(step: impl Future<Output = T>) -> io::Result<T> {
        let silent = || io::Error::new(ErrorKind::TimedOut, "PostgreSQL is silent");
        timeout(PATIENCE, step).await.map_err(|_| silent())
    }

    /// What the server refuses is told by it; all else has ended the connection.
    fn refusal(error: Error) -> io::Result<String> {
        let Some(refusal) = error.as_db_error() else {
            let reason = std::error::Error::source(&error).map(ToString::to_string);
            let reason = reason.map(|reason| format!(": {reason}"));
            let text = format!("{error}{}", reason.unwrap_or_default());
            return Err(io::Error::other(text));
        };
        let (severity, code) = (refusal.severity(), refusal.code().code());
        Ok(format!("{severity} {code}: {}", refusal.message()))
    }

    /// Prints what comes of the queries, and gives the first refusal.
    async fn run(
        client: &Client,
        queries: &[String],
        out: &mut impl Write,
    ) -> io::Result<Option<String>> {
        for query in queries {
            let messages = match in_time(client.simple_query(query)).await? {
                Ok(messages) => messages,
                Err(error) => return refusal(error).map(Some),
            };
            for message in messages {
                match message {
                    SimpleQueryMessage::Row(row) => {
                        let columns = 0..row.len();
                        let columns = columns.map(|at| row.get(at).unwrap_or("(null)"));
                        writeln!(out, "{}", columns.collect::<Vec<_>>().join("\t"))?;
                    }
                    SimpleQueryMessage::CommandComplete(rows) => writeln!(out, "({rows} rows)")?,
                    _ => {}
                }
            }
            out.flush()?;
        }
        Ok(None)
    }

    /// Logs in, prints what comes of the queries, and gives what the server has refused.
    pub(crate) async fn session(
        socket: &str,
        config: &Config,
        queries: &[String],
        out: &mut impl Write,
    ) -> io::Result<Option<String>> {
        let stream = in_time(UnixStream::connect(socket)).await??;
        let login = config.connect_raw(stream.compat(), NoTls);
        let (client, connection) = match in_time(login).await? {
            Ok(session) => session,
            Err(error) => return refusal(error).map(Some),
        };
        let connection = coracle::spawn(connection);
        let refused = run(&client, queries, out).await?;
        // Says goodbye.
        drop(client);
        match in_time(connection).await? {
            Ok(()) => Ok(refused),
            Err(error) => Ok(refused.or(Some(refusal(error)?))),
        }
    }
}

#[cfg(unix)]
fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (socket, user, database, queries) = match &args[..] {
        [socket, user, database, queries @ ..] if !queries.is_empty() => {
            (socket, user, database, queries)
        }
        _ => {
            eprintln!("usage: unix_postgres SOCKET USER DATABASE QUERY...");
            return ExitCode::from(2);
        }
    };
    let mut config = tokio_postgres::Config::new();
    config.user(user).dbname(database);
    if let Some(password) = std::env::var_os("PGPASSWORD") {
        config.password(password.as_encoded_bytes());
    }
    let mut out = std::io::stdout();
    let session = postgres::session(socket, &config, queries, &mut out);
    match coracle::block_on(session) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(refusal)) => {
            eprintln!("{socket}: {refusal}");
            ExitCode::from(3)
        }
        Err(error) => {
            eprintln!("{socket}: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(not(unix))]
fn main() -> ExitCode {
    eprintln!("this platform has no Unix connections");
    ExitCode::FAILURE
}
