//! Whose process a command is: of root's, where namegate was called by sudo, the caller's.

use std::ffi::OsString;
use std::fs;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::exit::{EXEC_FAILED, Exit};

/// Who was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Whoever called namegate.
    Caller,
    /// Whoever called it by sudo, by the numbers of user and group that sudo tells.
    BySudo(u32, Option<u32>),
    /// A name, or a number.
    Named(String),
}

/// An account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    name: Option<String>,
    home: Option<String>,
    shell: Option<String>,
}

/// Who it is to be; `None`: whoever this process is.
///
/// # Errors
/// If there is nobody of that name.
pub(super) fn find(wanted: &Wanted) -> Result<Option<User>> {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    match wanted {
        Wanted::Named(name) => match named(name, (&passwd, &groups)) {
            Some(user) => Ok(Some(user)),
            None => Err(Exit::with(
                EXEC_FAILED,
                format!("--user {name}: nobody is called that"),
            )),
        },
        Wanted::BySudo(uid, gid) => {
            let user = numbered(*uid, *gid, (&passwd, &groups));
            user.map(Some).context("SUDO_UID without SUDO_GID")
        }
        Wanted::Caller => Ok(None),
    }
}

fn named(name: &str, files: (&str, &str)) -> Option<User> {
    match name.parse() {
        Ok(uid) => numbered(uid, Some(uid), files),
        Err(_) => of_line(
            files.0.lines().find(|line| field(line, 0) == Some(name))?,
            files.1,
        ),
    }
}

fn numbered(uid: u32, gid: Option<u32>, (passwd, groups): (&str, &str)) -> Option<User> {
    let has_number = |line: &&str| field(line, 2) == Some(&uid.to_string());
    match passwd.lines().find(has_number) {
        Some(line) => of_line(line, groups),
        // Somebody of a directory that isn't a file.
        None => Some(User {
            uid,
            gid: gid?,
            groups: vec![gid?],
            name: None,
            home: None,
            shell: None,
        }),
    }
}

fn of_line(line: &str, groups: &str) -> Option<User> {
    let name = field(line, 0)?;
    let gid = field(line, 3)?.parse().ok()?;
    let is_in = |line: &&str| {
        let members = field(line, 3).unwrap_or_default();
        members.split(',').any(|member| member == name)
    };
    let others = groups.lines().filter(is_in);
    let others = others.filter_map(|line| field(line, 2)?.parse().ok());
    let text = |index| field(line, index).map(str::to_owned);
    Some(User {
        uid: field(line, 2)?.parse().ok()?,
        gid,
        groups: std::iter::once(gid).chain(others).collect(),
        name: Some(name.to_owned()),
        home: text(5),
        shell: text(6),
    })
}

fn field(line: &str, index: usize) -> Option<&str> {
    line.split(':').nth(index)
}

impl User {
    /// The variables that say who one is.
    pub(super) fn variables(&self) -> Vec<(&'static str, OsString)> {
        let all = [
            ("HOME", &self.home),
            ("USER", &self.name),
            ("LOGNAME", &self.name),
            ("SHELL", &self.shell),
        ];
        let set = all
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.as_ref()?.into())));
        set.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nada:x:1000:1001::/home/ada:/bin/zsh\n";
    const GROUP: &str = "root:x:0:\nada:x:1001:\ndialout:x:20:bob,ada\nadab:x:30:adab\n";

    #[test]
    fn an_account_has_its_groups_and_its_home() {
        let ada = named("ada", (PASSWD, GROUP)).unwrap();
        assert_eq!((ada.uid, ada.gid), (1000, 1001));
        assert_eq!(ada.groups, [1001, 20]);
        assert_eq!(numbered(1000, None, (PASSWD, GROUP)), Some(ada.clone()));
        assert!(ada.variables().contains(&("HOME", "/home/ada".into())));
        assert!(named("eve", (PASSWD, GROUP)).is_none());
    }

    #[test]
    fn a_number_that_no_file_knows_has_the_group_that_it_came_with() {
        let user = numbered(2000, Some(2001), (PASSWD, GROUP)).unwrap();
        assert_eq!((user.uid, user.groups), (2000, vec![2001]));
        assert!(numbered(2000, None, (PASSWD, GROUP)).is_none());
    }
}
