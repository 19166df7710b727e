/// What a command does with files, as far as its words tell.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command<'a> {
    /// The instance's side of `scp -O`.
    Scp {
        sends: bool,
        path: &'a str,
    },
    /// The instance's side of `rsync`.
    Rsync {
        sends: bool,
        path: &'a str,
    },
    /// An SFTP server by its program's name.
    Sftp,
    Other,
}

impl<'a> Command<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        let mut words = Words(text);
        let mut before = "";
        while let Some(word) = words.next() {
            if word == "--server" && program(before) == "rsync" {
                return rsync(words);
            }
            before = word;
        }
        let mut words = Words(text);
        match words.next().map(program) {
            Some("scp") => scp(words),
            Some("sftp-server" | "internal-sftp") => Self::Sftp,
            _ => Self::Other,
        }
    }
}

fn program(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or(word)
}

fn scp(mut words: Words<'_>) -> Command<'_> {
    let mut sends = None;
    loop {
        let rest = words.0.trim();
        match words.next() {
            Some("--") => return sends.map_or(Command::Other, |sends| Command::Scp { sends, path: words.0.trim() }),
            Some(option) if option.starts_with('-') => {
                sends = match (option.contains('f'), option.contains('t')) {
                    (true, _) => Some(true),
                    (_, true) => Some(false),
                    _ => sends,
                }
            }
            _ => return sends.map_or(Command::Other, |sends| Command::Scp { sends, path: rest }),
        }
    }
}

/// `--server [--sender] OPTIONS . PATH…`
fn rsync(mut words: Words<'_>) -> Command<'_> {
    let mut sends = false;
    for word in words.by_ref() {
        match word {
            "--sender" => sends = true,
            "." => break,
            _ => {}
        }
    }
    Command::Rsync { sends, path: words.0.trim() }
}

/// Words between blanks; `.0` is what is left.
struct Words<'a>(&'a str);

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let text = self.0.trim_start();
        let end = text.find(char::is_whitespace).unwrap_or(text.len());
        let (word, rest) = text.split_at_checked(end)?;
        self.0 = rest;
        (!word.is_empty()).then_some(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_known_by_their_words() {
        for (text, expected) in [
            ("scp -t /tmp/a b", Command::Scp { sends: false, path: "/tmp/a b" }),
            ("scp -v -r -p -f -- -odd", Command::Scp { sends: true, path: "-odd" }),
            ("/usr/bin/scp -pf ~/x", Command::Scp { sends: true, path: "~/x" }),
            ("scp a b:", Command::Other),
            ("scp", Command::Other),
            ("rsync --server -logDtpre.iLsfxCIvu . /srv/x", Command::Rsync { sends: false, path: "/srv/x" }),
            ("sudo -n rsync --server --sender -vlogDtpre.iLsfxCIvu . a b", Command::Rsync { sends: true, path: "a b" }),
            ("rsync a b", Command::Other),
            ("/usr/lib/openssh/sftp-server -l INFO", Command::Sftp),
            ("echo scp -t x", Command::Other),
            ("", Command::Other),
            ("  \n", Command::Other),
        ] {
            assert_eq!(Command::of(text), expected, "{text}");
        }
    }
}
