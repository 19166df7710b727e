use serde::Serialize;
use serde_json::{Value, json};

use super::plain::{ascii_json, page, plain};
use super::{help, words::Usage};
use crate::access::{Code, Failure, Reference};
use crate::door::Said;

/// Bytes of an answer at the most: what a listing of 10,000 instances takes, and half as much again.
const MAX_LEN: usize = 4 << 20;

/// How a command exits. The numbers are stable: scripts match on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    Done,
    /// The answer is no: not granted, nothing found, the instance cannot be reached.
    No,
    /// Not a command, or not its arguments.
    Usage,
    /// For administrators.
    Forbidden,
    /// The answer could not be had: the cloud API, a limit, the broker itself.
    Failed,
}

impl Exit {
    pub(super) fn status(self) -> u32 {
        match self {
            Self::Done => 0,
            Self::No => 1,
            Self::Usage => 2,
            Self::Forbidden => 3,
            Self::Failed => 4,
        }
    }
}

/// What a command found, in its two forms. Somebody else's text is [`plain`] in the form for people.
pub(super) trait Report: Serialize {
    fn page(&self) -> String;
}

/// What an operator is told.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) exit: Exit,
    out: String,
    err: String,
    json: Value,
}

impl Answer {
    pub(super) fn of(report: &impl Report, exit: Exit) -> Self {
        match serde_json::to_value(report) {
            Ok(json) => Self { exit, out: report.page(), err: String::new(), json },
            Err(error) => Self::error(Exit::Failed, &format!("the answer cannot be written: {error}"), Value::Null),
        }
    }

    fn error(exit: Exit, sentence: &str, more: Value) -> Self {
        let mut json = json!({"error": sentence});
        if let (Value::Object(json), Value::Object(more)) = (&mut json, more) {
            json.extend(more);
        }
        Self { exit, out: String::new(), err: format!("ssh-broker: {}\n", plain(sentence)), json }
    }

    /// `about` is what the operator typed, or nothing.
    pub(super) fn failed(about: &str, failure: &Failure, reference: Reference) -> Self {
        let exit = exit_of(failure);
        let about = if about.is_empty() { String::new() } else { format!("{about}: ") };
        let sentence = format!("{about}{} [{}, ref {reference}]", failure.text, failure.code.as_str());
        Self::error(exit, &sentence, json!({"code": failure.code.as_str(), "ref": reference.to_string()}))
    }

    pub(super) fn no(sentence: &str) -> Self {
        Self::error(Exit::No, sentence, Value::Null)
    }

    pub(super) fn broken(sentence: &str) -> Self {
        Self::error(Exit::Failed, sentence, Value::Null)
    }

    pub(super) fn forbidden(word: &str) -> Self {
        Self::error(Exit::Forbidden, &format!("{word} is for this broker's administrators"), Value::Null)
    }

    pub(super) fn usage(usage: &Usage, administrator: bool) -> Self {
        let mut answer = Self::error(Exit::Usage, usage.sentence(), Value::Null);
        if usage.wants_help() {
            answer.err.push_str(&help::page(administrator));
        }
        answer
    }

    pub(super) fn said(self, json: bool) -> Said {
        let exit = self.exit.status();
        let (out, err) = match json {
            true => (ascii_json(&self.json.to_string()) + "\n", String::new()),
            false => (page(&self.out), page(&self.err)),
        };
        if out.len() > MAX_LEN {
            let err = "ssh-broker: the answer is too long; ask for less, as in `ls ins-a*`\n".to_owned();
            return Said { out: String::new(), err, exit: Exit::Failed.status() };
        }
        Said { out, err, exit }
    }
}

/// Whether the failure is the answer, as against what kept the broker from having one.
pub(super) fn exit_of(failure: &Failure) -> Exit {
    match failure.code {
        Code::TargetRefused | Code::TargetName | Code::InstanceUnreachable | Code::InstanceHostkey | Code::InstanceLogin => Exit::No,
        _ => Exit::Failed,
    }
}
