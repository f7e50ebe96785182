//! Programs as they are, under `namegate exec`: what they fetch by an allowed name they have, and under a
//! policy that doesn't allow it nothing.

#![expect(clippy::unwrap_used, reason = "a test may die")]

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use namegate_tests::{Caller, ExecStage};

/// What is fetched: a repository, a wheel and a package for npm, made here, behind a TLS server of files.
struct Registry(Child);

/// Makes the files in the folder `www`, and serves them.
const SERVER: &str = r#"
import base64, hashlib, http.server, io, json, os, socket, ssl, subprocess, sys, tarfile, zipfile
os.makedirs('www/simple/toy'), os.makedirs('www/npm'), os.makedirs('www/files')
env = dict(os.environ, GIT_CONFIG_GLOBAL='/dev/null', GIT_CONFIG_NOSYSTEM='1', HOME='/nonexistent')
def git(*words):
    subprocess.run(['git', '-c', 'user.name=a', '-c', 'user.email=a@b', *words], check=True, env=env, stdout=subprocess.DEVNULL)
git('init', '-q', '-b', 'main', 'source')
open('source/hello', 'w').write('from git\n')
git('-C', 'source', 'add', '.'), git('-C', 'source', 'commit', '-qm', 'one')
git('clone', '-q', '--bare', 'source', 'www/repo.git'), git('-C', 'www/repo.git', 'update-server-info')
wheel = 'toy-1.0-py3-none-any.whl'
with zipfile.ZipFile('www/files/' + wheel, 'w') as z:
    z.writestr('toy.py', 'print("from pip")\n')
    z.writestr('toy-1.0.dist-info/METADATA', 'Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n')
    z.writestr('toy-1.0.dist-info/WHEEL', 'Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n')
    z.writestr('toy-1.0.dist-info/RECORD', 'toy.py,,\ntoy-1.0.dist-info/METADATA,,\ntoy-1.0.dist-info/WHEEL,,\ntoy-1.0.dist-info/RECORD,,\n')
open('www/simple/toy/index.html', 'w').write(f'<a href="/files/{wheel}">{wheel}</a>')
with tarfile.open('www/files/toy-1.0.0.tgz', 'w:gz') as t:
    for name, text in [('package.json', '{"name":"toy","version":"1.0.0","main":"index.js"}'), ('index.js', 'console.log("from npm")\n')]:
        info = tarfile.TarInfo('package/' + name)
        info.size = len(text)
        t.addfile(info, io.BytesIO(text.encode()))
digest = base64.b64encode(hashlib.sha512(open('www/files/toy-1.0.0.tgz', 'rb').read()).digest()).decode()
version = {'name': 'toy', 'version': '1.0.0', 'dist': {'tarball': 'https://web.example.com:9443/files/toy-1.0.0.tgz', 'integrity': 'sha512-' + digest}}
json.dump({'name': 'toy', 'dist-tags': {'latest': '1.0.0'}, 'versions': {'1.0.0': version}}, open('www/npm/toy', 'w'))
open('www/text', 'w').write('from the web\n')
class Dual(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain('server.pem')
os.chdir('www')
server = Dual(('::', 9443), http.server.SimpleHTTPRequestHandler)
server.socket = context.wrap_socket(server.socket, server_side=True)
open('../serving', 'w').close()
server.serve_forever()
"#;

impl Registry {
    fn start(stage: &ExecStage) -> Self {
        let file = stage.file("server.py", SERVER).unwrap();
        let dir = stage.dir.path().to_owned();
        let spawn = || {
            let mut command = Command::new("/usr/bin/python3");
            let quiet = command.arg(&file).current_dir(&dir).stderr(Stdio::null());
            quiet.stdout(Stdio::null()).spawn()
        };
        let started = Self(stage.world.ns.run(spawn).unwrap().unwrap());
        for _ in 0..600 {
            if dir.join("serving").exists() {
                return started;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the registry does not start");
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A static program by musl: it asks for names by itself, and for a page over plain HTTP.
const STATIC_C: &str = r#"
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
int main(void) {
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *all, *one;
    if (getaddrinfo("web.example.com", "80", &hints, &all)) return 1;
    for (one = all; one; one = one->ai_next) {
        int fd = socket(one->ai_family, one->ai_socktype, 0);
        if (connect(fd, one->ai_addr, one->ai_addrlen)) { close(fd); continue; }
        const char *ask = "GET /static HTTP/1.0\r\nHost: web.example.com\r\n\r\n";
        char answer[4096];
        write(fd, ask, strlen(ask));
        for (ssize_t n; (n = read(fd, answer, sizeof answer)) > 0;) fwrite(answer, 1, n, stdout);
        return 0;
    }
    return 2;
}
"#;

/// What each is called, the commands (in an empty folder, `CA` is the authority's file), and what they print.
const PROGRAMS: [(&str, &str, &str); 6] = [
    (
        "curl",
        "curl -sS --cacert $CA https://web.example.com:9443/text",
        "from the web",
    ),
    (
        "git",
        "GIT_SSL_CAINFO=$CA git clone -q https://web.example.com:9443/repo.git clone && cat clone/hello",
        "from git",
    ),
    (
        "pip",
        "/usr/bin/python3 -m pip install -q --retries 0 --disable-pip-version-check --no-cache-dir --cert $CA \
         --index-url https://web.example.com:9443/simple/ --target lib toy && PYTHONPATH=lib /usr/bin/python3 -m toy",
        "from pip",
    ),
    (
        "npm",
        "npm install --silent --no-audit --no-fund --no-update-notifier --fetch-retries 0 --cafile $CA \
         --registry https://web.example.com:9443/npm/ --prefix . toy >/dev/null && node -e 'require(\"toy\")'",
        "from npm",
    ),
    (
        "node's fetch",
        "NODE_EXTRA_CA_CERTS=$CA node -e \
         \"fetch('https://web.example.com:9443/text').then(r => r.text()).then(console.log)\"",
        "from the web",
    ),
    ("a static program", "../static | tail -1", "/static"),
];

fn run(caller: Caller) {
    let stage = ExecStage::of(caller).unwrap();
    let _registry = Registry::start(&stage);
    let source = stage.file("static.c", STATIC_C).unwrap();
    let target = stage.dir.path().join("static").display().to_string();
    let built = Command::new("musl-gcc")
        .args(["-static", "-o", &target, &source])
        .status();
    assert!(built.unwrap().success());
    let ca = stage.dir.path().join("ca.pem").display().to_string();
    let mut number = 0;
    for allowed in ["web.example.com", "other.example.com"] {
        for (what, commands, wanted) in PROGRAMS {
            number += 1;
            let dir = stage.dir.path().join(number.to_string());
            let dir = dir.display();
            let name = format!("{number}.sh");
            let file = stage.file(&name, &format!("cd {dir}; {commands}\n"));
            // Without variables of the machine, which may name other registries and authorities.
            let variables = format!("PATH=/usr/bin:/bin HOME={dir} CA={ca}");
            let script = format!(
                "mkdir {dir} && env -i {variables} sh {} </dev/null",
                file.unwrap()
            );
            let (code, said, errors) = stage.shell(&[allowed], &script).unwrap();
            let has_it = said.contains(wanted);
            assert_eq!(
                has_it,
                allowed == "web.example.com",
                "{what}, {allowed}, {code:?}: {said}{errors}"
            );
        }
    }
}

#[test]
fn programs_run_unchanged_by_root() {
    run(Caller::Root);
}

#[test]
fn programs_run_unchanged_without_privileges() {
    run(Caller::User);
}
