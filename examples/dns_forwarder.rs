//! A caching DNS forwarder: answers from its memory what it can, and asks one upstream server for
//! the rest.
//!
//! `dns_forwarder LISTEN_ADDR UPSTREAM_ADDR`, for example `127.0.0.1:5353 127.0.0.1:5300`; then
//! `dig @127.0.0.1 -p 5353 example.org`.
//!
//! Two endpoints share one state: `Clients` receives queries, `Upstream` receives answers, and a
//! task for each question that is being asked repeats it. UDP only: an answer that is too large
//! for the client is marked as truncated. All is asked from one port, so the upstream should be a
//! server near by, over a path that nobody else can send on.

use std::cell::RefCell;
use std::collections::HashMap;
use std::error::Error;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use coracle::{create_datagram_endpoint, Address, DatagramOptions, Task};
use coracle::{DatagramProtocol, DatagramTransport};
use domain::base::iana::{Opcode, Rcode, Rtype};
use domain::base::wire::ParseError;
use domain::base::{Header, Message, MessageBuilder};
use domain::rdata::Soa;

/// How often a question is asked, and how long an answer is waited for each time.
const TRIES: usize = 2;
const PATIENCE: Duration = Duration::from_secs(2);
/// What is kept at most: answers, questions being asked, clients that wait for one of them.
const ANSWERS: usize = 10_000;
const QUESTIONS: usize = 1_000;
const WAITING: usize = 100;
/// No answer is kept for longer, in seconds.
const LONGEST: u32 = 24 * 3600;
/// The most bytes in a query or in the upstream's answer; they pass every network in one piece.
const UDP_SIZE: u16 = 1232;
/// The length of a message's header; then comes the question.
const HEADER: usize = 12;

/// What a client has asked, and how to reply to it.
struct Client {
    transport: DatagramTransport,
    addr: Address,
    id: u16,
    /// The question in the client's own mixture of upper and lower case.
    question: Vec<u8>,
    /// The largest reply that it can take.
    room: usize,
    /// The message for the upstream, with the ID 0. Whoever asks the same gets the same answer.
    ask: Vec<u8>,
}

impl Client {
    fn read(
        transport: &DatagramTransport,
        data: &[u8],
        from: &Address,
    ) -> Result<Client, Box<dyn Error>> {
        if data.len() > UDP_SIZE.into() {
            return Err("larger than any query".into());
        }
        let message = Message::from_slice(data)?;
        let question = message.sole_question()?;
        let end = message.answer()?.pos();
        for record in message.additional()? {
            record?;
        }
        let opt = message.opt();
        if opt.as_ref().is_some_and(|opt| opt.version() > 0) {
            return Err("an EDNS of the future".into());
        }

        let mut ask = MessageBuilder::new_vec();
        ask.header_mut().set_rd(message.header().rd());
        ask.header_mut().set_cd(message.header().cd());
        ask.header_mut().set_ad(message.header().ad());
        let mut ask = ask.question();
        ask.push(question)?;
        let mut ask = ask.additional();
        if let Some(opt) = &opt {
            // The rest of EDNS is between neighbours only: size, version, options.
            ask.opt(|ours| {
                ours.set_udp_payload_size(UDP_SIZE);
                ours.set_dnssec_ok(opt.dnssec_ok());
                Ok(())
            })?;
        }
        let mut ask = ask.finish();
        if ask.get(HEADER..end) != Some(&data[HEADER..end]) {
            return Err("a compressed name in a question".into());
        }
        // The name, without the type and the class behind it.
        ask[HEADER..end - 4].make_ascii_lowercase();
        Ok(Client {
            transport: transport.clone(),
            addr: *from,
            id: message.header().id(),
            question: data[HEADER..end].to_vec(),
            room: opt.map_or(512, |opt| opt.udp_payload_size().max(512).into()),
            ask,
        })
    }

    /// Sends the answer to a question that somebody asked: with this client's ID and spelling.
    fn reply(&self, mut answer: Vec<u8>) {
        if answer.len() > self.room {
            answer = bare(&self.ask, Header::for_message_slice(&answer).rcode());
            Header::for_message_slice_mut(&mut answer).set_tc(true);
        }
        Header::for_message_slice_mut(&mut answer).set_id(self.id);
        answer[HEADER..][..self.question.len()].copy_from_slice(&self.question);
        // Fails only if the endpoint is being closed.
        let _ = self.transport.send_to(&answer, &self.addr);
    }
}

