use std::sync::Arc;
use std::time::SystemTime;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::access::{LocalMinute, Utc, Zone};

/// A time zone of the IANA database: the system's, else the one that is built in.
#[derive(Debug)]
struct Iana(TimeZone);

pub(super) fn named(name: &str) -> Option<Arc<dyn Zone>> {
    // The database finds names in any case; one spelling is enough for a file that people read.
    TimeZone::get(name).ok().filter(|zone| zone.iana_name() == Some(name)).map(|zone| Arc::new(Iana(zone)) as Arc<dyn Zone>)
}

impl Zone for Iana {
    fn local(&self, at: SystemTime) -> LocalMinute {
        // A clock beyond the years that the calendar has is no reason to fail.
        let Ok(timestamp) = Timestamp::try_from(at) else { return Utc.local(at) };
        let local = self.0.to_datetime(timestamp);
        let minute = i16::from(local.hour()) * 60 + i16::from(local.minute());
        LocalMinute { weekday: local.weekday().to_monday_zero_offset().unsigned_abs(), minute: minute.unsigned_abs() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Hours;

    fn at(text: &str) -> SystemTime {
        text.parse::<Timestamp>().unwrap().into()
    }

    #[test]
    fn hours_follow_the_clock_of_their_zone() {
        let shanghai = Hours::parse("mon-fri 08:00-20:00 Asia/Shanghai", named).unwrap();
        // 2026-11-23 is a Monday.
        for (time, covered) in [
            ("2026-11-22T23:59:59Z", false),
            ("2026-11-23T00:00:00Z", true),
            ("2026-11-23T11:59:59Z", true),
            ("2026-11-23T12:00:00Z", false),
            ("2026-11-27T11:00:00Z", true),
            ("2026-11-28T01:00:00Z", false),
        ] {
            assert_eq!(shanghai.cover(at(time)), covered, "{time}");
        }
        // Summer time ends in Berlin on 2026-10-25.
        let berlin = Hours::parse("mon-sun 08:00-20:00 Europe/Berlin", named).unwrap();
        for (time, covered) in [
            ("2026-10-24T06:00:00Z", true),
            ("2026-10-24T18:00:00Z", false),
            ("2026-10-25T06:00:00Z", false),
            ("2026-10-25T18:00:00Z", true),
        ] {
            assert_eq!(berlin.cover(at(time)), covered, "{time}");
        }
    }

    #[test]
    fn names_are_those_of_the_database() {
        assert!(named("UTC").is_some() && named("Etc/GMT+8").is_some());
        for bad in ["", "Asia/Shanghia", "asia/shanghai", "CST", "+08:00", "../../etc/passwd", "/etc/localtime"] {
            assert!(named(bad).is_none(), "{bad}");
        }
    }
}
