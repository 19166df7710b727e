/// One stop of the tour: a command on a target, and what it promises.
pub(super) struct Stop {
    pub(super) what: &'static str,
    pub(super) target: &'static str,
    pub(super) command: &'static str,
    pub(super) stdin: Vec<u8>,
    /// Whether a session comes of it.
    pub(super) opens: bool,
    promise: Promise,
}

enum Promise {
    /// Exit status 0 and this in the output.
    Says(&'static str),
    /// This exit status.
    Exits(u8),
    /// The output is the input.
    Echoes,
    /// ssh's own failure, with this in what it says.
    Refused(&'static str),
}

impl Stop {
    /// For the targets of [`super::WorldConfig::default`].
    pub(super) fn default_tour() -> Vec<Self> {
        const WHERE: &str = "echo \"$SSH_BROKER_DEMO_INSTANCE, $(uname -sr), as $(id -un)\"";
        let stop = |what, target, command, promise| Self { what, target, command, stdin: Vec::new(), opens: true, promise };
        vec![
            stop("An instance whose secret is a private key that no laptop holds", "ins-demo1", WHERE, Promise::Says("ins-demo1")),
            stop("An instance whose secret is a password that nobody types", "ins-demo2", WHERE, Promise::Says("ins-demo2")),
            stop("The same again, with the lease and the address still at hand", "ins-demo1", WHERE, Promise::Says("ins-demo1")),
            stop("The exit status is the command's", "ins-demo1", "exit 7", Promise::Exits(7)),
            Self {
                what: "4 MiB through a pipe, there and back",
                stdin: (0..4_u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0]).collect(),
                ..stop("", "ins-demo2", "cat", Promise::Echoes)
            },
            Self {
                opens: false,
                ..stop(
                    "An instance that does not exist; one that is not yours reads the same",
                    "ins-nonesuch",
                    "true",
                    Promise::Refused("[target-refused"),
                )
            },
        ]
    }

    /// As one would type it.
    pub(super) fn shown(&self) -> String {
        let pipe = if self.stdin.is_empty() { "" } else { "… | " };
        format!("{pipe}ssh -J broker {} '{}'", self.target, self.command)
    }

    /// What is not as promised.
    pub(super) fn broken_promise(&self, status: u8, stdout: &[u8], stderr: &[u8]) -> Option<&'static str> {
        let holds = |text: &[u8], part: &str| String::from_utf8_lossy(text).contains(part);
        match self.promise {
            Promise::Says(_) | Promise::Echoes if status != 0 => Some("the command should have ended with exit status 0"),
            Promise::Says(part) if !holds(stdout, part) => Some("the output is another instance's, or none"),
            Promise::Exits(promised) if status != promised => Some("the exit status is not the command's"),
            Promise::Echoes if stdout != self.stdin => Some("what came back is not what was sent"),
            Promise::Refused(_) if status != 255 => Some("ssh should have failed"),
            Promise::Refused(part) if !holds(stderr, part) => Some("the refusal lacks the broker's sentence"),
            Promise::Says(_) | Promise::Exits(_) | Promise::Echoes | Promise::Refused(_) => None,
        }
    }
}
