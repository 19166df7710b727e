use russh::Sig;
use rustix::process::Signal;

/// The signal that a peer names; `None` when this system has none of that name.
pub(super) fn signal_number(name: &Sig) -> Option<Signal> {
    Some(match name {
        Sig::ABRT => Signal::ABORT,
        Sig::ALRM => Signal::ALARM,
        Sig::FPE => Signal::FPE,
        Sig::HUP => Signal::HUP,
        Sig::ILL => Signal::ILL,
        Sig::INT => Signal::INT,
        Sig::KILL => Signal::KILL,
        Sig::PIPE => Signal::PIPE,
        Sig::QUIT => Signal::QUIT,
        Sig::SEGV => Signal::SEGV,
        Sig::TERM => Signal::TERM,
        Sig::USR1 => Signal::USR1,
        Sig::Custom(name) if name == "USR2" => Signal::USR2,
        Sig::Custom(_) => return None,
    })
}

/// RFC 4254, 6.10; what has no name there is `SIG@ssh-broker`, as the RFC asks of local names.
pub(super) fn signal_name(number: i32) -> Sig {
    let names = [
        (Signal::ABORT, Sig::ABRT),
        (Signal::ALARM, Sig::ALRM),
        (Signal::FPE, Sig::FPE),
        (Signal::HUP, Sig::HUP),
        (Signal::ILL, Sig::ILL),
        (Signal::INT, Sig::INT),
        (Signal::KILL, Sig::KILL),
        (Signal::PIPE, Sig::PIPE),
        (Signal::QUIT, Sig::QUIT),
        (Signal::SEGV, Sig::SEGV),
        (Signal::TERM, Sig::TERM),
        (Signal::USR1, Sig::USR1),
        (Signal::USR2, Sig::Custom("USR2".to_owned())),
    ];
    let known = names.into_iter().find(|(signal, _)| signal.as_raw() == number);
    known.map_or_else(|| Sig::Custom(format!("{number}@ssh-broker")), |(_, name)| name)
}
