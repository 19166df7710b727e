use super::*;

const WINDOW: u32 = 1 << 21;

fn message(number: u8, fields: &[u32]) -> Vec<u8> {
    let mut message = vec![number];
    fields.iter().for_each(|field| put_u32(&mut message, *field));
    message
}

fn open(window: u32) -> Vec<u8> {
    let mut message = vec![msg::CHANNEL_OPEN];
    put_string(&mut message, b"session");
    [3, window, 1 << 15].into_iter().for_each(|field| put_u32(&mut message, field));
    message
}

fn request(name: &str, wants_reply: bool) -> Vec<u8> {
    let mut message = message(msg::CHANNEL_REQUEST, &[9]);
    put_string(&mut message, name.as_bytes());
    message.push(u8::from(wants_reply));
    message
}

/// The number in the field at `at` after the message has passed.
fn passed(notices: &mut Notices, mut message: Vec<u8>, at: usize) -> u32 {
    notices.pass(Direction::Up, &mut message);
    u32::from_be_bytes(message[at..at + 4].try_into().unwrap())
}

fn up(notices: &mut Notices, mut message: Vec<u8>) {
    notices.pass(Direction::Up, &mut message);
}

fn down(notices: &mut Notices, mut message: Vec<u8>) {
    let before = message.clone();
    notices.pass(Direction::Down, &mut message);
    assert_eq!(message, before);
}

fn opened() -> Notices {
    let mut notices = Notices::default();
    assert_eq!(passed(&mut notices, open(WINDOW), 16), WINDOW - RESERVE);
    down(&mut notices, message(msg::CHANNEL_OPEN_CONFIRMATION, &[3, 9, 1, 1]));
    notices
}

fn with_a_shell() -> Notices {
    let mut notices = opened();
    for name in ["pty-req", "shell"] {
        up(&mut notices, request(name, true));
    }
    (0..2).for_each(|_| down(&mut notices, message(msg::CHANNEL_SUCCESS, &[3])));
    notices
}

fn said(notices: &mut Notices, text: &str) -> usize {
    notices.say(text);
    notices.ready.drain(..).count()
}

#[test]
fn the_bytes_that_were_added_are_paid_back_by_the_next_adjustments() {
    let mut notices = with_a_shell();
    notices.say("ssh-broker: x");
    let mut expected = message(msg::CHANNEL_DATA, &[3]);
    put_string(&mut expected, b"\r\nssh-broker: x\r\n");
    assert_eq!(std::mem::take(&mut notices.ready), [expected]);
    // 17 bytes are owed.
    assert_eq!(passed(&mut notices, message(msg::CHANNEL_WINDOW_ADJUST, &[9, 10]), 5), 1);
    assert_eq!(passed(&mut notices, message(msg::CHANNEL_WINDOW_ADJUST, &[9, 0]), 5), 0);
    assert_eq!(passed(&mut notices, message(msg::CHANNEL_WINDOW_ADJUST, &[9, 100]), 5), 92);
    assert_eq!(passed(&mut notices, message(msg::CHANNEL_WINDOW_ADJUST, &[9, 100]), 5), 100);
    assert_eq!(passed(&mut notices, message(msg::CHANNEL_WINDOW_ADJUST, &[8, 100]), 5), 100);
}

#[test]
fn the_instances_view_of_the_window_is_never_more_than_the_operators() {
    let mut notices = with_a_shell();
    let (mut operators, mut instances) = (i64::from(WINDOW), i64::from(WINDOW - RESERVE));
    let mut random = 1_u32;
    for _ in 0..10_000 {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        match random >> 30 {
            0 => {
                let by = random >> 12 & 0x7ff;
                operators += i64::from(by);
                instances += i64::from(passed(&mut notices, message(msg::CHANNEL_WINDOW_ADJUST, &[9, by]), 5));
            }
            1 => {
                notices.say(&"x".repeat((random >> 12 & 0xff) as usize));
                operators -= notices.ready.drain(..).map(|notice| notice.len() as i64 - 9).sum::<i64>();
            }
            _ => {
                let data = i64::from(random >> 12 & 0x3ff).min(instances);
                (operators, instances) = (operators - data, instances - data);
            }
        }
        assert!(instances <= operators && operators - instances <= i64::from(RESERVE), "{instances} {operators}");
    }
}

#[test]
fn nothing_is_said_where_there_is_no_terminal() {
    let mut notices = opened();
    assert_eq!(said(&mut notices, "x"), 0);
    up(&mut notices, request("exec", true));
    down(&mut notices, message(msg::CHANNEL_SUCCESS, &[3]));
    assert_eq!(said(&mut notices, "x"), 0);
    // Its first adjustment gives the reserve back.
    assert_eq!(passed(&mut notices, message(msg::CHANNEL_WINDOW_ADJUST, &[9, 100]), 5), 100 + RESERVE);
    assert_eq!(passed(&mut notices, message(msg::CHANNEL_WINDOW_ADJUST, &[9, 100]), 5), 100);
    // Nor where the instance refused one, or was not asked to say.
    for (wants_reply, reply) in [(true, msg::CHANNEL_FAILURE), (false, msg::CHANNEL_SUCCESS)] {
        let mut notices = opened();
        up(&mut notices, request("pty-req", wants_reply));
        up(&mut notices, request("shell", true));
        if wants_reply {
            down(&mut notices, message(reply, &[3]));
        }
        down(&mut notices, message(msg::CHANNEL_SUCCESS, &[3]));
        assert_eq!(said(&mut notices, "x"), 0);
    }
}

#[test]
fn nothing_is_said_before_something_runs_or_after_its_end() {
    let mut notices = opened();
    up(&mut notices, request("pty-req", true));
    down(&mut notices, message(msg::CHANNEL_SUCCESS, &[3]));
    up(&mut notices, request("env", false));
    up(&mut notices, request("shell", true));
    assert_eq!(said(&mut notices, "x"), 0);
    down(&mut notices, message(msg::CHANNEL_SUCCESS, &[3]));
    assert_eq!(said(&mut notices, "x"), 1);
    down(&mut notices, message(msg::CHANNEL_EOF, &[3]));
    assert_eq!(said(&mut notices, "x"), 0);
}

#[test]
fn an_explanation_waits_for_its_own_channels_shell() {
    let mut notices = opened();
    notices.explain(9, "why".to_owned());
    notices.explain(8, "not here".to_owned());
    for name in ["pty-req", "shell"] {
        up(&mut notices, request(name, true));
        assert!(notices.ready.is_empty());
        down(&mut notices, message(msg::CHANNEL_SUCCESS, &[3]));
    }
    assert_eq!(notices.ready.drain(..).count(), 1);
}

#[test]
fn what_does_not_fit_is_not_said() {
    let mut notices = with_a_shell();
    assert_eq!(said(&mut notices, &"x".repeat(RESERVE as usize)), 0);
    assert_eq!((0..20).map(|_| said(&mut notices, &"x".repeat(96))).sum::<usize>(), 10);
    let mut small = Notices::default();
    assert_eq!(passed(&mut small, open(MIN_WINDOW - 1), 16), MIN_WINDOW - 1);
    assert!(small.sessions.is_empty());
}

#[test]
fn a_peer_that_asks_without_end_is_not_counted_for_ever() {
    let mut notices = with_a_shell();
    (0..10 * MAX_ASKED).for_each(|_| up(&mut notices, request("keepalive@openssh.com", true)));
    assert!(notices.is_bounded());
    assert_eq!(said(&mut notices, "x"), 0);
}
