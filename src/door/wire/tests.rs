use std::future::poll_fn;
use std::time::Duration;

use ssh_key::PrivateKey;
use ssh_key::private::Ed25519Keypair;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;

use super::*;
use crate::door::channels::{Kind, Request, reason};
use crate::transport::wire::{Reader, put_string, put_u32};
use crate::transport::{HostIdentity, Preferences};

const WINDOW: u32 = 64 * 1024;
type Near = Wire<DuplexStream>;

/// A connection whose far end says what the test has it say.
struct House {
    wire: Arc<Near>,
    far: Connection<DuplexStream>,
    events: UnboundedReceiver<Event>,
    driver: JoinHandle<TransportError>,
}

fn message(number: u8, fields: &[u32]) -> Vec<u8> {
    std::iter::once(number).chain(fields.iter().flat_map(|field| field.to_be_bytes())).collect()
}

fn with_string(mut message: Vec<u8>, text: &[u8]) -> Vec<u8> {
    put_string(&mut message, text);
    message
}

fn jump(number: u32, window: u32, host: &[u8], port: u32) -> Vec<u8> {
    let mut open = with_string(vec![msg::CHANNEL_OPEN], b"direct-tcpip");
    [number, window, 32 * 1024].iter().for_each(|field| put_u32(&mut open, *field));
    open = with_string(open, host);
    put_u32(&mut open, port);
    open = with_string(open, b"127.0.0.1");
    put_u32(&mut open, 1);
    open
}

fn session(number: u32) -> Vec<u8> {
    let open = with_string(vec![msg::CHANNEL_OPEN], b"session");
    [open, message(0, &[number, 1 << 20, 32 * 1024])[1..].to_vec()].concat()
}

fn data(channel: u32, bytes: &[u8]) -> Vec<u8> {
    with_string(message(msg::CHANNEL_DATA, &[channel]), bytes)
}

fn request(channel: u32, name: &str, replies: bool, rest: &[u8]) -> Vec<u8> {
    let mut request = with_string(message(msg::CHANNEL_REQUEST, &[channel]), name.as_bytes());
    request.push(u8::from(replies));
    [request, rest.to_vec()].concat()
}

impl House {
    async fn new() -> Self {
        let key = Arc::new(PrivateKey::from(Ed25519Keypair::from_seed(&[7; 32])));
        let (near, far) = duplex(128 * 1024);
        let mut near = Connection::new(Leg::server(Preferences::modern(), HostIdentity::new(key, None), "SSH-2.0-b").without_pings(), near);
        let mut far = Connection::new(Leg::client(Preferences::modern(), "SSH-2.0-a").unwrap(), far);
        let let_in = async {
            near.establish().await.unwrap();
            near.leg.send(&[msg::USERAUTH_SUCCESS]).unwrap();
            near.drain().await.unwrap();
        };
        let (success, ()) = tokio::join!(far.next(), let_in);
        assert_eq!(success.unwrap(), [msg::USERAUTH_SUCCESS]);
        assert!(!far.leg.answers_pings());
        let wire = Wire::new(near, WINDOW);
        let (told, events) = unbounded_channel();
        let driver = tokio::spawn({
            let wire = wire.clone();
            async move {
                loop {
                    match poll_fn(|cx| wire.poll_event(cx)).await {
                        Ok(event) => drop(told.send(event)),
                        Err(error) => {
                            wire.end();
                            return error;
                        }
                    }
                }
            }
        });
        Self { wire, far, events, driver }
    }

    async fn say(&mut self, message: &[u8]) {
        self.far.leg.send(message).unwrap();
        self.far.drain().await.unwrap();
    }

    async fn hear(&mut self) -> Vec<u8> {
        tokio::time::timeout(Duration::from_secs(60), self.far.next()).await.expect("nothing came").unwrap()
    }

    async fn event(&mut self) -> Event {
        tokio::time::timeout(Duration::from_secs(60), self.events.recv()).await.expect("no event came").unwrap()
    }

    /// A jump's channel, opened from both ends.
    async fn open(&mut self, number: u32, window: u32) -> ChannelStream<DuplexStream> {
        self.say(&jump(number, window, b"ins-a", 22)).await;
        let Event::Open { channel, .. } = self.event().await else { panic!() };
        self.wire.confirm(channel);
        self.wire.flush();
        assert_eq!(self.hear().await, message(msg::CHANNEL_OPEN_CONFIRMATION, &[number, channel, WINDOW, 32 * 1024]));
        ChannelStream::new(self.wire.clone(), channel)
    }

