//! A real PostgreSQL over its Unix socket with `tokio-postgres`, which runs on coracle without
//! tokio's runtime: the `unix_postgres` example, and what it does not need.
#![cfg(unix)]

#[path = "peers/process.rs"]
mod process;
#[path = "peers/postgres.rs"]
mod server;

use std::future::{poll_fn, Future};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::pin::pin;
use std::process::Command;
use std::rc::Rc;

use coracle::net::UnixStream;
use coracle::time::timeout;
use coracle::Task;
use futures_lite::{future, stream, StreamExt};
use futures_util::SinkExt;
use process::{example, run, Done, LIMIT};
use server::Postgres;
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::NoTlsStream;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, Error, NoTls};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};

type Session = (Client, Connection<Compat<UnixStream>, NoTlsStream>);

fn block_on<F: Future>(future: F) -> F::Output {
    coracle::block_on(timeout(LIMIT, future)).expect("PostgreSQL or we hang")
}

async fn login(socket: &Path) -> Result<Session, Error> {
    let stream = UnixStream::connect(socket).await.unwrap();
    let mut config = Config::new();
    config.user("postgres").dbname("postgres");
    config.connect_raw(stream.compat(), NoTls).await
}

/// A session, and the task that drives it.
async fn connect(socket: &Path) -> (Client, Task<Result<(), Error>>) {
    let (client, connection) = login(socket).await.unwrap();
    (client, coracle::spawn(connection))
}

/// The only value of a query.
async fn one<T>(client: &Client, query: &str) -> T
where
    T: for<'a> tokio_postgres::types::FromSql<'a>,
{
    client.query_one(query, &[]).await.unwrap().get(0)
}

fn code(error: &Error) -> &str {
    error.code().map_or("", SqlState::code)
}

/// What the example says to a user's queries.
fn session(socket: &Path, user: &str, password: Option<&str>, queries: &[&str]) -> Done {
    let mut command = example("unix_postgres");
    command.arg(socket).args([user, "postgres"]).args(queries);
    match password {
        Some(password) => command.env("PGPASSWORD", password),
        None => command.env_remove("PGPASSWORD"),
    };
    run(&mut command)
}

fn assert_says(done: &Done, stdout: &str) {
    let said = (done.status.code(), &done.stdout[..], &done.stderr[..]);
    assert_eq!(said, (Some(0), stdout, ""));
}

/// It fails with this code, and says this.
fn assert_fails(done: &Done, code: i32, said: &str) {
    assert_eq!(done.status.code(), Some(code), "{done:?}");
    assert!(done.stderr.contains(said), "{done:?}");
    assert!(!done.stderr.contains("panicked"), "{done:?}");
}

#[test]
fn the_example_prints_what_comes_of_each_query() {
    let postgres = Postgres::start();
    let queries = [
        "SELECT 1 + 1, NULL, 'grüße'",
        "CREATE TABLE words (word text); INSERT INTO words VALUES ('one'), ('two'), ('three')",
        "SELECT word FROM words ORDER BY word; DELETE FROM words",
        "SELECT word FROM words",
        "SELECT length(repeat('x', 10000000))",
    ];
    let said = "2\t(null)\tgrüße\n(1 rows)\n(0 rows)\n(3 rows)\none\nthree\ntwo\n(3 rows)\n\
                (3 rows)\n(0 rows)\n10000000\n(1 rows)\n";
    assert_says(&session(&postgres.socket, "postgres", None, &queries), said);
}

#[test]
fn the_example_tells_what_the_server_refuses() {
    let postgres = Postgres::start();
    let done = session(
        &postgres.socket,
        "postgres",
        None,
        &["SELECT 1", "SELECT nothing", "SELECT 2"],
    );
    let socket = postgres.socket.to_str().unwrap();
    let said = format!("{socket}: ERROR 42703: column \"nothing\" does not exist\n");
    assert_fails(&done, 3, &said);
    assert_eq!(done.stdout, "1\n(1 rows)\n");

    let args = ["postgres", "nowhere", "SELECT 1"];
    let done = run(example("unix_postgres").arg(&postgres.socket).args(args));
    assert_fails(&done, 3, "FATAL 3D000: database \"nowhere\" does not exist");
}

