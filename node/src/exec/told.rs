//! An account in words: on standard error, and as Markdown for a page of a build.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::account::{Account, Denied};
use crate::datapath::Carriage;
use transport::SANDBOX_GATEWAY;

/// Lines on standard error; the rest is counted.
const LINES_MAX: usize = 20;
/// Rows of the page.
const ROWS_MAX: usize = 200;

/// How denials are to be allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cure {
    /// By options.
    Options,
    /// By lines of a policy.
    Rules,
}

/// What was denied, and what would allow it; empty where nothing was.
pub(super) fn denials(account: &Account, (cure, is_audit): (Cure, bool)) -> String {
    let carriage = account.carriage;
    let told = account.told();
    if told.is_empty() {
        return String::new();
    }
    let count = told.len();
    let things = if count == 1 { "thing" } else { "things" };
    let word = if is_audit {
        "would be denied"
    } else {
        "denied"
    };
    let mut text = format!("namegate: {count} {things} {word}; to allow:\n");
    let width = told
        .iter()
        .take(LINES_MAX)
        .map(|(denied, _)| name(denied).len());
    let width = width.max().unwrap_or_default();
    for (denied, count) in told.iter().take(LINES_MAX) {
        let times = if *count == 1 { "time " } else { "times" };
        let cure = how_to_allow(denied, cure, carriage);
        let _ = writeln!(
            text,
            "  {:<width$}  {count:>4} {times}  {cure}",
            name(denied)
        );
    }
    if count > LINES_MAX {
        let _ = writeln!(text, "  and {} more", count - LINES_MAX);
    }
    if account.left_out > 0 {
        let _ = writeln!(text, "  and {} times something else", account.left_out);
    }
    text
}

/// A name as it may stand on a terminal: it is the command's, or a server's.
fn name(denied: &Denied) -> String {
    let text = match denied {
        Denied::Name(name) => name.to_string(),
        Denied::Request { method, url } => format!("{method} {url}"),
        Denied::Address { ip, how } => format!("{} {how}", shown(*ip)),
        Denied::Packet(reason) => format!("packets: {reason}"),
    };
    text.chars().map(plain).collect()
}

fn shown(ip: IpAddr) -> String {
    ip.to_string()
}

fn plain(letter: char) -> char {
    if letter.is_control() { '?' } else { letter }
}

fn how_to_allow(denied: &Denied, cure: Cure, carriage: Carriage) -> String {
    match (denied, cure) {
        (Denied::Name(_), Cure::Options) => format!("--allow {}", quoted(&name(denied))),
        (Denied::Name(_), Cure::Rules) => {
            format!(
                "matchName: {}   # in toFQDNs, and in rules.dns of port 53",
                name(denied)
            )
        }
        (Denied::Request { method, .. }, _) => {
            format!("a rule for {method} in rules.http")
        }
        (Denied::Address { how, .. }, _)
            if carriage == Carriage::ByProxy && !how.ends_with("TCP") =>
        {
            "nothing: only TCP and DNS are carried".to_owned()
        }
        (Denied::Address { ip, how }, Cure::Options)
            if ip.is_loopback() || *ip == SANDBOX_GATEWAY =>
        {
            let port = how.split('/').next().unwrap_or_default();
            format!("--allow-host-port {port}")
        }
        (Denied::Address { ip, .. }, Cure::Options) => format!("--allow {ip}"),
        (Denied::Address { ip, .. }, Cure::Rules) => {
            format!("toCIDR: [{}]", ipnet::IpNet::from(*ip))
        }
        (Denied::Packet(_), _) => "nothing: such packets are not judged".to_owned(),
    }
}

/// For a shell.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    match text.chars().all(is_plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

/// A page: what was reached, and what was denied.
pub(super) fn page(account: &Account, (command, is_audit): (&str, bool)) -> String {
    let mut page = format!("### Network of `{}`\n\n", cell(command));
    let sum = account.traffic.sum(|one| one.total);
    let told = account.told();
    let word = if is_audit {
        "would be denied"
    } else {
        "denied"
    };
    let _ = writeln!(
        page,
        "{} allowed, {} {word}; {} names asked.\n",
        sum.allowed,
        told.iter().map(|(_, count)| count).sum::<u64>(),
        account.traffic.names.len()
    );
    if !told.is_empty() {
        let _ = writeln!(page, "| {word} | times | to allow |\n|---|---:|---|");
        for (denied, count) in told.iter().take(ROWS_MAX) {
            let cure = how_to_allow(denied, Cure::Options, account.carriage);
            let _ = writeln!(
                page,
                "| {} | {count} | `{}` |",
                cell(&name(denied)),
                cell(&cure)
            );
        }
        page.push('\n');
    }
    let mut reached: Vec<_> = account
        .traffic
        .pairs
        .iter()
        .filter(|(_, one)| one.counted.total.allowed > 0)
        .collect();
    reached.sort_by(|(a, _), (b, _)| (&a.to, a.how).cmp(&(&b.to, b.how)));
    if !reached.is_empty() {
        page.push_str("| reached | by | times |\n|---|---|---:|\n");
        for (pair, one) in reached.iter().take(ROWS_MAX) {
            let times = one.counted.total.allowed;
            let _ = writeln!(page, "| {} | {} | {times} |", cell(&pair.to), pair.how);
        }
        page.push('\n');
    }
    page
}

/// As text of a table: what could be Markdown, or end the cell, is not.
fn cell(text: &str) -> String {
    let mut written = String::new();
    for letter in text.chars().map(plain) {
        if "|`<>*_[]\\&".contains(letter) {
            let _ = write!(written, "&#{};", u32::from(letter));
        } else {
            written.push(letter);
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use flow::{Dns, Event, Flow, RecordType, Verdict};

    fn account(names: &[&str]) -> Account {
        let mut account = Account::new(false, false, "");
        for name in names {
            let dns = Dns::request(format!("{name}.").into(), RecordType::from_name("A"));
            account.take(&Flow::new(Event::Dns(dns), Verdict::Dropped));
        }
        account
    }

    #[test]
    fn a_denial_stands_with_what_allows_it() {
        let account = account(&["pypi.org", "pypi.org", "a.b"]);
        assert_eq!(
            denials(&account, (Cure::Options, false)),
            "namegate: 2 things denied; to allow:\n  a.b          1 time   --allow a.b\n  pypi.org     2 times  --allow pypi.org\n"
        );
        let rules = denials(&account, (Cure::Rules, false));
        assert!(rules.contains("matchName: pypi.org"), "{rules}");
        assert_eq!(denials(&Account::default(), (Cure::Options, false)), "");
    }

    #[test]
    fn a_name_can_write_neither_on_the_terminal_nor_in_the_page() {
        let account = account(&["a\u{1b}[2J|`x`<b>.test"]);
        let said = denials(&account, (Cure::Options, false));
        assert!(!said.contains('\u{1b}'), "{said:?}");
        assert!(said.contains("--allow 'a?[2j|`x`<b>.test'"), "{said}");
        let page = page(&account, ("sh", false));
        assert!(
            page.contains("a?&#91;2j&#124;&#96;x&#96;&#60;b&#62;.test"),
            "{page}"
        );
    }

    #[test]
    fn many_are_counted() {
        let names: Vec<String> = (0..30).map(|n| format!("n{n}.test")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let said = denials(&account(&names), (Cure::Options, false));
        assert!(said.ends_with("  and 10 more\n"), "{said}");
    }
}
