//! A node and who lives on it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use transport::{HostLink, NetNs, Netlink, PrivateHost, PrivateNode, Route, Veth};

/// A node: its network namespace, a bridge, and a mount namespace for its daemon.
pub struct Node {
    /// The network namespace.
    pub ns: NetNs,
    private: PrivateNode,
    /// Holds the mount namespace; ends when its standard input closes.
    holder: Child,
    _input: ChildStdin,
}

/// A workload, or a server elsewhere: a namespace with one link.
pub struct Workload {
    /// Its name.
    pub name: String,
    /// The network namespace.
    pub ns: NetNs,
    /// The host side of its link.
    pub host_link: String,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
}

/// The bridge's addresses.
const GATEWAY: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(10, 0, 0, 1),
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1),
);

/// Fails loudly where the tests can't run.
pub fn need_root() {
    let id = Command::new("id")
        .arg("-u")
        .output()
        .map(|out| out.stdout)
        .unwrap_or_default();
    assert!(
        id.starts_with(b"0\n"),
        "this test makes network namespaces and loads BPF: run it as root"
    );
}

impl Node {
    /// A node whose network settings are as hostile as they get: strict reverse path filter,
    /// `src_valid_mark`, INPUT and FORWARD policy DROP but for what a router lets through.
    ///
    /// # Errors
    /// Without root, or where the kernel lacks something.
    pub fn new() -> Result<Self> {
        need_root();
        let private = PrivateNode::create((GATEWAY.0, 24), (GATEWAY.1, 64))?;
        let ns = private.ns.clone();
        ns.run(|| {
            for key in ["all/rp_filter", "default/rp_filter", "all/src_valid_mark"] {
                fs::write(format!("/proc/sys/net/ipv4/conf/{key}"), "1").context(key)?;
            }
            anyhow::Ok(())
        })??;
        let mut holder = ns.run(|| {
            Command::new("unshare")
                // A /run and a bpffs of its own: what the daemon names there is named on this node only.
                .args(["--mount", "--propagation", "private", "sh", "-c"])
                .arg("mount -t tmpfs tmpfs /run && mount -t bpf bpf /sys/fs/bpf && exec cat")
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()
        })??;
        let input = holder.stdin.take().context("the holder has no input")?;
        let node = Self {
            ns,
            private,
            holder,
            _input: input,
        };
        // `unshare` runs before `cat`: wait until the process is what it shall be.
        for _ in 0..500 {
            let comm = fs::read_to_string(format!("/proc/{}/comm", node.holder.id()))?;
            if comm.trim() == "cat" {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        node.firewall()?;
        Ok(node)
    }

    fn firewall(&self) -> Result<()> {
        self.nft(
            "table inet hostile {
               chain input { type filter hook input priority 0; policy drop;
                 ct state established,related accept; iifname lo accept; icmpv6 type { 133-136 } accept; ip protocol icmp accept; }
               chain forward { type filter hook forward priority 0; policy drop;
                 ct state invalid drop; ct state established,related accept; accept; }
             }",
        )
    }

    /// Loads nft rules into the node.
    ///
    /// # Errors
    /// If nft isn't there or refuses.
    pub fn nft(&self, rules: &str) -> Result<()> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("rules");
        fs::write(&file, rules)?;
        self.check("nft", &["-f", &file.display().to_string()])
            .map(drop)
    }