/// An answer with nothing in it but the question and a code.
fn bare(ask: &[u8], rcode: Rcode) -> Vec<u8> {
    let mut answer = ask.to_vec();
    let header = Header::for_message_slice_mut(&mut answer);
    header.set_qr(true);
    header.set_ra(true);
    header.set_rcode(rcode);
    answer
}

/// What the upstream has answered.
struct Answer {
    bytes: Vec<u8>,
    /// Where in it the times to live are, and what they were.
    ttls: Vec<(usize, u32)>,
    received: Instant,
    /// How long it may be kept, in seconds; 0 is not at all.
    lifetime: u32,
}

impl Answer {
    fn read(bytes: &[u8]) -> Result<Answer, Box<dyn Error>> {
        let message = Message::from_slice(bytes)?;
        message.sole_question()?;
        let sections = [
            message.answer()?,
            message.authority()?,
            message.additional()?,
        ];
        let (mut ttls, mut lifetime, mut has_soa) = (Vec::new(), LONGEST, false);
        for (number, mut records) in sections.into_iter().enumerate() {
            while let Some(record) = records.next() {
                let record = record?;
                let mut ttl = record.ttl().as_secs();
                match record.rtype() {
                    Rtype::OPT => continue, // has flags in the place of the time to live
                    // How long the name, or the type, may be taken for missing (RFC 2308).
                    Rtype::SOA if number == 1 => {
                        let soa = record
                            .to_record::<Soa<_>>()?
                            .ok_or(ParseError::ShortInput)?;
                        ttl = ttl.min(soa.data().minimum().as_secs());
                        has_soa = true;
                    }
                    _ => {}
                }
                lifetime = lifetime.min(ttl);
                // A record ends with its time to live in 4 bytes, a length in 2, and the data.
                ttls.push((records.pos() - usize::from(record.rdlen()) - 6, ttl));
            }
        }
        let (header, answers) = (message.header(), message.header_counts().ancount());
        let is_final = match header.rcode() {
            Rcode::NOERROR => answers > 0 || has_soa,
            Rcode::NXDOMAIN => has_soa,
            _ => false,
        };
        if header.tc() || !is_final {
            lifetime = 0;
        }
        let mut bytes = bytes.to_vec();
        Header::for_message_slice_mut(&mut bytes).set_aa(false);
        Ok(Answer {
            bytes,
            ttls,
            received: Instant::now(),
            lifetime,
        })
    }

    /// The answer as it is now, unless its time is over.
    fn now(&self) -> Option<Vec<u8>> {
        let age = u32::try_from(self.received.elapsed().as_secs()).ok()?;
        let mut bytes = self.bytes.clone();
        for (at, ttl) in &self.ttls {
            bytes[*at..at + 4].copy_from_slice(&ttl.saturating_sub(age).to_be_bytes());
        }
        (age < self.lifetime).then_some(bytes)
    }
}

/// A question that the upstream has not answered yet.
struct Asked {
    ask: Vec<u8>,
    clients: Vec<Client>,
    /// Dropped with the rest of it, which ends the task.
    _repeat: Task<()>,
}

#[derive(Default)]
struct State {
    answers: HashMap<Vec<u8>, Answer>,
    asked: HashMap<u16, Asked>,
    /// Keyed at random: what it makes of a counter cannot be guessed.
    random: RandomState,
    counter: u64,
}

impl State {
    fn new_id(&mut self) -> u16 {
        loop {
            self.counter += 1;
            let id = self.random.hash_one(self.counter) as u16;
            if !self.asked.contains_key(&id) {
                return id;
            }
        }
    }
}

/// Asks until an answer ends this task, or patience.
async fn repeat(state: Rc<RefCell<State>>, upstream: DatagramTransport, id: u16, ask: Vec<u8>) {
    let mut query = ask.clone();
    Header::for_message_slice_mut(&mut query).set_id(id);
    for _ in 0..TRIES {
        if let Err(error) = upstream.send(&query) {
            eprintln!("upstream: {error}");
        }
        coracle::time::sleep(PATIENCE).await;
    }
    let asked = state.borrow_mut().asked.remove(&id);
    for client in asked.iter().flat_map(|asked| &asked.clients) {
        client.reply(bare(&ask, Rcode::SERVFAIL));
    }
}

