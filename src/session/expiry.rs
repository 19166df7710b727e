use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep};

use super::Running;
use crate::access::{Code, Failure, Grant};

/// How far ahead the end of hours is looked for: farther than the first warning.
const HORIZON: Duration = Duration::from_secs(600);
/// A clock on the wall can be set: what hours say is asked this often.
const LOOK: Duration = Duration::from_secs(30);
/// When a session is warned: so long before its end, but no earlier than this part of it.
const WARNINGS: [(Duration, u32); 2] = [(Duration::from_secs(300), 2), (Duration::from_secs(60), 10)];

/// Tells what time it is on the wall.
pub type Clock = fn() -> SystemTime;

/// Ends a session, after two warnings, when its hours do (by the clock on the wall) or when it has lasted as long as it may (by a clock that
/// nobody sets), whichever comes first. Returns when it has given that order, never without one.
pub(super) async fn watch(running: &Running, clock: Clock) {
    let (started, mut granted) = (Instant::now(), running.granted());
    loop {
        let grant = granted.borrow_and_update().clone();
        tokio::select! {
            () = watch_grant(running, &grant, started, clock) => return,
            // The sender lives as long as the session.
            _ = granted.changed() => {}
        }
    }
}

async fn watch_grant(running: &Running, grant: &Grant, started: Instant, clock: Clock) {
    if grant.max_session().is_none() && !grant.has_hours() {
        return std::future::pending().await;
    }
    let whole = left(grant, started.elapsed(), clock()).map_or(Duration::MAX, |(left, _)| left);
    let mut warnings = WARNINGS.map(|(before, part)| before.min(whole / part)).into_iter().peekable();
    loop {
        let nearest = left(grant, started.elapsed(), clock());
        if let Some((left, why)) = nearest {
            if left.is_zero() {
                return running.end(&why.failure());
            }
            let mut is_due = false;
            while warnings.next_if(|before| left <= *before).is_some() {
                is_due = true;
            }
            if is_due {
                running.notice(&format!("this session ends in {}: {}", said(left), why.ahead()));
            }
        }
        let until_next = nearest.map(|(left, _)| left.saturating_sub(warnings.peek().copied().unwrap_or_default()));
        let pause = until_next.unwrap_or(LOOK);
        // Not zero: a timer that is early by a little is set again.
        sleep(if grant.has_hours() { pause.min(LOOK) } else { pause }.max(Duration::from_millis(1))).await;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Hours,
    Length(Duration),
}

impl Why {
    fn failure(self) -> Failure {
        let text = match self {
            Self::Hours => "the hours of this session are over".to_owned(),
            Self::Length(length) => format!("this session has lasted {}, as long as it may", humantime::format_duration(length)),
        };
        Failure::new(Code::SessionExpired, text)
    }

    fn ahead(self) -> String {
        match self {
            Self::Hours => "its hours are over then".to_owned(),
            Self::Length(length) => format!("it may last no longer than {}", humantime::format_duration(length)),
        }
    }
}

/// What is left of a session, and what ends it; `None` when the end is not in sight.
fn left(grant: &Grant, lasted: Duration, now: SystemTime) -> Option<(Duration, Why)> {
    let length = grant.max_session().map(|length| (length.saturating_sub(lasted), Why::Length(length)));
    let hours = grant.ends_within(now, HORIZON).map(|left| (left, Why::Hours));
    [length, hours].into_iter().flatten().min_by_key(|(left, _)| *left)
}

/// `5 minutes`, `12 seconds`.
fn said(left: Duration) -> String {
    let seconds = left.as_secs_f64().ceil() as u64;
    let (number, unit) = if seconds < 60 { (seconds, "second") } else { (seconds.div_ceil(60), "minute") };
    format!("{number} {unit}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::task::Poll;
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::access::{Hours, Utc, samples};
    use crate::audit::Subject;

    /// A Monday, 19:00 in UTC.
    fn evening() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_704_067_200 + 19 * 3600)
    }

    fn running(hours: Option<&str>, max_session: Option<u64>) -> Running {
        let mut rule = samples::rule();
        rule.hours = hours.map(|text| Hours::parse(text, |_| Some(Arc::new(Utc))).unwrap()).into_iter().collect();
        rule.max_session = max_session.map(Duration::from_secs);
        Running::new(Subject::default(), samples::grant(rule, evening()), "ins-a".to_owned(), std::time::Instant::now())
    }

    /// What a session hears, each at its second.
    async fn heard(running: Running, clock: Clock) -> Vec<(u64, String)> {
        let (started, orders) = (Instant::now(), running.orders());
        let listening = async {
            let mut heard = Vec::new();
            sleep(Duration::from_millis(500)).await;
            loop {
                let at = started.elapsed().as_secs();
                heard.extend(orders.notices().into_iter().map(|text| (at, text)));
                if let Poll::Ready(farewell) = poll_fn(|cx| Poll::Ready(orders.poll(cx))).await {
                    heard.push((at, farewell.reason));
                    return heard;
                }
                sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::join!(listening, watch(&running, clock)).0
    }

    std::thread_local! {
        static STARTED: std::cell::Cell<Option<Instant>> = const { std::cell::Cell::new(None) };
    }

    /// A wall clock that goes with the paused time of the test.
    fn wall() -> SystemTime {
        let started = STARTED.get().unwrap_or_else(Instant::now);
        STARTED.set(Some(started));
        evening() + started.elapsed()
    }

    /// One that is set forward by an hour after ten minutes.
    fn set_forward() -> SystemTime {
        let now = wall();
        if now < evening() + Duration::from_secs(600) { now } else { now + Duration::from_secs(3600) }
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_time_ends_a_session_after_two_warnings() {
        let heard = heard(running(None, Some(8 * 3600)), wall).await;
        assert_eq!(
            heard,
            [
                (28_500, "ssh-broker: ins-a: this session ends in 5 minutes: it may last no longer than 8h".to_owned()),
                (28_740, "ssh-broker: ins-a: this session ends in 1 minute: it may last no longer than 8h".to_owned()),
                (28_800, "broker: session-expired: this session has lasted 8h, as long as it may".to_owned()),
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn hours_end_one_and_the_earlier_of_both_counts() {
        let at = |heard: &[(u64, String)]| heard.iter().map(|(at, _)| *at).collect::<Vec<_>>();
        let hours = Some("mon 08:00-20:00 UTC");
        let by_hours = heard(running(hours, Some(7200)), wall).await;
        assert_eq!(at(&by_hours), [3300, 3540, 3600]);
        assert!(by_hours[0].1.contains("in 5 minutes: its hours") && by_hours[2].1.contains("hours of this session are over"));
        STARTED.set(None);
        let by_length = heard(running(hours, Some(1800)), wall).await;
        assert_eq!(at(&by_length), [1500, 1740, 1800]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_session_is_warned_within_its_time() {
        let heard = heard(running(None, Some(100)), wall).await;
        assert_eq!(heard.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [50, 90, 100]);
        assert!(heard[1].1.contains("in 10 seconds"), "{heard:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wall_clock_that_is_set_moves_the_hours_and_not_the_length() {
        let hours = heard(running(Some("mon 08:00-20:00 UTC"), None), set_forward).await;
        assert!(hours.len() == 1 && (600..=630).contains(&hours[0].0), "{hours:?}");
        STARTED.set(None);
        let length = heard(running(None, Some(1800)), set_forward).await;
        assert_eq!(length.last().unwrap().0, 1800);
    }

    #[tokio::test(start_paused = true)]
    async fn another_grant_brings_another_end() {
        let (running, shorter) = (running(None, None), running(None, Some(3600)));
        let began = Instant::now();
        let watched = watch(&running, evening);
        tokio::pin!(watched);
        assert!(tokio::time::timeout(Duration::from_secs(1800), &mut watched).await.is_err(), "nothing ends it");
        running.regrant(shorter.grant.clone(), &Failure::new(Code::SessionExpired, "policy"));
        watched.await;
        assert_eq!(began.elapsed().as_secs(), 3600, "it counts from its beginning");
    }
}
