//! What a finding of `sealway check --deep` can say: for each kind a check, a code, a cause, a cure and a command.
//!
//! One table for the text, the JSON and `docs/operate.md`, so the three never differ. A word in braces is a value that the check
//! fills in; `docs/operate.md` shows it in capitals.

use std::fmt;

/// One possible finding.
#[derive(Debug)]
pub struct Kind {
    /// The check that finds it.
    pub check: Check,
    /// Whether tunnels fail because of it.
    pub severity: Severity,
    /// Its stable name, in lower case.
    pub code: &'static str,
    /// Why it happens.
    pub cause: &'static str,
    /// What to do.
    pub cure: &'static str,
    /// The command that does it or leads to it.
    pub command: &'static str,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Tunnels fail, or will fail under load.
    Error,
    /// Tunnels work; something should change.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// Declares the checks with their subjects.
macro_rules! checks {
    ($($name:ident $subject:literal;)+) => {
        /// One check of the tunnel's side; the doctor's checks of the application's side begin with D.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Check {
            $(#[doc = $subject] $name,)+
        }

        impl Check {
            /// All checks, in order.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// What it checks, in one line.
            #[must_use]
            pub fn subject(self) -> &'static str {
                match self {
                    $(Self::$name => $subject,)+
                }
            }
        }
    };
}

checks! {
    T01 "egress addresses on this host";
    T02 "routes from each egress address to each upstream";
    T03 "public and private egress addresses";
    T04 "DNS of every host of the policy";
    T05 "TCP to every upstream from every egress address";
    T06 "segment size, and the way of a large ClientHello";
    T07 "the limit on open files";
    T08 "local ports";
    T09 "the clock";
    T10 "Landlock";
    T11 "the audit file, its folder, and the configuration's files";
    T12 "the age of presets and destination ranges";
    T13 "the TLS listeners' files, by sealway-hop --check";
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl std::str::FromStr for Check {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let is = |check: &&Self| check.to_string().eq_ignore_ascii_case(name);
        let found = Self::ALL.iter().find(is);
        found.copied().ok_or("no check; the checks are T01 to T13")
    }
}

/// Makes a constant of each kind, and the table of all.
macro_rules! kinds {
    ($($name:ident $check:ident $severity:ident $code:literal $cause:literal, $cure:literal, $command:literal;)+) => {
        $(
            #[doc = concat!("`", $code, "`: ", $cause)]
            pub const $name: &Kind = &Kind {
                check: Check::$check,
                severity: Severity::$severity,
                code: $code,
                cause: $cause,
                cure: $cure,
                command: $command,
            };
        )+

        /// All kinds, in the order of the documentation.
        pub const ALL: &[&Kind] = &[$($name,)+];
    };
}