#[test]
fn users_log_in_by_every_means_and_others_do_not() {
    let postgres = Postgres::start();
    let roles = [
        "CREATE ROLE trusted LOGIN",
        "CREATE ROLE plain LOGIN PASSWORD 'sésame'",
        "CREATE ROLE scram LOGIN PASSWORD 'sésame'",
        "SET password_encryption = md5; CREATE ROLE md5 LOGIN PASSWORD 'sésame'",
        "CREATE ROLE known LOGIN; CREATE ROLE stranger LOGIN; CREATE ROLE other LOGIN",
    ];
    let made = session(&postgres.socket, "postgres", None, &roles);
    assert!(made.status.success(), "{made:?}");

    let login = |user, password| session(&postgres.socket, user, password, &["SELECT USER"]);
    for user in ["plain", "scram", "md5"] {
        let done = login(user, Some("sésame"));
        assert_says(&done, &format!("{user}\n(1 rows)\n"));
        let said = format!("FATAL 28P01: password authentication failed for user \"{user}\"");
        assert_fails(&login(user, Some("sesame")), 3, &said);
        assert_fails(&login(user, None), 1, "password missing");
    }
    // The system tells the server who is behind the socket.
    for user in ["trusted", "known"] {
        assert_says(&login(user, None), &format!("{user}\n(1 rows)\n"));
    }
    for user in ["stranger", "other"] {
        assert_fails(&login(user, None), 3, "FATAL 28000: ");
    }
}

#[test]
fn the_example_tells_what_fails() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let done = session(&missing, "postgres", None, &["SELECT 1"]);
    assert_fails(&done, 1, missing.to_str().unwrap());

    let path = folder.path().join("silent");
    // The system accepts for it.
    let _silent = UnixListener::bind(&path).unwrap();
    let done = session(&path, "postgres", None, &["SELECT 1"]);
    assert_fails(&done, 1, "PostgreSQL is silent");

    let done = run(example("unix_postgres").args(["/tmp/x", "user", "database"]));
    assert_fails(&done, 2, "usage: unix_postgres SOCKET USER DATABASE QUERY");
}

#[test]
fn the_start_up_tells_who_the_server_is() {
    let postgres = Postgres::start();
    block_on(async {
        let stream = UnixStream::connect(&postgres.socket).await.unwrap();
        let pid = stream.peer_cred().unwrap().pid;
        let mut config = Config::new();
        config
            .user("postgres")
            .dbname("postgres")
            .application_name("coracle");
        let login = config.connect_raw(stream.compat(), NoTls).await;
        let (client, connection) = login.unwrap();
        let parameter = |name| connection.parameter(name).unwrap().to_owned();
        assert_eq!(parameter("application_name"), "coracle");
        assert_eq!(parameter("client_encoding"), "UTF8");
        assert_eq!(parameter("is_superuser"), "on");
        let version = parameter("server_version");
        coracle::spawn(connection).detach();
        assert_eq!(one::<String>(&client, "SHOW server_version").await, version);
        // Who listens is not who serves.
        if cfg!(target_os = "linux") {
            let backend: i32 = one(&client, "SELECT pg_backend_pid()").await;
            assert_ne!(pid, Some(backend));
        }
    });
}

#[test]
fn many_rows_come_through_a_connection_that_others_wait_for() {
    let postgres = Postgres::start();
    block_on(async {
        let (client, _task) = connect(&postgres.socket).await;
        let query = "SELECT n, repeat('x', 50) FROM generate_series(1, 300000) AS n";
        let rows = client.query_raw(query, [0i32; 0]).await.unwrap();
        // Waits for its turn behind the rows.
        let after = one::<i32>(&client, "SELECT 7");
        let read = async {
            let (mut rows, mut count) = (pin!(rows), 0);
            while let Some(row) = rows.next().await {
                count += 1;
                let row = row.unwrap();
                assert_eq!(
                    (row.get::<_, i32>(0), row.get::<_, &str>(1).len()),
                    (count, 50)
                );
            }
            count
        };
        assert_eq!(future::zip(read, after).await, (300_000, 7));
    });
}

#[test]
fn what_is_copied_in_is_copied_out() {
    let postgres = Postgres::start();
    let lines = (0..500_000).map(|number| format!("{number}\tline\n"));
    let text = lines.collect::<String>();
    let pieces = text.as_bytes().chunks(50_000);
    let pieces = pieces.map(|piece| Ok(std::io::Cursor::new(piece.to_vec())));
    block_on(async {
        let (client, _task) = connect(&postgres.socket).await;
        let table = "CREATE UNLOGGED TABLE lines (number int, line text)";
        client.batch_execute(table).await.unwrap();
        let mut sink = Box::pin(client.copy_in("COPY lines FROM STDIN").await.unwrap());
        sink.send_all(&mut stream::iter(pieces)).await.unwrap();
        assert_eq!(sink.as_mut().finish().await.unwrap(), 500_000);
        let mut out = Box::pin(client.copy_out("COPY lines TO STDOUT").await.unwrap());
        let mut came = Vec::new();
        while let Some(data) = out.next().await {
            came.extend_from_slice(&data.unwrap());
        }
        assert!(came == text.as_bytes(), "{} bytes", came.len());
    });
}

