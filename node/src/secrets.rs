//! What policies name as secrets, from a folder: `DIR/NAMESPACE/NAME/FILE`. Certificates, and values that
//! headers are compared with.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use httpproxy::tls::{
    BadSecret, CryptoProvider, OwnCertificate, SecretPart, TlsSecrets, Trust, provider,
};
use policy::http::HeaderSecrets;
use policy::{PolicySet, Problem, TlsContext, TlsLeg};
use zeroize::Zeroizing;

/// Octets of one file of a secret; a larger one is refused.
pub(crate) const SECRET_OCTETS_MAX: u64 = 1 << 20;

/// Which files may be read by others than their owner.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Readers {
    Any,
    OwnerAlone,
}

/// What policies name.
#[derive(Default)]
pub(crate) struct Secrets {
    /// Certificates and keys.
    pub(crate) tls: Arc<TlsSecrets>,
    /// Values of headers.
    pub(crate) headers: HeaderSecrets,
}

/// Reads all certificates that a set of policies names. All of it, or none.
///
/// # Errors
/// One for each secret that can't be used, at the first place that names it.
pub(crate) fn read(set: &PolicySet, dir: Option<&Path>) -> Result<TlsSecrets, Vec<Problem>> {
    let provider = provider();
    let mut secrets = TlsSecrets::default();
    let mut seen = HashSet::new();
    let mut problems = Vec::new();
    for place in set.tls_uses() {
        if !seen.insert((place.leg, place.context)) {
            continue;
        }
        let context = place.context;
        let read = folder_of(dir, context.secret()).and_then(|folder| {
            match place.leg {
                TlsLeg::Client => {
                    let own = read_own(&folder, context, &provider)?;
                    secrets.add_own(context, own);
                }
                TlsLeg::Server => {
                    let trust = read_trust(&folder, context, &provider)?;
                    secrets.add_trust(context, trust);
                }
            }
            Ok(())
        });
        if let Err(why) = read {
            problems.push(place.problem(&why));
        }
    }
    match problems.is_empty() {
        true => Ok(secrets),
        false => Err(problems),
    }
}

/// Reads the values of the secrets that headers are compared with. What can't be had is a warning: its rule
/// never matches, as it is with Cilium.
pub(crate) fn read_headers(set: &PolicySet, dir: Option<&Path>) -> (HeaderSecrets, Vec<Problem>) {
    let (mut secrets, mut problems) = (HeaderSecrets::default(), Vec::new());
    let mut seen = HashSet::new();
    for place in set.header_secret_uses() {
        let secret = place.secret();
        if !seen.insert(secret) {
            continue;
        }
        match folder_of(dir, secret).and_then(|folder| read_value(&folder)) {
            Ok(value) => secrets.add(secret, &value),
            Err(why) => problems.push(place.problem(&why)),
        }
    }
    (secrets, problems)
}

/// The only file of a folder, without the line end that an editor leaves.
fn read_value(folder: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let say = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut files = Vec::new();
    for entry in folder.read_dir().map_err(say)? {
        let entry = entry.map_err(say)?;
        // What begins with a dot is how Kubernetes swaps a mounted secret as one.
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            files.push(entry.path());
        }
    }
    let [file] = files.as_slice() else {
        let count = files.len();
        return Err(format!(
            "{}: {count} files; the secret of a header has one, its value",
            folder.display()
        ));
    };
    let mut value = read_file(file, Readers::OwnerAlone)?;
    for end in [b'\n', b'\r'] {
        if value.last() == Some(&end) {
            value.pop();
        }
    }
    if value.is_empty() {
        return Err(format!("{}: empty", file.display()));
    }
    Ok(value)
}

type Provider = Arc<CryptoProvider>;

fn read_own(
    folder: &Path,
    context: &TlsContext,
    provider: &Provider,
) -> Result<OwnCertificate, String> {
    let (certificate, key) = (
        file_of(folder, context.certificate())?,
        file_of(folder, context.private_key())?,
    );
    let read = (
        read_file(&certificate, Readers::Any)?,
        read_file(&key, Readers::OwnerAlone)?,
    );
    OwnCertificate::read(&read.0, &read.1, provider).map_err(|(part, error)| match part {
        SecretPart::Certificate => named(&certificate, &error),
        SecretPart::Key => named(&key, &error),
    })
}

