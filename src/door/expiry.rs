use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::access::Invalid;

/// Reads `expiry-time` (sshd(8)): `YYYYMMDD[HHMM[SS]]`, in the system's time zone, or in UTC with a `Z` behind it. Unix seconds.
pub(super) fn parse(text: &str) -> Result<i64, Invalid> {
    let wrong = || {
        Invalid(format!("{:?} is not a time: it must be YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS, with Z behind it for UTC", shown(text)))
    };
    let (digits, zone) = match text.strip_suffix('Z') {
        Some(digits) => (digits, TimeZone::UTC),
        None => (text, TimeZone::system()),
    };
    if !digits.bytes().all(|b| b.is_ascii_digit()) || !matches!(digits.len(), 8 | 12 | 14) {
        return Err(wrong());
    }
    let part = |range: std::ops::Range<usize>| digits.get(range).map_or(Ok(0), str::parse::<i8>).map_err(|_| wrong());
    let year = digits.get(..4).and_then(|year| year.parse::<i16>().ok()).ok_or_else(wrong)?;
    let time = DateTime::new(year, part(4..6)?, part(6..8)?, part(8..10)?, part(10..12)?, part(12..14)?, 0).map_err(|_| wrong())?;
    Ok(time.to_zoned(zone).map_err(|_| wrong())?.timestamp().as_second())
}

fn shown(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_to_the_second_and_nonsense_is_refused() {
        assert_eq!(parse("19700102Z"), Ok(86_400));
        assert_eq!(parse("202611240102Z").unwrap() + 3, parse("20261124010203Z").unwrap());
        assert!(parse("20261124").is_ok());
        for bad in ["", "Z", "2026", "20261324", "2026112425", "202611242501", "20261124Z ", "-0261124", "２０２６１１２４"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