/// The side that clients ask.
struct Clients {
    state: Rc<RefCell<State>>,
    upstream: DatagramTransport,
}

impl Clients {
    fn answer(&self, client: Client) {
        let mut state = self.state.borrow_mut();
        if let Some(answer) = state.answers.get(&client.ask).and_then(Answer::now) {
            return client.reply(answer);
        }
        if let Some(asked) = state
            .asked
            .values_mut()
            .find(|asked| asked.ask == client.ask)
        {
            if asked.clients.len() < WAITING {
                asked.clients.push(client);
            }
            return;
        }
        if state.asked.len() >= QUESTIONS {
            return client.reply(bare(&client.ask, Rcode::SERVFAIL));
        }
        let (id, ask) = (state.new_id(), client.ask.clone());
        let repeat = repeat(self.state.clone(), self.upstream.clone(), id, ask.clone());
        let asked = Asked {
            ask,
            clients: vec![client],
            _repeat: coracle::spawn(repeat),
        };
        state.asked.insert(id, asked);
    }
}

impl DatagramProtocol for Clients {
    fn datagram_received(&mut self, transport: &DatagramTransport, data: &[u8], from: &Address) {
        let Ok(message) = Message::from_slice(data) else {
            return; // no header, no reply
        };
        let header = message.header();
        if header.qr() {
            return; // an answer; two servers that answered answers would never end
        }
        let rcode = match (header.opcode(), Client::read(transport, data, from)) {
            (Opcode::QUERY, Ok(client)) => return self.answer(client),
            (Opcode::QUERY, Err(_)) => Rcode::FORMERR,
            _ => Rcode::NOTIMP,
        };
        let mut refusal = bare(&[0; HEADER], rcode);
        Header::for_message_slice_mut(&mut refusal).set_id(header.id());
        Header::for_message_slice_mut(&mut refusal).set_opcode(header.opcode());
        let _ = transport.send_to(&refusal, from);
    }

    fn error_received(&mut self, _: &DatagramTransport, error: io::Error) {
        eprintln!("client: {error}");
    }
}

/// The side that asks.
struct Upstream {
    state: Rc<RefCell<State>>,
}

impl DatagramProtocol for Upstream {
    fn datagram_received(&mut self, _: &DatagramTransport, data: &[u8], _: &Address) {
        let Ok(answer) = Answer::read(data) else {
            return;
        };
        let header = Header::for_message_slice(data);
        let mut state = self.state.borrow_mut();
        // An answer it must be, and to the question that was asked with this ID.
        let is_answer = state.asked.get(&header.id()).is_some_and(|asked| {
            let end = HEADER + asked.clients[0].question.len();
            header.qr() && data.get(HEADER..end) == Some(&asked.ask[HEADER..end])
        });
        if !is_answer {
            return;
        }
        let Some(asked) = state.asked.remove(&header.id()) else {
            return;
        };
        for client in &asked.clients {
            client.reply(answer.bytes.clone());
        }
        if state.answers.len() >= ANSWERS {
            // Any one has to go: it is asked for again if need be.
            let some = state.answers.keys().next().cloned();
            some.map(|ask| state.answers.remove(&ask));
        }
        if answer.lifetime > 0 {
            state.answers.insert(asked.ask, answer);
        }
    }

    fn error_received(&mut self, _: &DatagramTransport, error: io::Error) {
        eprintln!("upstream: {error}");
    }
}

async fn serve(listen: &str, upstream: &str) -> io::Result<()> {
    let state = Rc::new(RefCell::new(State::default()));
    let protocol = Upstream {
        state: state.clone(),
    };
    let options = DatagramOptions::new().remote_addr(upstream);
    let (upstream, _) = create_datagram_endpoint(|| protocol, options).await?;
    let options = DatagramOptions::new().local_addr(listen);
    let (clients, _) = create_datagram_endpoint(|| Clients { state, upstream }, options).await?;
    println!("listening on {}", clients.local_addr()?);
    clients.closed().await
}

// On WASI 0.3 this has main started; elsewhere it is nothing.
coracle::wasi_main!();

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [listen, upstream] = &args[..] else {
        eprintln!("usage: dns_forwarder LISTEN_ADDR UPSTREAM_ADDR");
        std::process::exit(2);
    };
    coracle::block_on(serve(listen, upstream))
}
