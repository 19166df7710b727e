//! Manual pages and shell completions, for packages: made of what the program itself reads its arguments, words and settings by.

use std::fs;
use std::io;
use std::path::Path;

use clap::{Arg, Command};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, line_break, roman};

use crate::commands;
use crate::settings::{self, Key, Section, Setting};

const MANUAL: &str = "ssh-broker";

/// Writes `ssh-broker.1`, `broker.toml.5` and the completions for bash, zsh and fish.
pub fn write(command: Command, dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let mut command = command.disable_help_subcommand(true);
    command.build();
    fs::write(dir.join("ssh-broker.1"), program_page(&command)?)?;
    fs::write(dir.join("broker.toml.5"), settings_page(&command)?)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command, "ssh-broker", dir)?;
    }
    Ok(())
}

/// ssh-broker(1)
fn program_page(command: &Command) -> io::Result<Vec<u8>> {
    let man = Man::new(command.clone()).manual(MANUAL);
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    let mut roff = Roff::new();
    roff.control("SH", ["COMMANDS"]);
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        roff.control("TP", []);
        roff.text([bold(sub.get_name()), roman(sub.get_arguments().filter(|arg| is_shown(arg)).map(usage).collect::<String>())]);
        roff.text([roman(format!("{}.", sub.get_about().map(ToString::to_string).unwrap_or_default()))]);
        for arg in sub.get_arguments().filter(|arg| is_shown(arg)) {
            roff.control("RS", []);
            roff.control("TP", []);
            roff.text([bold(usage(arg).trim())]);
            roff.text([roman(help_of(arg))]);
            roff.control("RE", []);
        }
    }
    commands_over_ssh(&mut roff);
    roff.control("SH", ["EXIT STATUS"]);
    roff.text([roman("0 when all is well, 1 when something broke, 2 when the configuration or the arguments are wrong.")]);
    files(&mut roff);
    roff.control("SH", ["SEE ALSO"]);
    roff.text([
        bold("broker.toml"),
        roman("(5), "),
        bold("ssh"),
        roman("(1), "),
        bold("ssh_config"),
        roman("(5), "),
        bold("sshd"),
        roman("(8)"),
    ]);
    roff.to_writer(&mut page)?;
    Ok(page)
}

fn is_shown(arg: &Arg) -> bool {
    !arg.is_hide_set() && !matches!(arg.get_id().as_str(), "help" | "version")
}

fn usage(arg: &Arg) -> String {
    let value = arg.get_value_names().and_then(<[_]>::first).map(ToString::to_string).filter(|_| arg.get_action().takes_values());
    let required = arg.is_required_set();
    let inner = match (arg.get_long(), value) {
        (Some(long), Some(value)) => format!("--{long} {value}"),
        (Some(long), None) => format!("--{long}"),
        (None, value) => format!("-- {}…", value.unwrap_or_default()),
    };
    if required { format!(" {inner}") } else { format!(" [{inner}]") }
}

fn help_of(arg: &Arg) -> String {
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let default: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    if default.is_empty() || !arg.get_action().takes_values() {
        format!("{help}.")
    } else {
        format!("{help}. Default: {}.", default.join(" "))
    }
}

fn commands_over_ssh(roff: &mut Roff) {
    roff.control("SH", ["COMMANDS OVER SSH"]);
    roff.text([
        roman("Operators say these to the broker itself, as "),
        bold("ssh broker ls"),
        roman(". With "),
        bold("--json"),
        roman(" the answer is one line of JSON."),
    ]);
    for (usage, does, for_administrators) in commands::reference() {
        roff.control("TP", []);
        roff.text([bold(usage)]);
        let whom = if for_administrators { " (operators.administrators alone)" } else { "" };
        roff.text([roman(format!("{does}{whom}"))]);
    }
    roff.control("PP", []);
    roff.text([roman(commands::EXIT_STATUS)]);
}

fn files(roff: &mut Roff) {
    roff.control("SH", ["FILES"]);
    for (path, is) in [
        (settings::DEFAULT_FILE, "the configuration"),
        ("/etc/ssh-broker/operators", "an authorized_keys file for each operator, named after the operator"),
        ("/etc/ssh-broker/secret_id, /etc/ssh-broker/secret_key", "the cloud API's key, mode 0600, handed over by systemd"),
        ("/var/lib/ssh-broker", "the broker's own keys, and the pinned host keys of instances"),
    ] {
        roff.control("TP", []);
        roff.text([italic(path)]);
        roff.text([roman(is)]);
    }
}

/// broker.toml(5)
fn settings_page(command: &Command) -> io::Result<Vec<u8>> {
    let man = Man::new(command.clone()).manual(MANUAL).title("broker.toml").section("5");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    let mut roff = Roff::new();
    roff.control("SH", ["NAME"]);
    roff.text([roman("broker.toml - the configuration of ssh-broker")]);
    roff.control("SH", ["DESCRIPTION"]);
    for section in settings::reference() {
        if !section.table.is_empty() {
            roff.control("SH", [section.title.to_uppercase().as_str()]);
            roff.text([bold(section.table)]);
        }
        for note in &section.notes {
            roff.control("PP", []);
            roff.text([roman(note)]);
        }
        match section.table.starts_with("[[") {
            true => example(&mut roff, &section),
            false => section.settings.iter().for_each(|setting| entry(&mut roff, setting)),
        }
    }
    files(&mut roff);
    roff.control("SH", ["SEE ALSO"]);
    roff.text([bold("ssh-broker"), roman("(1), "), bold("sshd"), roman("(8)")]);
    roff.to_writer(&mut page)?;
    Ok(page)
}

fn line(Key { name, value, .. }: &Key) -> String {
    format!("{name} = {value}")
}

fn entry(roff: &mut Roff, Setting { keys, text }: &Setting) {
    for (index, key) in keys.iter().enumerate() {
        roff.control(if index == 0 { "TP" } else { "TQ" }, []);
        roff.text([bold(line(key)), roman(if key.is_default { " (the default)" } else { " (an example)" })]);
    }
    roff.text([roman(text)]);
}

/// The file's own example of a table that can be there several times.
fn example(roff: &mut Roff, section: &Section) {
    for Setting { keys, text } in &section.settings {
        if !text.is_empty() {
            roff.control("PP", []);
            roff.text([roman(text)]);
        }
        roff.control("RS", []);
        roff.control("PP", []);
        roff.text([bold(section.table), line_break()]);
        for key in keys {
            roff.text([roman(line(key)), line_break()]);
        }
        roff.control("RE", []);
    }
}