    /// What the connection's task ends with over these messages.
    async fn ends_with(mut self, messages: &[Vec<u8>]) -> String {
        for message in messages {
            self.say(message).await;
        }
        tokio::time::timeout(Duration::from_secs(60), self.driver).await.expect("it goes on").unwrap().to_string()
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_pass_both_ways_to_the_end_of_each_and_the_channel_is_closed_once() {
    let mut house = House::new().await;
    let mut stream = house.open(7, 1 << 20).await;
    house.say(&data(0, b"up")).await;
    house.say(&data(0, b"stream")).await;
    house.say(&message(msg::CHANNEL_EOF, &[0])).await;
    let mut up = String::new();
    stream.read_to_string(&mut up).await.unwrap();
    assert_eq!(up, "upstream");
    let down = vec![0x5a; 80 * 1024];
    stream.write_all(&down).await.unwrap();
    stream.shutdown().await.unwrap();
    for expected in down.chunks(32 * 1024) {
        assert!(house.hear().await == data(7, expected));
    }
    assert_eq!(house.hear().await, message(msg::CHANNEL_EOF, &[7]));
    assert_eq!(stream.write(b"more").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    drop(stream);
    assert_eq!(house.hear().await, message(msg::CHANNEL_CLOSE, &[7]));
    house.say(&message(msg::CHANNEL_CLOSE, &[0])).await;
    assert_eq!(house.event().await, Event::Closed { channel: 0 });
    assert!(house.ends_with(&[data(0, b"x")]).await.contains("a channel that is not open"));
}

#[tokio::test(start_paused = true)]
async fn what_came_before_a_close_is_read_and_the_close_is_answered_at_once() {
    let mut house = House::new().await;
    let mut stream = house.open(7, 1 << 20).await;
    house.say(&data(0, b"last words")).await;
    house.say(&message(msg::CHANNEL_CLOSE, &[0])).await;
    assert_eq!(house.hear().await, message(msg::CHANNEL_CLOSE, &[7]));
    assert_eq!(stream.write(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    let mut read = String::new();
    stream.read_to_string(&mut read).await.unwrap();
    assert_eq!(read, "last words");
    drop(stream);
    // The number is free again, and nothing more is said of it.
    house.say(&request(1, "x", true, b"")).await;
    assert!(house.driver.await.unwrap().to_string().contains("not open"));
}

#[tokio::test(start_paused = true)]
async fn more_is_granted_for_what_was_taken_and_a_channel_that_stands_still_holds_up_no_other() {
    let mut house = House::new().await;
    let mut still = house.open(1, 1 << 20).await;
    let mut moves = house.open(2, 1 << 20).await;
    for size in [1000, 30_000, 30_000, WINDOW as usize - 61_000] {
        house.say(&data(0, &vec![1; size])).await;
    }
    let (mut sent, mut granted) = (0, WINDOW);
    for round in 0..200_u8 {
        house.say(&data(1, &[round; 8 * 1024])).await;
        sent += 8 * 1024;
        let mut got = [0; 8 * 1024];
        moves.read_exact(&mut got).await.unwrap();
        assert!(got == [round; 8 * 1024]);
        let adjust = house.hear().await;
        let mut reader = Reader::new(&adjust);
        assert_eq!((reader.u8().unwrap(), reader.u32().unwrap()), (msg::CHANNEL_WINDOW_ADJUST, 2));
        granted += reader.u32().unwrap();
    }
    assert_eq!(granted, WINDOW + sent);
    // The other one has all that it was granted, in no more memory, and goes on where it is taken.
    assert_eq!(house.wire.lock().channels.most_memory(), WINDOW as usize);
    let mut got = vec![0; WINDOW as usize];
    still.read_exact(&mut got).await.unwrap();
    assert_eq!(house.hear().await[..5], message(msg::CHANNEL_WINDOW_ADJUST, &[1]));
    assert!(house.ends_with(&[data(1, &vec![0; WINDOW as usize + 1])]).await.contains("than its window allows"));
}

#[tokio::test(start_paused = true)]
async fn a_writer_waits_for_the_peers_window_and_no_longer() {
    let mut house = House::new().await;
    let mut stream = house.open(7, 10).await;
    let writing = tokio::spawn(async move {
        stream.write_all(b"0123456789abcdef").await.unwrap();
        stream.flush().await.unwrap();
        stream
    });
    assert_eq!(house.hear().await, data(7, b"0123456789"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!writing.is_finished());
    house.say(&message(msg::CHANNEL_WINDOW_ADJUST, &[0, 4])).await;
    assert_eq!(house.hear().await, data(7, b"abcd"));
    house.say(&message(msg::CHANNEL_WINDOW_ADJUST, &[0, 4])).await;
    assert_eq!(house.hear().await, data(7, b"ef"));
    let _stream = writing.await.unwrap();
    assert!(house.ends_with(&[message(msg::CHANNEL_WINDOW_ADJUST, &[0, u32::MAX])]).await.contains("larger than 4 GiB"));
}

#[tokio::test(start_paused = true)]
async fn to_a_peer_that_reads_nothing_a_bounded_much_is_sealed_and_the_rest_when_it_reads() {
    let mut house = House::new().await;
    let mut stream = house.open(7, u32::MAX).await;
    let mut written = 0;
    let portion = [9; 30_000];
    while let Ok(n) = tokio::time::timeout(Duration::from_secs(1), stream.write(&portion)).await {
        written += n.unwrap();
    }
    assert!((HIGH_WATER..HIGH_WATER + (256 << 10)).contains(&written), "{written}");
    let blocked = tokio::spawn(async move { stream.write(&portion).await });
    let mut read = 0;
    while read < written {
        read += house.hear().await.len() - 9;
    }
    assert!(blocked.await.unwrap().unwrap() > 0);
}

#[tokio::test(start_paused = true)]
async fn opens_and_requests_are_answered_in_their_order() {
    let mut house = House::new().await;
    let mut unknown = with_string(vec![msg::CHANNEL_OPEN], b"x11");
    unknown.extend(&message(0, &[3, 1, 1])[1..]);
    house.say(&unknown).await;
    assert_eq!(house.hear().await[..9], message(msg::CHANNEL_OPEN_FAILURE, &[3, reason::UNKNOWN_TYPE]));
    house.say(&jump(4, 1, b"\xff\xfe", 70_000)).await;
    let host = "\u{fffd}\u{fffd}".to_owned();
    assert_eq!(house.event().await, Event::Open { channel: 0, kind: Kind::DirectTcpip { host, port: 70_000 }, is_crowded: false });
    // Unanswered, and let go of: refused.
    drop(ChannelStream::new(house.wire.clone(), 0));
    assert_eq!(house.hear().await[..9], message(msg::CHANNEL_OPEN_FAILURE, &[4, reason::PROHIBITED]));

    house.say(&session(5)).await;
    assert_eq!(house.event().await, Event::Open { channel: 1, kind: Kind::Session, is_crowded: false });
    house.wire.confirm(1);
    house.wire.flush();
    let stream = ChannelStream::new(house.wire.clone(), 1);
    assert_eq!(house.hear().await[0], msg::CHANNEL_OPEN_CONFIRMATION);
    house.say(&request(1, "env", true, b"")).await;
    assert_eq!(house.hear().await, message(msg::CHANNEL_FAILURE, &[5]));
    house.say(&request(1, "env", false, b"")).await;
    house.say(&request(1, "pty-req", true, b"")).await;
    assert_eq!(house.event().await, Event::Request { channel: 1, request: Request::Pty, replies: true });
    house.wire.answer(1, true);
    house.wire.flush();
    assert_eq!(house.hear().await, message(msg::CHANNEL_SUCCESS, &[5]));
    house.say(&request(1, "exec", false, &with_string(Vec::new(), b"ls"))).await;
    assert_eq!(house.event().await, Event::Request { channel: 1, request: Request::Run(b"ls".to_vec()), replies: false });
    // What is sent to a command is read by nobody, and never fills its window.
    for _ in 0..8 {
        house.say(&data(1, &vec![0; WINDOW as usize / 4])).await;
        assert_eq!(house.hear().await, message(msg::CHANNEL_WINDOW_ADJUST, &[5, WINDOW / 4]));
    }
    assert_eq!(poll_fn(|cx| stream.poll_say(cx, Some(1), b"no")).await.unwrap(), 2);
    stream.end_data();
    stream.request("exit-status", &7_u32.to_be_bytes());
    drop(stream);
    assert_eq!(house.hear().await, with_string(message(msg::CHANNEL_EXTENDED_DATA, &[5, 1]), b"no"));
    assert_eq!(house.hear().await, message(msg::CHANNEL_EOF, &[5]));
    assert_eq!(house.hear().await, request(5, "exit-status", false, &7_u32.to_be_bytes()));
    assert_eq!(house.hear().await, message(msg::CHANNEL_CLOSE, &[5]));
    // A keepalive of either kind, and what nobody knows.
    for (asks, answer) in [
        ([with_string(vec![msg::GLOBAL_REQUEST], b"keepalive@openssh.com"), vec![1]].concat(), vec![msg::REQUEST_FAILURE]),
        (vec![msg::PING, 0, 0, 0, 0], vec![]),
        ([with_string(vec![msg::GLOBAL_REQUEST], b"no-more-sessions@openssh.com"), vec![1]].concat(), vec![msg::REQUEST_FAILURE]),
    ] {
        house.say(&asks).await;
        if !answer.is_empty() {
            assert_eq!(house.hear().await, answer);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_peer_does_not_close_is_counted_against_it() {
    let mut house = House::new().await;
    let mut crowded = 0;
    for number in 0..100 {
        house.say(&jump(number, 1 << 20, b"ins-a", 22)).await;
        let Event::Open { channel, is_crowded, .. } = house.event().await else { panic!() };
        match is_crowded {
            true => house.wire.refuse(channel, reason::SHORTAGE, ""),
            false => house.wire.confirm(channel),
        }
        crowded += usize::from(is_crowded);
        drop(ChannelStream::new(house.wire.clone(), channel));
    }
    assert_eq!(crowded, 100 - Channels::MOST);
    for channel in 0..Channels::MOST {
        house.say(&message(msg::CHANNEL_CLOSE, &[channel as u32])).await;
        house.event().await;
    }
    house.say(&jump(7, 1 << 20, b"ins-a", 22)).await;
    assert!(matches!(house.event().await, Event::Open { is_crowded: false, .. }));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_ends_ends_its_channels_behind_what_came() {
    let mut house = House::new().await;
    let mut stream = house.open(7, 1 << 20).await;
    house.say(&data(0, b"last words")).await;
    drop(house.far);
    assert!(matches!(house.driver.await.unwrap(), TransportError::Closed));
    let mut read = String::new();
    stream.read_to_string(&mut read).await.unwrap();
    assert_eq!(read, "last words");
    assert_eq!(stream.write(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test(start_paused = true)]
async fn what_breaks_the_protocol_ends_the_connection() {
    let open = || async {
        let mut house = House::new().await;
        let stream = house.open(7, 1 << 20).await;
        (house, stream)
    };
    for (messages, told) in [
        (vec![data(9, b"x")], "a channel that is not open"),
        (vec![message(msg::CHANNEL_EOF, &[0]), data(0, b"x")], "behind the end"),
        (vec![jump(1, 1, b"ins-a", 22), data(1, b"x")], "a channel that is not open"),
        (vec![vec![msg::CHANNEL_OPEN, 0, 0, 0, 200]], "shorter than its fields"),
        (vec![message(msg::CHANNEL_DATA, &[0, 100])], "shorter than its fields"),
        (vec![message(msg::CHANNEL_CLOSE, &[0]), message(msg::CHANNEL_CLOSE, &[0])], "a channel that is not open"),
    ] {
        let (house, _stream) = open().await;
        let ended = house.ends_with(&messages).await;
        assert!(ended.contains(told), "{ended}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_rests_holds_no_memory_and_goes_on_afterwards() {
    let mut house = House::new().await;
    let mut stream = house.open(7, 1 << 20).await;
    house.say(&data(0, &[7; 30_000])).await;
    stream.read_exact(&mut [0; 30_000]).await.unwrap();
    assert_eq!(house.hear().await[0], msg::CHANNEL_WINDOW_ADJUST);
    let look = |house: &House| house.wire.look(Instant::now(), KeyLimits::default()).unwrap();
    assert!(look(&house));
    assert!(!look(&house));
    let held = house.wire.lock().connection.as_mut().unwrap().leg.received().capacity();
    assert_eq!(held, 0);
    house.say(&data(0, b"again")).await;
    stream.read_exact(&mut [0; 5]).await.unwrap();
    assert!(look(&house));
    // After an hour the keys are changed, by whoever looks, and whatever passes meanwhile arrives.
    tokio::time::advance(KeyLimits::default().rekey_interval).await;
    look(&house);
    tokio::time::advance(Duration::from_secs(1)).await;
    look(&house);
    stream.write_all(b"through").await.unwrap();
    stream.flush().await.unwrap();
    assert_eq!(house.hear().await, data(7, b"through"));
}

#[tokio::test(start_paused = true)]
async fn answers_that_wait_for_the_end_of_a_key_exchange_are_bounded_and_its_end_is_still_read() {
    let unknown = [with_string(vec![msg::CHANNEL_OPEN], b"x11"), message(0, &[3, 1, 1])[1..].to_vec()].concat();
    for opens in [1_000, 40_000] {
        let mut house = House::new().await;
        house.wire.lock().act(|_, leg| leg.start_kex()).unwrap();
        house.wire.flush();
        // It has not seen that new keys are asked for.
        let mut ended = false;
        for _ in 0..opens {
            house.far.leg.send(&unknown).unwrap();
            ended = tokio::time::timeout(Duration::from_secs(60), house.far.drain()).await.expect("it reads no more").is_err();
            if ended {
                break;
            }
        }
        if opens < 40_000 {
            for _ in 0..opens {
                assert_eq!(house.hear().await[0], msg::CHANNEL_OPEN_FAILURE);
            }
            assert!(!house.driver.is_finished());
        } else {
            assert!(ended && matches!(house.driver.await.unwrap(), TransportError::HeldTooMuch));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_requests_gives_way_to_others_now_and_then() {
    let mut house = House::new().await;
    house.say(&session(5)).await;
    house.event().await;
    house.wire.confirm(0);
    house.wire.flush();
    house.hear().await;
    house.driver.abort();
    tokio::task::yield_now().await;
    for _ in 0..300 {
        house.far.leg.send(&request(0, "pty-req", false, b"")).unwrap();
    }
    house.far.drain().await.unwrap();
    let (mut turns, mut events) = (0, 0);
    poll_fn(|cx| {
        turns += 1;
        for taken in 0.. {
            match house.wire.poll_event(cx) {
                Poll::Ready(event) => events += usize::from(event.is_ok()),
                Poll::Pending => {
                    assert!(taken <= EVENTS);
                    break;
                }
            }
        }
        if events == 300 { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    assert!(turns >= 5, "{turns}");
}

#[tokio::test(start_paused = true)]
async fn what_comes_late_for_a_channel_that_was_closed_ends_nothing() {
    let mut house = House::new().await;
    let stream = house.open(7, 1 << 20).await;
    house.say(&message(msg::CHANNEL_CLOSE, &[0])).await;
    house.event().await;
    house.say(&message(msg::CHANNEL_WINDOW_ADJUST, &[0, 1])).await;
    house.say(&message(msg::CHANNEL_EOF, &[0])).await;
    drop(stream);
    house.say(&message(msg::CHANNEL_WINDOW_ADJUST, &[0, 1])).await;
    house.say(&session(8)).await;
    assert!(matches!(house.event().await, Event::Open { kind: Kind::Session, .. }));
}

/// As the connection's end does: the last bytes leave although nobody else looks after them.
#[tokio::test(start_paused = true)]
async fn what_was_written_before_the_end_of_a_connection_is_still_sent() {
    let mut house = House::new().await;
    let mut stream = house.open(7, u32::MAX).await;
    stream.write_all(&[5; 200_000]).await.unwrap();
    drop(stream);
    house.driver.abort();
    tokio::task::yield_now().await;
    let wire = house.wire.clone();
    let parting = tokio::spawn(async move {
        poll_fn(|cx| wire.poll_part(cx)).await;
        wire.end();
    });
    let mut got = 0;
    loop {
        match house.hear().await {
            closed if closed[0] == msg::CHANNEL_CLOSE => break,
            data => got += data.len() - 9,
        }
    }
    assert_eq!(got, 200_000);
    parting.await.unwrap();
}
