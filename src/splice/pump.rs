use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until};

use super::Direction;
use super::gate::{Gate, Verdict};
use super::manners::{Heed, Manners};
use super::orders::{Farewell, Given, Orders, Regrant};
use super::tap::{MAX_EVENTS, Tap};
use crate::access::Grant;
use crate::audit::{Audit, AuditError, Subject, Text};
use crate::recording::{Lost, Tape};
use crate::tasks::leave;
use crate::transport::{Connection, Filled, IDLE_TICK, KeyClock, KeyLimits, Leg, Received, TICK, TransportError, msg};
use crate::turns::{self, LastTurn};

/// Bytes that may wait for one peer before the other one is read no further.
const HIGH_WATER: usize = 256 * 1024;
/// The same while the side that is read is in key exchange and must be read on; more ends the session.
const HIGHEST_WATER: usize = 8 * 1024 * 1024;

/// Deadlines of a running session.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub keys: KeyLimits,
    /// What is still to be written when one side has ended, and for the operator to close when told of it.
    pub linger: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { keys: KeyLimits::default(), linger: Duration::from_secs(5) }
    }
}

/// How a session ended.
#[derive(Debug)]
pub struct Ended {
    pub reason: String,
    pub bytes_up: u64,
    pub bytes_down: u64,
}

/// Who ended a session, and how.
enum End {
    Operator(TransportError),
    Instance(TransportError),
    Audit(AuditError),
    Broker(Farewell),
}

type Blame = fn(TransportError) -> End;

/// A session whose two legs stand: moves messages until either side ends.
///
/// Both directions run in one task: a hop between tasks costs a wake for every batch.
pub struct Splice<D, U> {
    downstream: Connection<D>,
    upstream: Connection<U>,
    gate: Gate,
    tap: Tap,
    orders: Orders,
    audit: Audit,
    subject: Subject,
    limits: Limits,
    /// What the operator's side and the instance understand.
    manners: (Manners, Manners),
    clocks: (KeyClock, KeyClock),
    /// How far the messages of each side came, up and down.
    reached: (Moved, Moved),
    last_turn: LastTurn,
    /// The way that something is to be expected on: an answer mostly follows what it answers.
    comes_next: Direction,
    /// What orders and the tick have.
    waker: Option<Waker>,
    /// Whether anything moved since the last tick.
    moved: bool,
    /// Nothing has moved for a whole tick, nor since.
    rests: bool,
}

