use std::collections::BTreeMap;

use super::Direction;
use crate::transport::msg;
use crate::transport::wire::Reader;

/// More channels than any session has (the tap ends one that has more): what is kept for each is bounded by it.
pub(super) const MAX_CHANNELS: usize = 10_000;

/// What is kept for some of the session's channels, found by either side's number for them: a peer chooses it, and most sessions have one
/// channel, which a tree finds sooner than a hash that no peer can aim at.
pub(super) struct Channels<T> {
    by_operator: BTreeMap<u32, Box<Entry<T>>>,
    /// The instance's number → the operator's.
    by_instance: BTreeMap<u32, u32>,
}

struct Entry<T> {
    kept: T,
    instance: Option<u32>,
    closed: (bool, bool),
}

impl<T> Default for Channels<T> {
    fn default() -> Self {
        Self { by_operator: BTreeMap::new(), by_instance: BTreeMap::new() }
    }
}

impl<T> Channels<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.by_operator.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.by_operator.len()
    }

    /// Keeps something for a channel that is being opened. Gives what was kept for another one of the same number: neither peer can tell the
    /// two apart any more.
    pub(super) fn insert(&mut self, operators: u32, kept: T) -> Option<T> {
        let before = self.forget(operators);
        if self.by_operator.len() < MAX_CHANNELS {
            self.by_operator.insert(operators, Box::new(Entry { kept, instance: None, closed: (false, false) }));
        }
        before
    }

    pub(super) fn forget(&mut self, operators: u32) -> Option<T> {
        let entry = self.by_operator.remove(&operators)?;
        if let Some(instances) = entry.instance
            && self.by_instance.get(&instances) == Some(&operators)
        {
            self.by_instance.remove(&instances);
        }
        if self.by_operator.is_empty() {
            // A session that lasts keeps no memory of a busy hour.
            *self = Self::default();
        }
        Some(entry.kept)
    }

    /// What is kept for the channel that a message's recipient number names.
    pub(super) fn recipient(&mut self, direction: Direction, number: u32) -> Option<&mut T> {
        let operators = self.operators(direction, number)?;
        self.by_operator.get_mut(&operators).map(|entry| &mut entry.kept)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.by_operator.values().map(|entry| &entry.kept)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        self.by_operator.iter_mut().map(|(operators, entry)| (*operators, &mut entry.kept))
    }

    /// Reads what passes and opens, or ends, a channel.
    pub(super) fn follow(&mut self, direction: Direction, message: &[u8]) {
        if self.is_empty() {
            return;
        }
        let mut reader = Reader::new(message);
        let (Ok(number), Ok(recipient)) = (reader.u8(), reader.u32()) else { return };
        match (number, direction) {
            (msg::CHANNEL_OPEN_CONFIRMATION, Direction::Down) => {
                if let Ok(sender) = reader.u32() {
                    self.confirm(recipient, sender);
                }
            }
            (msg::CHANNEL_OPEN_FAILURE, Direction::Down) => drop(self.forget(recipient)),
            (msg::CHANNEL_CLOSE, _) => drop(self.close(direction, recipient)),
            _ => {}
        }
    }

    /// What is kept for a channel that is confirmed now, by either side. More confirmations of one would fill the table with numbers that
    /// nothing takes out.
    pub(super) fn confirm(&mut self, operators: u32, instances: u32) -> Option<&mut T> {
        let entry = self.by_operator.get_mut(&operators).filter(|entry| entry.instance.is_none())?;
        entry.instance = Some(instances);
        self.by_instance.insert(instances, operators);
        Some(&mut entry.kept)
    }

    /// What was kept for a channel that is over now: both sides have closed it. Until then each may still send.
    pub(super) fn close(&mut self, direction: Direction, recipient: u32) -> Option<T> {
        let operators = self.operators(direction, recipient)?;
        let entry = self.by_operator.get_mut(&operators)?;
        match direction {
            Direction::Up => entry.closed.0 = true,
            Direction::Down => entry.closed.1 = true,
        }
        if entry.closed == (true, true) { self.forget(operators) } else { None }
    }

    pub(super) fn drain(&mut self) -> impl Iterator<Item = T> {
        std::mem::take(self).by_operator.into_values().map(|entry| entry.kept)
    }

    pub(super) fn operators(&self, direction: Direction, number: u32) -> Option<u32> {
        match direction {
            Direction::Down => Some(number),
            Direction::Up => self.by_instance.get(&number).copied(),
        }
    }

    #[cfg(any(fuzzing, test))]
    pub(super) fn is_bounded(&self) -> bool {
        self.by_operator.len() <= MAX_CHANNELS && self.by_instance.len() <= self.by_operator.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::wire::put_u32;

    fn message(number: u8, fields: &[u32]) -> Vec<u8> {
        let mut message = vec![number];
        fields.iter().for_each(|field| put_u32(&mut message, *field));
        message
    }

    #[test]
    fn a_channel_is_found_by_both_numbers_until_both_sides_have_closed_it() {
        use Direction::{Down, Up};
        let mut channels = Channels::default();
        channels.insert(3, "a");
        assert_eq!(channels.recipient(Up, 9), None);
        channels.follow(Down, &message(msg::CHANNEL_OPEN_CONFIRMATION, &[3, 9, 1, 1]));
        channels.follow(Down, &message(msg::CHANNEL_OPEN_CONFIRMATION, &[3, 8, 1, 1]));
        assert_eq!(channels.recipient(Up, 9), Some(&mut "a"));
        assert_eq!(channels.recipient(Up, 8), None);
        channels.follow(Up, &message(msg::CHANNEL_CLOSE, &[9]));
        assert_eq!(channels.close(Up, 9), None, "one side closes once");
        assert_eq!(channels.recipient(Down, 3), Some(&mut "a"));
        channels.follow(Down, &message(msg::CHANNEL_CLOSE, &[3]));
        assert!(channels.is_empty() && channels.recipient(Up, 9).is_none());
        channels.insert(3, "b");
        channels.follow(Down, &message(msg::CHANNEL_OPEN_FAILURE, &[3, 1]));
        assert!(channels.is_empty());
    }

    #[test]
    fn it_is_bounded_and_short_messages_do_nothing() {
        let mut channels = Channels::default();
        for number in 0..20_000 {
            channels.insert(number, ());
        }
        for number in 0..=255 {
            channels.follow(Direction::Down, &[number, 0, 0, 0]);
            channels.follow(Direction::Down, &message(number, &[1]));
        }
        assert!(channels.is_bounded());
    }
}
