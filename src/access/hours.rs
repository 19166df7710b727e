use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Invalid;

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const DAY: u16 = 24 * 60;

/// What a clock on the wall shows: the day of the week (0 is Monday) and the minute of that day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalMinute {
    pub weekday: u8,
    pub minute: u16,
}

/// Somewhere with a clock on the wall. Knowing the world's time zones is a matter of the edge.
pub trait Zone: fmt::Debug + Send + Sync {
    fn local(&self, at: SystemTime) -> LocalMinute;
}

#[derive(Debug)]
pub struct Utc;

impl Zone for Utc {
    fn local(&self, at: SystemTime) -> LocalMinute {
        let minutes = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / 60;
        // 1970-01-01 was a Thursday.
        let weekday = (minutes / u64::from(DAY) + 3) % 7;
        LocalMinute { weekday: weekday as u8, minute: (minutes % u64::from(DAY)) as u16 }
    }
}

/// When a grant counts: `mon-fri 08:00-20:00 Asia/Shanghai`.
///
/// Times that run past midnight (`22:00-06:00`) belong to the day on which they begin.
#[derive(Debug, Clone)]
pub struct Hours {
    days: u8,
    from: u16,
    to: u16,
    zone: Arc<dyn Zone>,
}

impl Hours {
    pub const RIGHT: &'static str =
        "write days, times and a time zone, such as \"mon-fri 08:00-20:00 Asia/Shanghai\" or \"sat,sun 22:00-06:00 UTC\"";

    /// `zone_named` knows the world's time zones by their names.
    pub fn parse(text: &str, zone_named: impl FnOnce(&str) -> Option<Arc<dyn Zone>>) -> Result<Self, Invalid> {
        let wrong = |what: String| Invalid(format!("{what}: {}", Self::RIGHT));
        let words: Vec<&str> = text.split(' ').collect();
        let [days, times, zone] = words.as_slice() else {
            return Err(wrong(format!("{} is not three words", shown(text))));
        };
        let days = parse_days(days).ok_or_else(|| wrong(format!("{} names no days", shown(days))))?;
        let (from, to) =
            parse_times(times).ok_or_else(|| wrong(format!("{} is not a time from 00:00 to 24:00 and one more", shown(times))))?;
        if from == to {
            return Err(wrong(format!("{} is no time at all; the whole day is 00:00-24:00", shown(times))));
        }
        let zone = zone_named(zone).ok_or_else(|| wrong(format!("{} is no time zone of the IANA database", shown(zone))))?;
        Ok(Self { days, from, to, zone })
    }

    pub fn cover(&self, at: SystemTime) -> bool {
        let LocalMinute { weekday, minute } = self.zone.local(at);
        let on = |weekday: u8| self.days & (1 << (weekday % 7)) != 0;
        if self.from < self.to {
            return on(weekday) && (self.from..self.to).contains(&minute);
        }
        on(weekday) && minute >= self.from || on(weekday + 6) && minute < self.to
    }
}

/// `mon`, `mon-fri`, `fri-mon`, `mon,wed,sat-sun`: a bit for each.
fn parse_days(text: &str) -> Option<u8> {
    let day = |name: &str| DAYS.iter().position(|day| *day == name);
    let mut days = 0;
    for item in text.split(',') {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        let (first, last) = (day(first)?, day(last)?);
        let count = (last + 7 - first) % 7;
        (0..=count).for_each(|n| days |= 1 << ((first + n) % 7));
    }
    Some(days)
}

fn parse_times(text: &str) -> Option<(u16, u16)> {
    let (from, to) = text.split_once('-')?;
    let from = parse_time(from).filter(|minute| *minute < DAY)?;
    Some((from, parse_time(to)?))
}

/// `08:00`, to `24:00`: the minute of the day.
fn parse_time(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let number = |text: &str| (text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse::<u16>().ok()).flatten();
    let (hour, minute) = (number(hour)?, number(minute)?);
    (minute < 60).then_some(hour * 60 + minute).filter(|minute| *minute <= DAY)
}

fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(80).collect::<String>())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn hours(text: &str) -> Result<Hours, Invalid> {
        Hours::parse(text, |zone| (zone == "UTC").then(|| Arc::new(Utc) as _))
    }

    /// A day (0 is Monday, 2024-01-01) and a time, in UTC.
    fn at(day: u64, time: &str) -> SystemTime {
        let minute = u64::from(parse_time(time).unwrap());
        UNIX_EPOCH + Duration::from_secs(1_704_067_200 + day * 86_400 + minute * 60)
    }

    #[test]
    fn they_cover_what_they_say_to_the_minute() {
        let office = hours("mon-fri 08:00-20:00 UTC").unwrap();
        for (day, time, covered) in
            [(0, "07:59", false), (0, "08:00", true), (4, "19:59", true), (4, "20:00", false), (5, "12:00", false), (7, "12:00", true)]
        {
            assert_eq!(office.cover(at(day, time)), covered, "{day} {time}");
        }
        assert!(!office.cover(at(4, "19:59") + Duration::from_secs(60)) && office.cover(at(4, "19:59") + Duration::from_secs(59)));
    }

    #[test]
    fn past_midnight_belongs_to_the_day_before() {
        let night = hours("sun 22:00-06:00 UTC").unwrap();
        for (day, time, covered) in
            [(6, "21:59", false), (6, "22:00", true), (7, "05:59", true), (7, "06:00", false), (6, "05:00", false), (7, "22:00", false)]
        {
            assert_eq!(night.cover(at(day, time)), covered, "{day} {time}");
        }
        let late = hours("fri-mon 12:00-24:00 UTC").unwrap();
        assert!(late.cover(at(0, "23:59")) && !late.cover(at(1, "12:00")) && late.cover(at(4, "12:00")));
    }

    #[test]
    fn nonsense_is_refused_with_what_was_wrong() {
        for (text, what) in [
            ("", "three words"),
            ("mon-fri 08:00-20:00", "three words"),
            ("mon-fri  08:00-20:00 UTC", "three words"),
            ("Mon 08:00-20:00 UTC", "\"Mon\" names no days"),
            ("mon-fry 08:00-20:00 UTC", "\"mon-fry\" names no days"),
            ("mon, 08:00-20:00 UTC", "names no days"),
            ("mon 8:00-20:00 UTC", "\"8:00-20:00\""),
            ("mon 08:00-24:01 UTC", "24:00"),
            ("mon 24:00-08:00 UTC", "24:00"),
            ("mon 08:60-09:00 UTC", "24:00"),
            ("mon 08:00 UTC", "24:00"),
            ("mon 08:00-08:00 UTC", "no time at all"),
            ("mon 08:00-20:00 Mars/Olympus", "\"Mars/Olympus\" is no time zone"),
        ] {
            let error = hours(text).unwrap_err().to_string();
            assert!(error.contains(what) && error.contains("mon-fri 08:00-20:00 Asia/Shanghai"), "{text}: {error}");
        }
    }
}