impl<D, U> Splice<D, U>
where
    D: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    pub fn new(downstream: Connection<D>, upstream: Connection<U>, gate: Gate, audit: Audit, subject: Subject, limits: Limits) -> Self {
        Self {
            manners: (Manners::of(&downstream.leg), Manners::of(&upstream.leg)),
            downstream,
            upstream,
            gate,
            tap: Tap::default(),
            orders: Orders::default(),
            audit,
            subject,
            limits,
            clocks: Default::default(),
            // What the handshakes left comes before what is read.
            reached: (Moved::Blocked, Moved::Blocked),
            last_turn: LastTurn::default(),
            comes_next: Direction::Up,
            waker: None,
            moved: true,
            rests: false,
        }
    }

    /// The session can then be ended through these.
    #[must_use]
    pub fn with_orders(mut self, orders: Orders) -> Self {
        self.orders = orders;
        self
    }

    /// The session is then recorded.
    #[must_use]
    pub fn with_tape(mut self, tape: Option<Tape>) -> Self {
        self.tap.tape = tape;
        self
    }

    /// Runs to the end of the session; what either side still has to hear is written within [`Limits::linger`].
    pub fn run(self) -> impl Future<Output = Ended> {
        // In a place of its own: a future holds what it was given twice, and so does every one around it, as long as the session lasts.
        Box::new(self).run_to_its_end()
    }

    async fn run_to_its_end(mut self: Box<Self>) -> Ended {
        let mut tick = std::pin::pin!(sleep_until(Instant::now() + TICK));
        let end = poll_fn(|cx| self.poll_run(cx, tick.as_mut())).await;
        let orders = self.orders.clone();
        orders.answering(self.wind_up(end)).await
    }

    /// What is still to be said, written and told.
    async fn wind_up(mut self: Box<Self>, end: End) -> Ended {
        let reason = self.say_goodbye(&end);
        self.tap.end();
        let (downstream, upstream) = (&mut self.downstream, &mut self.upstream);
        let operators = async {
            match end {
                End::Operator(_) => downstream.drain().await,
                // A client that still writes finds its stream closed before it reads why.
                _ => downstream.part().await,
            }
        };
        let linger = async { tokio::join!(operators, upstream.drain()) };
        let _ = tokio::time::timeout(self.limits.linger, linger).await;
        let mut events = std::mem::take(&mut self.tap.events);
        if let Some(tape) = self.tap.tape.take() {
            events.extend(tape.finish().await);
        }
        for event in events {
            self.audit.tell(&self.subject, event, "the end of a channel").await;
        }
        Ended { reason, bytes_up: self.tap.bytes_up, bytes_down: self.tap.bytes_down }
    }

    /// Tells each side what the other one said last.
    fn say_goodbye(&mut self, end: &End) -> String {
        let (to_operator, to_instance, reason) = match end {
            End::Operator(error) => (None, Some(goodbye(error)), format!("operator: {error}")),
            End::Instance(error) => (Some(goodbye(error)), None, format!("instance: {error}")),
            End::Audit(error) => {
                let text = "ssh-broker: the session cannot be audited any more".to_owned();
                let said = (msg::reason::BY_APPLICATION, text);
                (Some(said.clone()), Some(said), format!("audit: {error}"))
            }
            End::Broker(Farewell { sentence, reason }) => {
                let to_instance = (msg::reason::BY_APPLICATION, "ended by the broker".to_owned());
                (Some((msg::reason::BY_APPLICATION, sentence.clone())), Some(to_instance), reason.clone())
            }
        };
        for (leg, said) in [(&mut self.downstream.leg, to_operator), (&mut self.upstream.leg, to_instance)] {
            if let Some((code, text)) = said
                && let Err(error) = leg.disconnect(code, &text)
            {
                tracing::debug!(%error, "failed to say good-bye");
            }
        }
        reason
    }

    /// One turn: a round, and one more for each turn that other sessions had meanwhile. Then the door's task sends what was read.
    fn poll_run(&mut self, cx: &mut Context<'_>, mut tick: Pin<&mut Sleep>) -> Poll<End> {
        for _ in 0..self.last_turn.rounds(turns::begin()) {
            match self.poll_once(cx, tick.as_mut()) {
                Ok(true) => {}
                Ok(false) => {
                    // Behind the reads, which take memory before they find nothing.
                    if self.rests {
                        self.downstream.release_idle_memory();
                        self.upstream.release_idle_memory();
                    }
                    return Poll::Pending;
                }
                Err(end) => return Poll::Ready(end),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// One round each way. `false` when every source was found empty and has our waker.
    fn poll_once(&mut self, cx: &mut Context<'_>, tick: Pin<&mut Sleep>) -> Result<bool, End> {
        let waits = leave(&mut self.waker, cx);
        if !waits || self.orders.has_news() {
            self.heed(cx)?;
        }
        let (up, down) = match self.comes_next {
            Direction::Up => {
                let up = self.go_up(cx)?;
                (up, self.go_down(cx)?)
            }
            Direction::Down => {
                let down = self.go_down(cx)?;
                (self.go_up(cx)?, down)
            }
        };
        if !waits || tick.is_elapsed() {
            self.poll_tick(cx, tick)?;
        }
        for (leg, blame) in [(&mut self.downstream.leg, End::Operator as Blame), (&mut self.upstream.leg, End::Instance)] {
            if leg.wants_rekey() {
                leg.start_kex().map_err(blame)?;
            }
        }
        // What was put there for another reason than to be passed on.
        drain(&mut self.upstream, End::Instance, cx)?;
        drain(&mut self.downstream, End::Operator, cx)?;
        // A side that stopped for want of room goes on when the writes above have made some; one that was not read is read then.
        let (room, tap_has_room) = (self.room(), self.tap.has_room());
        let goes_on = |has_room: bool, reached: Moved, was_read: bool| {
            has_room
                && match reached {
                    Moved::Blocked => tap_has_room,
                    Moved::All => !was_read,
                }
        };
        let goes_on = goes_on(room.0, self.reached.0, up.was_read) || goes_on(room.1, self.reached.1, down.was_read);
        let again = [up.filled, down.filled].contains(&Some(Filled::Some)) || up.told || down.told || goes_on;
        match (up.filled, down.filled) {
            (Some(_), None) => self.comes_next = Direction::Down,
            (None, Some(_)) => self.comes_next = Direction::Up,
            _ => {}
        }
        if again || up.filled.or(down.filled).is_some() {
            (self.moved, self.rests) = (true, false);
        }
        Ok(again)
    }

    /// Bytes in, messages across, events out, bytes out.
    #[inline(never)]
    fn go_up(&mut self, cx: &mut Context<'_>) -> Result<Went, End> {
        let Self { downstream, upstream, reached, manners, gate, tap, .. } = self;
        let read = read_and_move(Direction::Up, (downstream, upstream), &mut reached.0, manners.1, gate, tap, cx)?;
        let told = self.tell(cx)?;
        drain(&mut self.upstream, End::Instance, cx)?;
        Ok(Went { told, ..read })
    }

    #[inline(never)]
    fn go_down(&mut self, cx: &mut Context<'_>) -> Result<Went, End> {
        let Self { downstream, upstream, reached, manners, gate, tap, .. } = self;
        let read = read_and_move(Direction::Down, (upstream, downstream), &mut reached.1, manners.0, gate, tap, cx)?;
        let told = self.tell(cx)?;
        drain(&mut self.downstream, End::Operator, cx)?;
        Ok(Went { told, ..read })
    }

    /// Whether there is room for more messages up, and down.
    fn room(&self) -> (bool, bool) {
        let (operators, instances) = (&self.downstream.leg, &self.upstream.leg);
        (has_room(operators, instances.waiting()), has_room(instances, operators.waiting()))
    }

    /// Behind the messages: what stays is then what the recorder and the audit have our waker for. Whether it makes room for more.
    fn tell(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if self.tap.tape.is_some() {
            self.poll_tape(cx)?;
        }
        Ok(!self.tap.events.is_empty() && self.poll_events(cx)?)
    }

    #[inline(never)]
    fn poll_tape(&mut self, cx: &Context<'_>) -> Result<(), End> {
        let Some(lost) = self.tap.tape.as_mut().and_then(|tape| tape.poll(cx).err()) else { return Ok(()) };
        let Lost { event, sentence, reason } = *lost;
        self.tap.events.push_back(event);
        match sentence {
            Some(sentence) => Err(End::Broker(Farewell { sentence, reason })),
            None => Ok(()),
        }
    }

    /// Does what was ordered.
    #[cold]
    fn heed(&mut self, cx: &Context<'_>) -> Result<(), End> {
        let Some(given) = self.orders.take(cx) else { return Ok(()) };
        let Given { farewell, notices, regrant } = *given;
        if let Some(farewell) = farewell {
            return Err(End::Broker(farewell));
        }
        if let Some(Regrant { grant, farewell }) = regrant {
            self.regrant(grant, farewell)?;
        }
        for text in notices {
            self.gate.notice(&text);
            say(&mut self.gate, &mut self.downstream.leg)?;
        }
        Ok(())
    }

    fn regrant(&mut self, grant: Grant, farewell: Farewell) -> Result<(), End> {
        if !self.gate.fits(&grant) || !self.tap.fits(&grant) {
            return Err(End::Broker(farewell));
        }
        self.gate.regrant(grant);
        Ok(())
    }

    #[inline(never)]
    fn poll_events(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let was_full = self.tap.events.len() >= MAX_EVENTS;
        while !self.tap.events.is_empty() {
            match self.audit.poll_reserve(cx) {
                Poll::Pending => break,
                Poll::Ready(Err(error)) => return Err(End::Audit(error)),
                Poll::Ready(Ok(())) => {
                    if let Some(event) = self.tap.events.pop_front() {
                        self.audit.send_reserved(&self.subject, event).map_err(End::Audit)?;
                    }
                }
            }
        }
        Ok(was_full && self.tap.events.len() < MAX_EVENTS)
    }

    #[cold]
    fn poll_tick(&mut self, cx: &mut Context<'_>, mut tick: Pin<&mut Sleep>) -> Result<(), End> {
        while tick.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            self.clocks.0.look(&mut self.downstream.leg, now, self.limits.keys).map_err(End::Operator)?;
            self.clocks.1.look(&mut self.upstream.leg, now, self.limits.keys).map_err(End::Instance)?;
            let moves =
                std::mem::take(&mut self.moved) || self.downstream.leg.in_kex() || self.upstream.leg.in_kex() || !self.tap.has_room();
            self.rests = !moves;
            tick.as_mut().reset(now + if moves { TICK } else { IDLE_TICK });
        }
        Ok(())
    }
}

/// What a side says to the other about an end that it brought.
fn goodbye(error: &TransportError) -> (u32, String) {
    match error {
        TransportError::Disconnected { code, text } => (*code, Text::new(text.as_bytes()).as_str().to_owned()),
        TransportError::Closed | TransportError::Io(_) => (msg::reason::BY_APPLICATION, "the other side closed the connection".to_owned()),
        other => (msg::reason::PROTOCOL_ERROR, format!("ssh-broker: {other}")),
    }
}

/// Whether more may be read from a side whose messages go to a leg where `waiting` bytes wait.
fn has_room(from: &Leg, waiting: usize) -> bool {
    waiting < if from.in_kex() { HIGHEST_WATER } else { HIGH_WATER }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moved {
    /// Every whole message that had come.
    All,
    /// Until there was no room.
    Blocked,
}

/// One way of a round.
#[derive(Default)]
struct Went {
    was_read: bool,
    filled: Option<Filled>,
    /// Whether the audit has taken what there was no room for any more.
    told: bool,
}

fn read_and_move<A, B>(
    direction: Direction,
    (from, to): (&mut Connection<A>, &mut Connection<B>),
    reached: &mut Moved,
    manners: Manners,
    gate: &mut Gate,
    tap: &mut Tap,
    cx: &mut Context<'_>,
) -> Result<Went, End>
where
    A: AsyncRead + AsyncWrite + Unpin,
{
    let (blame, _) = ends(direction);
    let mut went = Went { was_read: *reached == Moved::All && has_room(&from.leg, to.leg.waiting()), ..Went::default() };
    if went.was_read {
        went.filled = read_more(from, cx).map_err(blame)?;
    }
    *reached = move_messages(direction, from, to, manners, gate, tap)?;
    Ok(went)
}

/// Takes what has come from one side to the other, of which `manners` tells. Each message is opened where it will be sealed: it is never
/// copied.
fn move_messages<A, B>(
    direction: Direction,
    from: &mut Connection<A>,
    to: &mut Connection<B>,
    manners: Manners,
    gate: &mut Gate,
    tap: &mut Tap,
) -> Result<Moved, End> {
    let (from_end, to_end) = ends(direction);
    while has_room(&from.leg, to.leg.waiting()) && tap.has_room() {
        match from.leg.receive(to.leg.outgoing()).map_err(from_end)? {
            Received::NeedMore => return Ok(Moved::All),
            Received::Transport => {}
            Received::Message { start, len } => {
                let message = to.leg.outgoing().since(start).get_mut(Leg::HEADER..Leg::HEADER + len).unwrap_or_default();
                let heed = manners.heed(direction, message);
                if heed != Heed::Pass {
                    if heed == Heed::Answer {
                        from.leg.answer_ping(message).map_err(from_end)?;
                    }
                    to.leg.outgoing().truncate(start);
                    continue;
                }
                if gate.passes(message) {
                    tap.observe(direction, message, None).map_err(from_end)?;
                } else if let Some(instead) = judge(direction, message, gate, tap).map_err(from_end)? {
                    to.leg.outgoing().truncate(start);
                    if !instead.is_empty() {
                        to.leg.send(&instead).map_err(to_end)?;
                    }
                    continue;
                }
                to.leg.forward(start, len).map_err(to_end)?;
                if gate.has_words() {
                    let operators = if direction == Direction::Up { &mut from.leg } else { &mut to.leg };
                    say(gate, operators)?;
                }
            }
        }
    }
    Ok(Moved::Blocked)
}

/// Lets the gate judge a message, and the tap see it: gives what goes in its place, which may be nothing; `None` when it goes itself.
#[inline(never)]
fn judge(direction: Direction, message: &mut [u8], gate: &mut Gate, tap: &mut Tap) -> Result<Option<Vec<u8>>, TransportError> {
    let (event, instead) = match gate.judge(direction, message) {
        Verdict::Pass => (None, None),
        Verdict::Refused(refusal) => return tap.observe(direction, message, Some(&refusal)).map(|()| None),
        Verdict::Marked(event) => (Some(*event), None),
        Verdict::Replaced(instead) => (None, Some(instead)),
        Verdict::Drop => return Ok(Some(Vec::new())),
        Verdict::Misbehaved(what) => return Err(TransportError::Misbehaved(what)),
    };
    tap.observe(direction, message, None)?;
    tap.events.extend(event);
    Ok(instead)
}

/// Sends the operator what the gate has to say, before anything else passes. To one that takes nothing, nothing is said.
fn say(gate: &mut Gate, operators: &mut Leg) -> Result<(), End> {
    for message in gate.words() {
        if operators.waiting() < HIGH_WATER {
            operators.send(&message).map_err(End::Operator)?;
        }
    }
    Ok(())
}

/// Whose ends the errors of a way are: of where messages come from, and of where they go.
fn ends(direction: Direction) -> (Blame, Blame) {
    match direction {
        Direction::Up => (End::Operator, End::Instance),
        Direction::Down => (End::Instance, End::Operator),
    }
}

/// What one side still has to be sent is no reason to leave the other unread; errors of writing end the session all the same.
fn drain<S: AsyncRead + AsyncWrite + Unpin>(to: &mut Connection<S>, blame: Blame, cx: &mut Context<'_>) -> Result<(), End> {
    match to.poll_drain(cx) {
        Poll::Ready(Err(error)) => Err(blame(error)),
        _ => Ok(()),
    }
}

/// What came; `None` when nothing did. A side that has closed is an end.
fn read_more<S: AsyncRead + AsyncWrite + Unpin>(from: &mut Connection<S>, cx: &mut Context<'_>) -> Result<Option<Filled>, TransportError> {
    match from.poll_fill(cx)? {
        Poll::Ready(Filled::Closed) => Err(TransportError::Closed),
        Poll::Ready(filled) => Ok(Some(filled)),
        Poll::Pending => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;
    use crate::access::Capability;
    use crate::splice::gate::tests::{grant, open, request};
    use crate::splice::tests::leg_over;

    async fn leg() -> (Connection<DuplexStream>, Connection<DuplexStream>) {
        let (left, right) = duplex(256 * 1024);
        leg_over(left, right).await
    }

    fn splice<D, U>(downstream: Connection<D>, upstream: Connection<U>, allow: &[Capability]) -> Splice<D, U>
    where
        D: AsyncRead + AsyncWrite + Unpin,
        U: AsyncRead + AsyncWrite + Unpin,
    {
        let (audit, _writer) = Audit::with_sink(Box::new(std::io::sink()), 10_000);
        Splice::new(downstream, upstream, Gate::new(grant(allow)), audit, Subject::default(), Limits::default())
    }

    #[tokio::test(start_paused = true)]
    async fn more_events_at_once_than_are_kept_hold_nothing_up() {
        let (mut operator, downstream) = leg().await;
        let (upstream, mut instance) = leg().await;
        let splice = splice(downstream, upstream, &[Capability::Shell]);
        let splice = tokio::spawn(splice.run());
        let started = Instant::now();
        for _ in 0..MAX_EVENTS * 3 {
            operator.leg.send(&request("exec", b"id")).unwrap();
        }
        operator.drain().await.unwrap();
        for _ in 0..MAX_EVENTS * 3 {
            assert_eq!(instance.next().await.unwrap().get(9), Some(&b'!'));
        }
        // The clock stands while anything runs: had a tick been waited for, it would show.
        assert!(started.elapsed() < TICK, "{:?}", started.elapsed());
        drop(operator);
        splice.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_rests_holds_no_memory_for_what_may_come() {
        let (mut operator, downstream) = leg().await;
        let (upstream, mut instance) = leg().await;
        let orders = Orders::default();
        let splice = splice(downstream, upstream, &[Capability::Shell]);
        let mut splice = splice.with_orders(orders.clone());
        let mut tick = Box::pin(sleep_until(Instant::now() + TICK));
        let mut held = async |splice: &mut Splice<_, _>| {
            poll_fn(|cx| Poll::Ready(splice.poll_run(cx, tick.as_mut()).is_pending())).await;
            splice.downstream.leg.received().capacity() + splice.upstream.leg.received().capacity()
        };
        assert!(held(&mut splice).await > 0);
        for _ in 0..2 {
            tokio::time::sleep(TICK).await;
            held(&mut splice).await;
        }
        assert_eq!(held(&mut splice).await, 0);
        orders.ask(1);
        assert_eq!((held(&mut splice).await, orders.answered()), (0, 1), "nor when it is only looked after");
        operator.leg.send(&request("exec", b"id")).unwrap();
        operator.drain().await.unwrap();
        assert!(held(&mut splice).await > 0);
        assert_eq!(instance.next().await.unwrap().get(9), Some(&b'!'));
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_is_as_many_rounds_as_others_had_turns_meanwhile() {
        let (mut operator, downstream) = leg().await;
        let (upstream, _instance) = leg().await;
        let mut splice = splice(downstream, upstream, &[Capability::Shell]);
        let mut tick = Box::pin(sleep_until(Instant::now() + TICK));
        let mut turn = async |splice: &mut Splice<_, _>, others: u64| {
            for _ in 0..others {
                turns::begin();
            }
            let before = splice.tap.bytes_up;
            poll_fn(|cx| Poll::Ready(splice.poll_run(cx, tick.as_mut()).is_pending())).await;
            splice.tap.bytes_up - before
        };
        turn(&mut splice, 0).await;
        let mut data = vec![msg::CHANNEL_DATA, 0, 0, 0, 0, 0, 0, 0x70, 0];
        data.resize(9 + 0x7000, 7);
        for _ in 0..8 {
            operator.leg.send(&data).unwrap();
        }
        operator.drain().await.unwrap();
        let alone = [turn(&mut splice, 0).await, turn(&mut splice, 0).await, turn(&mut splice, 0).await];
        let among_others = turn(&mut splice, 7).await;
        assert!(alone.iter().all(|moved| *moved <= 2 * 0x7000), "{alone:?}");
        assert!(among_others >= 3 * 0x7000, "{among_others}");
        assert_eq!(turn(&mut splice, 20).await + among_others + alone.iter().sum::<u64>(), 8 * 0x7000);
    }

    #[tokio::test(start_paused = true)]
    async fn an_order_ends_an_idle_session_and_both_sides_are_told() {
        let (mut operator, downstream) = leg().await;
        let (upstream, mut instance) = leg().await;
        let orders = Orders::default();
        let splice = splice(downstream, upstream, &[]);
        let splice = tokio::spawn(splice.with_orders(orders.clone()).run());
        tokio::task::yield_now().await;
        for sentence in ["ssh-broker: ins-a: over", "too late"] {
            orders.end(Farewell { sentence: sentence.to_owned(), reason: "hours".to_owned() });
        }
        let heard = |error| match error {
            TransportError::Disconnected { code: msg::reason::BY_APPLICATION, text } => text,
            other => panic!("{other}"),
        };
        assert_eq!(heard(operator.next().await.unwrap_err()), "ssh-broker: ins-a: over");
        assert_eq!(heard(instance.next().await.unwrap_err()), "ended by the broker");
        drop(instance);
        tokio::time::sleep(Duration::from_secs(1)).await;
        operator.leg.send(&request("exec", b"id")).unwrap();
        operator.drain().await.expect("the stream stays until the operator has read why");
        assert!(!splice.is_finished());
        drop(operator);
        assert_eq!(splice.await.unwrap().reason, "hours");
    }

    #[tokio::test(start_paused = true)]
    async fn a_leg_that_cannot_ask_for_new_keys_is_the_one_that_ended() {
        for (wears_upstream, blamed) in [(false, "operator: "), (true, "instance: ")] {
            let (operator, mut downstream) = leg().await;
            let (mut upstream, instance) = leg().await;
            let worn = if wears_upstream { &mut upstream.leg } else { &mut downstream.leg };
            worn.wear_out();
            let splice = splice(downstream, upstream, &[]);
            let ended = splice.run().await;
            assert!(ended.reason.starts_with(blamed), "{}", ended.reason);
            drop((operator, instance));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_narrower_grant_ends_a_session_only_when_it_uses_what_is_gone() {
        let (mut operator, downstream) = leg().await;
        let (upstream, mut instance) = leg().await;
        let orders = Orders::default();
        let all = [Capability::Shell, Capability::Exec, Capability::ForwardLocal];
        let splice = splice(downstream, upstream, &all);
        let splice = tokio::spawn(splice.with_orders(orders.clone()).run());
        let farewell = || Farewell { sentence: "ssh-broker: ins-a: over".to_owned(), reason: "policy".to_owned() };

        operator.leg.send(&open("session")).unwrap();
        operator.drain().await.unwrap();
        let mut passed = instance.next().await.unwrap();
        let mut confirmation = vec![msg::CHANNEL_OPEN_CONFIRMATION];
        [0_u32, 0, 1000, 1000].iter().for_each(|number| confirmation.extend(number.to_be_bytes()));
        instance.leg.send(&confirmation).unwrap();
        instance.drain().await.unwrap();
        operator.next().await.unwrap();
        operator.leg.send(&request("exec", b"id")).unwrap();
        operator.drain().await.unwrap();
        passed = instance.next().await.unwrap_or(passed);
        assert_eq!(passed.get(9), Some(&b'e'));

        orders.regrant(grant(&[Capability::Exec]), farewell());
        orders.ask(1);
        let mut forward = open("direct-tcpip");
        forward[5 + "direct-tcpip".len() + 3] = 1;
        operator.leg.send(&forward).unwrap();
        operator.drain().await.unwrap();
        assert_eq!(instance.next().await.unwrap().get(5), Some(&b'!'), "what is gone is refused from now on");
        assert_eq!(orders.answered(), 1);

        orders.regrant(grant(&[Capability::Shell]), farewell());
        assert!(matches!(operator.next().await, Err(TransportError::Disconnected { text, .. }) if text == "ssh-broker: ins-a: over"));
        drop((operator, instance));
        assert_eq!(splice.await.unwrap().reason, "policy");
    }
}