kinds! {
    EGRESS_ABSENT T01 Error "egress_absent"
        "no interface of this host has the egress address {egress}, so no tunnel leaves from it",
        "correct egress.addresses, or add the address to an interface; behind a cloud's NAT name the private address that the interface has",
        "ip -brief address";
    EGRESS_UNKNOWN T01 Error "egress_not_told"
        "the kernel does not say whether this host has {egress}: {reason}",
        "run the check where it may open sockets and netlink, as the service's unit allows",
        "ip -brief address";
    EGRESS_NONE T01 Error "egress_none"
        "egress.addresses is empty and this host has no default route, so tunnels leave from {egress} and reach only this host",
        "add a default route, or name the source address in egress.addresses",
        "ip route show default";
    ROUTE_MISSING T02 Error "route_missing"
        "the kernel has no usable route from {egress} to {upstreams}",
        "add a route for this source; for an address of another interface docs/operate.md has the rules",
        "ip route get {address} from {egress}";
    EGRESS_PRIVATE T03 Warning "egress_private"
        "the egress address {egress} is private, so a NAT translates it and the provider sees another address, which egress.public does not name",
        "give the NAT one static public address, enter that one in the provider's allowlist, and name it in egress.public",
        "ip route get 192.0.2.1 from {egress}";
    EGRESS_NOT_ROUTED T03 Error "egress_not_routed"
        "the egress address {egress} is {class}, and no router forwards packets from it",
        "name an address of an interface to the Internet in egress.addresses",
        "ip -brief address show scope global";
    PUBLIC_NOT_GLOBAL T03 Error "public_not_global"
        "egress.public names {address}, which is {class}, so no provider sees it",
        "name the address that the NAT shows to the Internet",
        "sealway presets gemini";
    DNS_TIMEOUT T04 Error "dns_timeout"
        "no name server answers for {hosts} within {limit}",
        "correct dns.servers or /etc/resolv.conf, or open UDP and TCP port 53 to the name server",
        "getent ahosts {host}";
    DNS_FAILED T04 Error "dns_failed"
        "the look-up of {hosts} fails: {reason}",
        "correct dns.servers or /etc/resolv.conf, or mend the name server",
        "getent ahosts {host}";
    DNS_NO_ADDRESS T04 Error "dns_no_address"
        "{hosts}: no address in DNS",
        "correct the name in policy.allow or the parameter of the preset, or the name server's view",
        "getent ahosts {host}";
    DNS_WRONG_FAMILY T04 Error "dns_wrong_family"
        "{hosts}: addresses of {family} only, and no egress address is of that family",
        "add an egress address of that family, and enter it in the provider's allowlist too",
        "ip -brief address show scope global";
    DNS_DENIED T04 Error "dns_address_denied"
        "{hosts}: the address guard refuses the answer, because {address} is {class}",
        "if a private endpoint is meant, name its network in policy.allow_destinations; otherwise mend the name server",
        "sealway explain {host}";
    DNS_SLOW T04 Warning "dns_slow"
        "the look-up of {hosts} takes {time}, and a tunnel waits for it",
        "use a name server that is nearer, or that keeps answers",
        "getent ahosts {host}";
    TCP_REFUSED T05 Error "tcp_refused"
        "from {egress} the connection is refused by {upstreams}",
        "correct the port in policy.allow, or the firewall that rejects it",
        "sealway explain {host}:{port}";
    TCP_TIMEOUT T05 Error "tcp_timeout"
        "from {egress} there is no answer within {limit} from {upstreams}: a firewall drops the packets, or their answers go to another host",
        "allow TCP from the egress address to this port in the firewall and the cloud's egress rules, and check that answers for the address return to this host",
        "ip route get {address} from {egress}";
    TCP_FAILED T05 Error "tcp_failed"
        "from {egress} the connection fails to {upstreams}: {reason}",
        "check the routes and the firewall on the way",
        "ip route get {address} from {egress}";
    TIME_UP T05 Error "time_used_up"
        "the limit for all connections is over, and {count} of them have no result",
        "check fewer hosts at once, with --allow HOST for those in question",
        "sealway check --deep --allow {host}";
    MTU_SMALL T06 Warning "mtu_small"
        "from {egress} a segment has at most {mss} bytes to {upstreams}, so the MTU of the way is less than 1280",
        "raise the MTU of the interface or tunnel device on the way; 1280 is the least that IPv6 needs",
        "ip route get {address} from {egress}";
    SEGMENTS_LOST T06 Error "large_segments_lost"
        "from {egress} a connection opens and its first full segment is never acknowledged by {upstreams}: a router on the way drops large packets and its ICMP message is lost, so every post-quantum ClientHello of 1,800 bytes hangs",
        "let ICMP type 3 code 4 (IPv6: type 2) pass in the firewalls on the way; until then let the kernel find the size by itself",
        "sysctl -w net.ipv4.tcp_mtu_probing=1";
    FILES_FEW T07 Error "descriptors_few"
        "the limit on open files is {limit} here, enough for {tunnels} tunnels, and limits.tunnels is {wanted}",
        "raise LimitNOFILE= of the unit (or ulimit -n of the container), or lower limits.tunnels; the running service may have another limit than this shell",
        "systemctl show sealway.service --property=LimitNOFILE";
    PORTS_FEW T08 Error "ports_few"
        "{count} {family} egress addresses with {ports} local ports each allow {most} tunnels to one upstream address, and limits.tunnels is {wanted}",
        "widen the range, add egress addresses, or lower limits.tunnels",
        "sysctl -w net.ipv4.ip_local_port_range='1024 65535'";
    PORTS_NOT_REUSED T08 Warning "ports_not_reused"
        "net.ipv4.tcp_tw_reuse is not 1 or tcp_timestamps is 0, so a port stays taken for a minute after each tunnel that the client ends first",
        "set it, and keep it with deploy/sysctl.d/90-sealway.conf",
        "sysctl -w net.ipv4.tcp_tw_reuse=1 net.ipv4.tcp_timestamps=1";
    CLOCK_FREE T09 Warning "clock_not_synchronised"
        "the kernel does not consider its clock synchronised, so audit records and the lifetimes of certificates may be wrong",
        "run a time service, such as chrony or systemd-timesyncd",
        "timedatectl set-ntp true";
    CLOCK_WRONG T09 Error "clock_wrong"
        "the clock says the year {year}, so certificates count as invalid and audit records have a wrong time",
        "set the clock, and run a time service",
        "timedatectl set-ntp true";
    LANDLOCK_NONE T10 Warning "landlock_missing"
        "this kernel has no Landlock, or does not allow it here, so only permissions and the unit restrict the daemon's access to files",
        "boot with landlock in the list of lsm=, or use a kernel of 5.13 or later that has it",
        "cat /sys/kernel/security/lsm";
    AUDIT_UNUSABLE T11 Error "audit_unusable"
        "the audit file {file} cannot be used: {reason}",
        "create its folder for the service's user, or correct audit.file",
        "ls -ld {folder} {file}";
    AUDIT_OWNER T11 Error "audit_owner_differs"
        "{file} belongs to another user than its folder {folder}, so a service that runs as the folder's owner cannot append to it",
        "give it to the folder's owner; a run as root may have created it",
        "chown --reference={folder} {file}";
    AUDIT_SPACE T11 Warning "audit_space_low"
        "the file system of {folder} has {free} MiB left for audit records; when it is full, audit.required refuses tunnels",
        "free some space, rotate the audit file, or move it",
        "df -h {folder}";
    FILE_OPEN T11 Error "file_writable_by_others"
        "{files} can be changed by every user of this host, and with it who may use the tunnel and for what",
        "take the right from others",
        "chmod o-w {file}";
    PRESETS_OLD T12 Warning "presets_old"
        "the host names of {presets} were read more than a year ago, and the provider may have added hosts",
        "install a newer release, or add missing hosts to policy.allow",
        "sealway presets";
    RANGES_OLD T12 Warning "ranges_old"
        "the destination ranges of {file} are {days} days old, and addresses that the provider added since are refused",
        "download the file again and reload",
        "systemctl reload sealway";
    HOP_REFUSES T13 Error "hop_check_failed"
        "sealway-hop does not accept the files of the TLS listeners: {reason}; its own lines on standard error name them",
        "correct certificate, key or revocation list; run this check as a user that may read the key",
        "sealway-hop --config {config} --check";
}