#[test]
fn queries_go_ahead_of_the_answers() {
    let postgres = Postgres::start();
    block_on(async {
        let (client, task) = connect(&postgres.socket).await;
        let client = Rc::new(client);
        let ask = |number: i32| {
            let client = client.clone();
            coracle::spawn(async move {
                let query = format!("SELECT {number}, pg_backend_pid(), repeat('x', {number})");
                let row = client.query_one(&query, &[]).await.unwrap();
                assert_eq!(row.get::<_, &str>(2).len() as i32, number);
                (row.get(0), row.get(1))
            })
        };
        let tasks: Vec<Task<(i32, i32)>> = (0..2_000).map(ask).collect();
        let backend = one(&client, "SELECT pg_backend_pid()").await;
        for (number, task) in (0..).zip(tasks) {
            assert_eq!(task.await, (number, backend));
        }
        drop(client);
        task.await.unwrap();
    });
}

#[test]
fn a_session_goes_on_after_an_error() {
    let postgres = Postgres::start();
    block_on(async {
        let (mut client, _task) = connect(&postgres.socket).await;
        let table = "CREATE TABLE numbers (number int UNIQUE); INSERT INTO numbers VALUES (1)";
        client.batch_execute(table).await.unwrap();
        for _ in 0..100 {
            let insert = client.execute("INSERT INTO numbers VALUES ($1)", &[&1]);
            let error = insert.await.unwrap_err();
            assert_eq!(code(&error), "23505", "{error:?}");
        }
        // A transaction that is dropped is rolled back.
        let change = client.transaction().await.unwrap();
        let deleted = change.execute("DELETE FROM numbers", &[]).await.unwrap();
        assert_eq!(deleted, 1);
        drop(change);
        let count: i64 = one(&client, "SELECT count(*) FROM numbers").await;
        assert_eq!(count, 1);
    });
}

#[test]
fn notifications_come_to_all_who_listen() {
    let postgres = Postgres::start();
    block_on(async {
        let mut listeners = Vec::new();
        for _ in 0..30 {
            let (client, mut connection) = login(&postgres.socket).await.unwrap();
            // The connection works only while it is polled.
            let message = async { Err(poll_fn(|cx| connection.poll_message(cx)).await) };
            let listen = async { Ok(client.batch_execute("LISTEN news").await) };
            let listening = future::or(message, listen).await;
            listening.expect("no message before").unwrap();
            listeners.push(coracle::spawn(async move {
                for number in 0..100 {
                    let message = poll_fn(|cx| connection.poll_message(cx)).await;
                    let Some(Ok(AsyncMessage::Notification(message))) = message else {
                        panic!("no notification: {message:?}");
                    };
                    assert_eq!(message.payload(), number.to_string());
                }
                drop(client);
                // Nothing else comes before the end.
                assert!(poll_fn(|cx| connection.poll_message(cx)).await.is_none());
            }));
        }
        let (client, _task) = connect(&postgres.socket).await;
        for number in 0..100 {
            let notify = format!("NOTIFY news, '{number}'");
            client.batch_execute(&notify).await.unwrap();
        }
        for listener in listeners {
            listener.await;
        }
    });
}

#[test]
fn a_query_is_cancelled_over_a_connection_of_its_own() {
    let postgres = Postgres::start();
    block_on(async {
        let (client, _task) = connect(&postgres.socket).await;
        let (other, _other_task) = connect(&postgres.socket).await;
        let sleep = client.batch_execute("SELECT pg_sleep(600)");
        let cancel = async {
            let running = "SELECT count(*) FROM pg_stat_activity \
                           WHERE query LIKE '%pg_sleep(600)' AND state = 'active'";
            while one::<i64>(&other, running).await == 0 {}
            let stream = UnixStream::connect(&postgres.socket).await.unwrap();
            let token = client.cancel_token();
            token
                .cancel_query_raw(stream.compat(), NoTls)
                .await
                .unwrap();
        };
        let (slept, ()) = future::zip(sleep, cancel).await;
        assert_eq!(code(&slept.unwrap_err()), "57014");
        assert_eq!(one::<i32>(&client, "SELECT 1").await, 1);
    });
}

#[test]
fn fifty_sessions_add_up_what_they_do() {
    let postgres = Postgres::start();
    block_on(async {
        let (client, _task) = connect(&postgres.socket).await;
        let table = "CREATE TABLE sums (sum int); INSERT INTO sums VALUES (0)";
        client.batch_execute(table).await.unwrap();
        let mut tasks = Vec::new();
        for _ in 0..50 {
            let (client, connection) = connect(&postgres.socket).await;
            tasks.push(coracle::spawn(async move {
                for _ in 0..20 {
                    let add = client.execute("UPDATE sums SET sum = sum + 1", &[]);
                    assert_eq!(add.await.unwrap(), 1);
                }
                drop(client);
                connection.await.unwrap();
            }));
        }
        for task in tasks {
            task.await;
        }
        assert_eq!(one::<i32>(&client, "SELECT sum FROM sums").await, 1_000);
    });
}