    /// A workload on the bridge: 10.0.0.`n`, fd00::`n`.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn workload(&self, name: &str, n: u8) -> Result<Workload> {
        let link = format!("v{name}");
        let host = self.private.add_host_on_bridge(
            &HostLink {
                name: &link,
                v4: (Ipv4Addr::new(10, 0, 0, n), 24),
                v6: (Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(n)), 64),
            },
            GATEWAY,
        )?;
        Ok(Workload::new(name, host))
    }

    /// A workload behind a routed veth with proxy ARP, as Calico and kindnet make them: 10.244.0.`n`/32,
    /// gateway 169.254.1.1 and fe80::1.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn routed(&self, name: &str, n: u8) -> Result<Workload> {
        let link = format!("v{name}");
        let v4 = Ipv4Addr::new(10, 244, 0, n);
        let v6 = Ipv6Addr::new(0xfd44, 0, 0, 0, 0, 0, 0, u16::from(n));
        let host = self.private.add_host(&HostLink {
            name: &link,
            v4: (v4, 32),
            v6: (v6, 128),
        })?;
        let gateway = (
            Ipv4Addr::new(169, 254, 1, 1),
            Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
        );
        self.ns.run(|| {
            let netlink = Netlink::open()?;
            let index = netlink.link(&link)?.index;
            fs::write(format!("/proc/sys/net/ipv4/conf/{link}/proxy_arp"), "1")?;
            fs::write(format!("/proc/sys/net/ipv4/neigh/{link}/proxy_delay"), "0")?;
            netlink.add_address(index, IpAddr::V6(gateway.1), 64)?;
            for (to, len) in [(IpAddr::V4(v4), 32), (IpAddr::V6(v6), 128)] {
                netlink.add_route(&on_link((to, len), index))?;
            }
            anyhow::Ok(())
        })??;
        host.ns.run(|| {
            let netlink = Netlink::open()?;
            let index = netlink.link("eth0")?.index;
            netlink.add_route(&on_link((IpAddr::V4(gateway.0), 32), index))?;
            anyhow::Ok(())
        })??;
        host.route_by(gateway)?;
        Ok(Workload::new(name, host))
    }

    /// A host beyond the node, 203.0.113.2 and 2001:db8::2, which has no route to the workloads; the
    /// node masquerades IPv4 and IPv6 towards it. All of 198.18.0.0/15 and 2001:db8:1::/48 are its own too.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn elsewhere(&self) -> Result<Workload> {
        let v4 = Ipv4Addr::new(203, 0, 113, 2);
        let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
        let host = self.private.add_host(&HostLink {
            name: "uplink",
            v4: (v4, 24),
            v6: (v6, 64),
        })?;
        let own = [
            (IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)), 24),
            (
                IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
                64,
            ),
        ];
        let many = [
            (IpAddr::V4(Ipv4Addr::new(198, 18, 0, 0)), 15),
            (
                IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0)),
                48,
            ),
        ];
        let default = [(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0)];
        self.private
            .route_to(&host, &own, &[&many[..], &default[..]].concat())?;
        host.own_all_of(&many)?;
        self.nft(
            "table inet nat { chain post { type nat hook postrouting priority 100; oifname uplink masquerade; }\n}",
        )?;
        Ok(Workload::new("world", host))
    }

    /// Deletes the link of a workload on the bridge and makes it anew, with the same names and addresses.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remake(&self, workload: &Workload) -> Result<()> {
        let host = &workload.host_link;
        let bridge = self.check("ip", &["-o", "link", "show", "type", "bridge"])?;
        let bridge = bridge.split([' ', ':']).nth(2).context("a bridge")?;
        self.check("ip", &["link", "del", host])?;
        self.ns.run(|| {
            Netlink::open()?.add_veth(&Veth {
                name: host,
                peer: "eth0",
                peer_ns: &workload.ns,
                peer_mac: None,
                peer_index: None,
                mtu: 1_500,
                arp: true,
            })
        })??;
        self.check("ip", &["link", "set", host, "master", bridge, "up"])?;
        let (v4, v6) = (format!("{}/24", workload.v4), format!("{}/64", workload.v6));
        for args in [
            &["link", "set", "eth0", "up"][..],
            &["address", "add", &v4, "dev", "eth0"],
            &["address", "add", &v6, "dev", "eth0", "nodad"],
            &["route", "add", "default", "via", &GATEWAY.0.to_string()],
            &["route", "add", "default", "via", &GATEWAY.1.to_string()],
        ] {
            workload.check("ip", args)?;
        }
        Ok(())
    }

    /// A command on the node, in its network and mount namespaces.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let pid = self.holder.id();
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/proc/{pid}/ns/net"))
            .arg(format!("--mount=/proc/{pid}/ns/mnt"));
        command.arg("--").arg(program);
        command
    }

    /// Runs a command on the node and gives what it printed.
    ///
    /// # Errors
    /// If it can't be run or fails.
    pub fn check(&self, program: &str, args: &[&str]) -> Result<String> {
        let output = self
            .command(program)
            .args(args)
            .output()
            .context(program.to_owned())?;
        checked(program, &output)
    }

    /// Everything of the node's network that must be as it was found: rules, routes, firewall,
    /// sysctls and links, all without the side link's own device.
    ///
    /// The kernel tells of a bridge without carrier once in a second (`linkwatch_schedule_work`), so it is read until
    /// two reads beyond that are alike.
    ///
    /// # Errors
    /// If one of them can't be read.
    pub fn fingerprint(&self) -> Result<String> {
        let mut seen = self.fingerprint_now()?;
        for _ in 0..5 {
            std::thread::sleep(Duration::from_millis(1_100));
            let again = self.fingerprint_now()?;
            if again == seen {
                break;
            }
            seen = again;
        }
        Ok(seen)
    }

    fn fingerprint_now(&self) -> Result<String> {
        let mut all = String::new();
        for args in [
            &["ip", "rule"][..],
            &["ip", "-6", "rule"],
            &["ip", "route", "show", "table", "all"],
            &["ip", "-6", "route", "show", "table", "all"],
            &["ip", "-o", "address"],
            &["nft", "-s", "list", "ruleset"],
            &["sysctl", "-a", "--pattern", "^net"],
            &["tc", "qdisc"],
        ] {
            let (program, args) = args.split_first().context("a command")?;
            let text = self.check(program, args)?;
            let kept = text
                .lines()
                .filter(|line| !is_side_link(line) && !is_count(line));
            for line in kept {
                all.push_str(line);
                all.push('\n');
            }
        }
        Ok(all)
    }
}