fn read_trust(folder: &Path, context: &TlsContext, provider: &Provider) -> Result<Trust, String> {
    let path = file_of(folder, context.trusted_ca())?;
    Trust::read(&read_file(&path, Readers::Any)?, provider).map_err(|error| named(&path, &error))
}

fn named(path: &Path, error: &BadSecret) -> String {
    format!("{}: {error}", path.display())
}

fn folder_of(dir: Option<&Path>, (namespace, name): (&str, &str)) -> Result<PathBuf, String> {
    let dir = dir.ok_or("no folder of secrets is given (`--tls-secrets DIR`)")?;
    file_of(&file_of(dir, namespace)?, name)
}

/// A name in a folder, which leads nowhere else.
fn file_of(folder: &Path, name: &str) -> Result<PathBuf, String> {
    let leads_away = name.contains(['/', '\0']) || matches!(name, "" | "." | "..");
    match leads_away {
        true => Err(format!("{name:?} is no name of a file or folder")),
        false => Ok(folder.join(name)),
    }
}

/// Reads a file into memory that is wiped when it is no longer needed.
fn read_file(path: &Path, readers: Readers) -> Result<Zeroizing<Vec<u8>>, String> {
    let shown = path.display();
    let say = |error: std::io::Error| format!("{shown}: {error}");
    let file = File::open(path).map_err(say)?;
    // Of what was opened: a link may lead elsewhere a moment later.
    let found = file.metadata().map_err(say)?;
    if !found.is_file() {
        return Err(format!("{shown}: not a file"));
    }
    let mode = found.permissions().mode() & 0o777;
    if readers == Readers::OwnerAlone && mode & 0o077 != 0 {
        return Err(format!(
            "{shown}: a secret that others may read or write (mode {mode:04o}): chmod 0600"
        ));
    }
    if found.len() > SECRET_OCTETS_MAX {
        let size = found.len();
        return Err(format!(
            "{shown}: {size} octets; a file of a secret has at most {SECRET_OCTETS_MAX}"
        ));
    }
    // Room for all of it at once: memory that grows leaves copies behind.
    let room = usize::try_from(found.len()).unwrap_or_default() + 1;
    let mut octets = Zeroizing::new(Vec::with_capacity(room));
    let mut file = file.take(SECRET_OCTETS_MAX);
    file.read_to_end(&mut octets).map_err(say)?;
    Ok(octets)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    const POLICY: &str = "apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: shop, namespace: web}
spec:
  endpointSelector: {}
  egress:
  - toPorts:
    - ports: [{port: '443', protocol: TCP}]
      terminatingTLS: {secret: {name: own}}
      originatingTLS: {secret: {namespace: pki, name: roots}, trustedCA: all.pem}
      rules: {http: [{}]}
";

    /// A file, what is done to it, and what is said then.
    type Case = (&'static str, fn(&Path), &'static str);

    fn set(text: &str) -> PolicySet {
        let loaded = policy::load(&[policy::Source {
            path: "shop.yaml".to_owned(),
            text: text.to_owned(),
        }]);
        assert!(!loaded.has_errors(), "{:#?}", loaded.problems);
        loaded.set
    }

    /// A folder with both secrets.
    fn folder() -> tempfile::TempDir {
        let made = rcgen::generate_simple_self_signed(vec!["shop.test".to_owned()]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str, mode: u32| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        };
        write("web/own/tls.crt", &made.cert.pem(), 0o644);
        write("web/own/tls.key", &made.signing_key.serialize_pem(), 0o600);
        write("pki/roots/all.pem", &made.cert.pem(), 0o644);
        dir
    }

    fn messages(set: &PolicySet, dir: Option<&Path>) -> Vec<String> {
        let problems = read(set, dir).map(|_| ()).unwrap_err();
        assert!(problems.iter().all(Problem::is_error));
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_policies_name_is_read_from_its_folder() {
        let dir = folder();
        assert!(read(&set(POLICY), Some(dir.path())).is_ok());
        let key = dir.path().join("web/own/tls.key");
        let elsewhere = dir.path().join("key");
        fs::rename(&key, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &key).unwrap();
        assert!(read(&set(POLICY), Some(dir.path())).is_ok(), "by a link");
        let none = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p}\nspec: {endpointSelector: {}, egress: [{}]}\n";
        assert!(read(&set(none), None).is_ok(), "nobody needs one");
    }

    #[test]
    fn a_secret_that_cannot_be_used_is_told_by_policy_and_file() {
        let all = messages(&set(POLICY), None);
        assert_eq!(all.len(), 2);
        assert!(
            all[0].contains("shop.yaml:7:") && all[0].contains("--tls-secrets"),
            "{all:?}"
        );
        assert!(
            all[0].contains("terminatingTLS") && all[0].contains("web/own"),
            "{all:?}"
        );
        assert!(
            all[1].contains("originatingTLS") && all[1].contains("pki/roots"),
            "{all:?}"
        );
        #[rustfmt::skip]
        let cases: [Case; 6] = [
            ("web/own/tls.key", |path| fs::set_permissions(path, Permissions::from_mode(0o640)).unwrap(), "others may read or write (mode 0640)"),
            ("web/own/tls.key", |path| fs::set_permissions(path, Permissions::from_mode(0o604)).unwrap(), "others may read"),
            ("web/own/tls.key", |path| fs::write(path, "x").unwrap(), "no private key"),
            ("web/own/tls.crt", |path| fs::remove_file(path).unwrap(), "No such file"),
            ("pki/roots/all.pem", |path| fs::write(path, "").unwrap(), "no certificate"),
            ("web/own/tls.crt", |path| File::create(path).unwrap().set_len(SECRET_OCTETS_MAX + 1).unwrap(), "at most 1048576"),
        ];
        for (file, spoil, why) in cases {
            let dir = folder();
            spoil(&dir.path().join(file));
            let all = messages(&set(POLICY), Some(dir.path()));
            assert_eq!(all.len(), 1, "{all:?}");
            assert!(all[0].contains(file) && all[0].contains(why), "{all:?}");
        }
    }

    #[test]
    fn a_name_leads_out_of_the_folder_nowhere() {
        let dir = folder();
        for name in ["..", ".", "own/../own", "''"] {
            let text = POLICY.replace("name: own", &format!("name: {name}"));
            let Ok(all) = std::panic::catch_unwind(|| messages(&set(&text), Some(dir.path())))
            else {
                continue; // refused by who reads policies
            };
            assert!(
                all.iter().any(|one| one.contains("is no name")),
                "{name}: {all:?}"
            );
        }
    }

    #[test]
    fn the_value_of_a_header_is_the_only_file_of_its_folder() {
        const POLICY: &str = "apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: shop, namespace: web}
spec:
  endpointSelector: {}
  egress:
  - toPorts:
    - ports: [{port: '80', protocol: TCP}]
      rules: {http: [{headerMatches: [{name: x-token, secret: {name: token}}, {name: x-b, value: b, secret: {name: token}}]}]}
";
        let set = set(POLICY);
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("web/token");
        fs::create_dir_all(&folder).unwrap();
        let write = |name: &str, text: &str, mode: u32| {
            let path = folder.join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        };
        let read = |dir| {
            let (secrets, problems) = read_headers(&set, dir);
            assert!(!problems.iter().any(Problem::is_error), "a warning");
            let words: Vec<String> = problems.iter().map(ToString::to_string).collect();
            (secrets, words)
        };
        let says = |words: &[String], what: &str| {
            assert_eq!(words.len(), 1, "once: {words:?}");
            let is_named = words[0].contains("shop.yaml") && words[0].contains("secret web/token");
            assert!(is_named && words[0].contains(what), "{words:?}");
        };
        says(&read(None).1, "--tls-secrets");
        says(&read(Some(dir.path())).1, "0 files");
        write("..data", "other", 0o600);
        write("token", "s3cret\r\n", 0o600);
        let mut expected = HeaderSecrets::default();
        expected.add(("web", "token"), b"s3cret");
        let (secrets, words) = read(Some(dir.path()));
        assert_eq!((&secrets, words.len()), (&expected, 0), "{words:?}");
        assert!(!format!("{secrets:?}").contains("s3cret"));
        write("token", "s3cret", 0o640);
        says(&read(Some(dir.path())).1, "chmod 0600");
        write("token", "\n", 0o600);
        says(&read(Some(dir.path())).1, "empty");
        write("token", "s3cret", 0o600);
        write("more", "s3cret", 0o600);
        says(&read(Some(dir.path())).1, "2 files");
    }
}