#[test]
fn a_session_says_goodbye_unless_it_is_cut_off() {
    let postgres = Postgres::start();
    let end = || loop {
        let line = postgres.process.line();
        let ends = ["disconnection: ", "unexpected EOF on client connection"];
        if let Some(end) = ends.into_iter().find(|end| line.contains(end)) {
            return end;
        }
    };
    block_on(async {
        let (client, task) = connect(&postgres.socket).await;
        client.batch_execute("BEGIN").await.unwrap();
        drop(client);
        task.await.unwrap();
        assert_eq!(end(), "disconnection: ");

        let (client, task) = connect(&postgres.socket).await;
        client.batch_execute("BEGIN").await.unwrap();
        task.cancel().await;
        assert_eq!(end(), "unexpected EOF on client connection");
        assert!(client
            .batch_execute("ROLLBACK")
            .await
            .unwrap_err()
            .is_closed());
    });
}

#[test]
fn a_backend_that_is_killed_takes_its_sessions_with_it_and_no_more() {
    let postgres = Postgres::start();
    block_on(async {
        let (client, task) = connect(&postgres.socket).await;
        let (other, mut connection) = login(&postgres.socket).await.unwrap();
        let backend: i32 = one(&client, "SELECT pg_backend_pid()").await;
        let rows = "SELECT generate_series(1, 2000000000)";
        let mut rows = Box::pin(client.query_raw(rows, [0i32; 0]).await.unwrap());
        assert_eq!(rows.next().await.unwrap().unwrap().get::<_, i32>(0), 1);
        let kill = format!("kill -KILL {backend}");
        assert!(run(Command::new("sh").args(["-c", &kill])).status.success());
        // What had come is read; the end is not taken for that of the rows.
        let error = loop {
            match rows.next().await.expect("it does not seem whole") {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert!(error.is_closed(), "{error:?}");
        let _ = task.await;
        // The others are told.
        let notice = poll_fn(|cx| connection.poll_message(cx)).await;
        let Some(Ok(AsyncMessage::Notice(notice))) = notice else {
            panic!("no notice: {notice:?}");
        };
        assert_eq!(notice.code().code(), "57P02", "{notice:?}");
        let end = poll_fn(|cx| connection.poll_message(cx)).await;
        assert!(end.unwrap().unwrap_err().is_closed());
        drop(connection);
        assert!(other.is_closed());

        while !postgres
            .process
            .line()
            .contains("ready to accept connections")
        {}
        let (client, _task) = connect(&postgres.socket).await;
        assert_eq!(one::<i32>(&client, "SELECT 1").await, 1);
    });
}

#[test]
fn a_server_that_is_shut_down_tells_its_sessions() {
    let mut postgres = Postgres::start();
    block_on(async {
        let (idle, idle_task) = connect(&postgres.socket).await;
        let (busy, _busy_task) = connect(&postgres.socket).await;
        let sleep = busy.batch_execute("SELECT pg_sleep(600)");
        let shut_down = async {
            let running = "SELECT count(*) FROM pg_stat_activity \
                           WHERE query LIKE '%pg_sleep(600)' AND state = 'active'";
            while one::<i64>(&idle, running).await == 0 {}
            // Answered after all that the session has asked for.
            idle.batch_execute("").await.unwrap();
            postgres.process.signal("INT");
        };
        let (slept, ()) = future::zip(sleep, shut_down).await;
        let slept = slept.unwrap_err();
        assert_eq!(code(&slept), "57P01", "{slept:?}");
        let idle = idle_task.await.unwrap_err();
        assert_eq!(code(&idle), "57P01", "{idle:?}");
        postgres.process.wait();
        assert!(UnixStream::connect(&postgres.socket).await.is_err());
    });
}

#[cfg(feature = "async-io")]
#[test]
fn any_executor_drives_the_session() {
    let postgres = Postgres::start();
    let asking = async {
        let (client, connection) = login(&postgres.socket).await.unwrap();
        let task = smol::spawn(connection);
        let count = "SELECT count(*) FROM generate_series(1, 1000)";
        assert_eq!(one::<i64>(&client, count).await, 1_000);
        drop(client);
        task.await.unwrap();
    };
    smol::block_on(timeout(LIMIT, asking)).expect("PostgreSQL or we hang");
}