/// Compares two fingerprints of a node, line by line.
///
/// # Panics
/// If they differ; the message has the lines that do.
pub fn must_be_equal(before: &str, after: &str) {
    let gone: Vec<&str> = before
        .lines()
        .filter(|line| !after.lines().any(|other| other == *line))
        .collect();
    let new: Vec<&str> = after
        .lines()
        .filter(|line| !before.lines().any(|other| other == *line))
        .collect();
    assert!(
        gone.is_empty() && new.is_empty(),
        "gone: {gone:#?}\nnew: {new:#?}"
    );
}

/// Names of the side link's device, as `transport` makes them.
fn is_side_link(line: &str) -> bool {
    line.split(|c: char| !c.is_ascii_alphanumeric())
        .any(|word| word.len() == 11 && word.starts_with("ng") && word.ends_with('h'))
}

/// Sysctls that count and don't set.
fn is_count(line: &str) -> bool {
    ["nf_conntrack_count", "max_lock_depth"]
        .iter()
        .any(|word| line.contains(word))
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

impl Workload {
    fn new(name: &str, host: PrivateHost) -> Self {
        Self {
            name: name.to_owned(),
            ns: host.ns,
            host_link: host.host_link,
            v4: host.v4,
            v6: host.v6,
        }
    }

    /// A path to its namespace, for as long as this value lives.
    #[must_use]
    pub fn ns_path(&self) -> PathBuf {
        format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.ns.as_fd().as_raw_fd()
        )
        .into()
    }

    /// Runs a command in it and gives what it printed, also if it failed.
    ///
    /// # Errors
    /// If it can't be run.
    pub fn output(&self, program: &str, args: &[&str]) -> Result<Output> {
        in_ns(&self.ns, Command::new(program).args(args))
    }

    /// Runs a command in it and gives what it printed.
    ///
    /// # Errors
    /// If it can't be run or fails.
    pub fn check(&self, program: &str, args: &[&str]) -> Result<String> {
        checked(program, &self.output(program, args)?)
    }

    /// What `dig` prints, one try, two seconds.
    ///
    /// # Errors
    /// If dig isn't there.
    pub fn dig(&self, server: IpAddr, args: &[&str]) -> Result<String> {
        self.dig_at(&server.to_string(), args)
    }

    /// The same; `server` may have a scope.
    ///
    /// # Errors
    /// If dig isn't there.
    pub fn dig_at(&self, server: &str, args: &[&str]) -> Result<String> {
        let server = format!("@{server}");
        let time = format!("+time={}", 2 * crate::patience());
        let all = [&["+tries=1", &time, &server], args].concat();
        let output = self.output("dig", &all)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The number behind a name in `/proc/net/snmp` or `/proc/net/netstat` of the namespace.
    ///
    /// # Errors
    /// If it isn't there.
    pub fn kernel_count(&self, group: &str, name: &str) -> Result<u64> {
        let text = self.ns.run(|| {
            anyhow::Ok(
                fs::read_to_string("/proc/thread-self/net/snmp")?
                    + &fs::read_to_string("/proc/thread-self/net/netstat")?,
            )
        })??;
        let mut lines = text
            .lines()
            .filter(|line| line.starts_with(&format!("{group}:")));
        let (names, values) = (
            lines.next().context("names")?,
            lines.next().context("values")?,
        );
        let place = names
            .split_whitespace()
            .position(|word| word == name)
            .context(name.to_owned())?;
        Ok(values
            .split_whitespace()
            .nth(place)
            .context("value")?
            .parse()?)
    }
}

/// Runs a command in a namespace to its end.
///
/// # Errors
/// If it can't be run.
pub fn in_ns(ns: &NetNs, command: &mut Command) -> Result<Output> {
    let program = command.get_program().to_string_lossy().into_owned();
    ns.run(|| command.stdin(Stdio::null()).output())?
        .context(program)
}

fn checked(program: &str, output: &Output) -> Result<String> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{program}: {}\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text)
}

fn on_link(to: (IpAddr, u8), link: u32) -> Route {
    Route {
        to,
        via: None,
        link,
        table: 254,
        local: false,
        mtu: None,
    }
}
