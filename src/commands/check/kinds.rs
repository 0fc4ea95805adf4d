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
        "no network interface of this host has the egress address {egress}, so no tunnel can leave from it",
        "correct egress.addresses, or add the address to an interface; behind a cloud's NAT, use the private address that the interface has",
        "ip -brief address";
    EGRESS_UNKNOWN T01 Error "egress_not_told"
        "this check could not find out whether this host has the egress address {egress}: {reason}",
        "run the check as root, outside of a sandbox that forbids sockets",
        "ip -brief address";
    EGRESS_NONE T01 Error "egress_none"
        "egress.addresses is empty and this host has no default route, so tunnels would leave from {egress} and could reach only this host",
        "add a default route, or set egress.addresses",
        "ip route show default";
    ROUTE_MISSING T02 Error "route_missing"
        "this host has no route from {egress} to {upstreams}",
        "add a route for packets from this address; if the address belongs to another interface than the default route, follow \"Leave by another interface\" in docs/operate.md",
        "ip route get {address} from {egress}";
    EGRESS_PRIVATE T03 Warning "egress_private"
        "the egress address {egress} is private, so a NAT replaces it on the way, and the provider sees an address that egress.public does not name",
        "give the NAT one static public address, add that address to the provider's allowlist, and set egress.public to it",
        "ip route get 192.0.2.1 from {egress}";
    EGRESS_NOT_ROUTED T03 Error "egress_not_routed"
        "the egress address {egress} is {class}, and routers do not forward packets from such an address",
        "set egress.addresses to an address that this command lists",
        "ip -brief address show scope global";
    PUBLIC_NOT_GLOBAL T03 Error "public_not_global"
        "egress.public has {address}, which is {class}, so it cannot be the address that a provider sees",
        "set egress.public in this file to the public address of the NAT, which the console of your cloud or your router shows",
        "grep -n public {config}";
    DNS_TIMEOUT T04 Error "dns_timeout"
        "no name server answers the query for {hosts} within {limit}",
        "correct dns.servers (or /etc/resolv.conf, if dns.servers is empty), or let UDP and TCP to port 53 of the name server through the firewall",
        "getent ahosts {host}";
    DNS_FAILED T04 Error "dns_failed"
        "the name server cannot resolve {hosts}: {reason}",
        "correct dns.servers (or /etc/resolv.conf, if dns.servers is empty), or repair the name server",
        "getent ahosts {host}";
    DNS_NO_ADDRESS T04 Error "dns_no_address"
        "DNS has no address for {hosts}",
        "correct the name in policy.allow, or the part after the colon of the preset; if the name is right, ask the operator of the name server",
        "getent ahosts {host}";
    DNS_WRONG_FAMILY T04 Error "dns_wrong_family"
        "DNS has only {family} addresses for {hosts}, and egress.addresses has none of that family",
        "add an address of that family to egress.addresses, and to the provider's allowlist; this host has these addresses",
        "ip -brief address show scope global";
    DNS_DENIED T04 Error "dns_address_denied"
        "DNS answers {address} for {hosts}, which is {class}; tunnels to it are refused, because such an address may lead into your own network",
        "if it is a private endpoint that you want, add its network to policy.allow_destinations; otherwise repair the name server",
        "sealway explain --config {config} {host}";
    DNS_SLOW T04 Warning "dns_slow"
        "the name server takes {time} to resolve {hosts}, and each new tunnel waits for it",
        "use a name server that is closer, or one that caches",
        "getent ahosts {host}";
    TCP_REFUSED T05 Error "tcp_refused"
        "connections from {egress} are refused by {upstreams}, or by a firewall on the way",
        "correct the port in policy.allow, or change the firewall rule that rejects the connection",
        "sealway explain --config {config} {host}:{port}";
    TCP_TIMEOUT T05 Error "tcp_timeout"
        "connections from {egress} get no answer within {limit} from {upstreams}: a firewall drops the packets, or the answers go to another host",
        "allow TCP from this egress address to this port in the firewall and in the cloud's egress rules; if it is allowed, make sure that packets to {egress} reach this host",
        "ip route get {address} from {egress}";
    TCP_FAILED T05 Error "tcp_failed"
        "connections from {egress} fail to {upstreams}: {reason}",
        "check the routes of this host and the firewalls on the way",
        "ip route get {address} from {egress}";
    TIME_UP T05 Error "time_used_up"
        "the time of this check was over before {count} connections had a result",
        "remove the cause of the other findings first, such as a firewall that drops packets, because silent hosts take the time; then check again",
        "sealway check --deep --config {config}";
    MTU_SMALL T06 Warning "mtu_small"
        "packets from {egress} have at most {mtu} bytes on the way to {upstreams}, and every path should carry 1280",
        "raise the MTU of the interface or of the tunnel device that this command names",
        "ip route get {address} from {egress}";
    MSS_SMALL T06 Warning "mss_small"
        "{upstreams} announce to {egress} that they take only {mss} bytes in a segment, although packets of {mtu} bytes fit into the path: their own network is small, or a router on the way changed the announcement (MSS clamping)",
        "if a router or VPN of yours clamps the MSS, raise its value; otherwise leave it: it costs speed only, and --ignore T06 leaves the finding out",
        "ip route get {address} from {egress}";
    SEGMENTS_LOST T06 Error "large_segments_lost"
        "connections from {egress} open, and then a full-sized packet never arrives at {upstreams}: a router on the way drops large packets, and its ICMP message is lost too, so every large (post-quantum) ClientHello hangs",
        "let ICMP type 3 code 4 (IPv6: ICMPv6 type 2) through the firewalls on the way; until then, this command lets the kernel begin each connection with small packets, and find the right size by itself",
        "sysctl -w net.ipv4.tcp_mtu_probing=2";
    FILES_FEW T07 Error "descriptors_few"
        "a daemon that starts from here may open {limit} files, enough for {tunnels} tunnels, and limits.tunnels is {wanted}",
        "raise the limit (LimitNOFILE= of the unit, --ulimit nofile of the container, ulimit -n of the shell), or lower limits.tunnels; this command shows the limit that the service has",
        "systemctl show sealway.service --property=LimitNOFILE";
    PORTS_FEW T08 Error "ports_few"
        "{ports} local ports for each of {count} {family} egress addresses allow {most} tunnels to one upstream address, and limits.tunnels is {wanted}",
        "widen the range of local ports, add egress addresses, or lower limits.tunnels",
        "sysctl -w net.ipv4.ip_local_port_range='1024 65535'";
    PORTS_NOT_REUSED T08 Warning "ports_not_reused"
        "net.ipv4.tcp_tw_reuse is not 1, or net.ipv4.tcp_timestamps is 0, so the kernel blocks the local port of an ended tunnel for a minute",
        "set both; to keep them after a reboot, write them to a file in /etc/sysctl.d",
        "sysctl -w net.ipv4.tcp_tw_reuse=1 net.ipv4.tcp_timestamps=1";
    CLOCK_FREE T09 Warning "clock_not_synchronised"
        "no time service synchronises the clock, so it may be wrong, and with it the times of audit records and the validity of certificates",
        "start a time service, such as systemd-timesyncd (this command) or chrony",
        "timedatectl set-ntp true";
    CLOCK_WRONG T09 Error "clock_wrong"
        "the clock says that this is the year {year}, so certificates look expired or not yet valid, and audit records have a wrong time",
        "set the clock: start a time service",
        "timedatectl set-ntp true";
    LANDLOCK_NONE T10 Warning "landlock_missing"
        "the kernel offers no Landlock here, so only file permissions and the systemd unit limit which files the daemon can reach",
        "use a kernel of 5.13 or later, and boot it with landlock in the list of its parameter lsm=; this command shows the list",
        "cat /sys/kernel/security/lsm";
    AUDIT_UNUSABLE T11 Error "audit_unusable"
        "the user who runs this check cannot write the audit file {file}: {reason}",
        "create the folder and give it to the service's user, or correct audit.file; the check is for root or the service's user",
        "ls -ld {folder} {file}";
    AUDIT_OWNER T11 Error "audit_owner_differs"
        "the audit file {file} and its folder {folder} have different owners, so a service that runs as the folder's owner cannot write the file",
        "give the file to the owner of the folder; sealway run by root may have created it",
        "chown --reference={folder} {file}";
    AUDIT_SPACE T11 Warning "audit_space_low"
        "{folder} has {free} MiB left for audit records; once it is full, every new tunnel is refused unless audit.on_failure is \"allow\"",
        "free some space, rotate the audit file, or move it to a larger file system",
        "df -h {folder}";
    FILE_OPEN T11 Error "file_writable_by_others"
        "every user of this host can change {files}, and with it who may use the tunnel, and for what",
        "take the write permission from other users",
        "chmod o-w {file}";
    PRESETS_OLD T12 Warning "presets_old"
        "the host names in {presets} are more than a year old, and the provider may have added hosts since",
        "install a newer release, or add the missing hosts to policy.allow",
        "sealway presets";
    RANGES_OLD T12 Warning "ranges_old"
        "the destination ranges in {file} are {days} days old, and tunnels to addresses that the provider added since are refused",
        "download the file again (docs/reference.md, \"Destination ranges\"), then reload",
        "systemctl reload sealway";
    HOP_REFUSES T13 Error "hop_check_failed"
        "sealway-hop does not accept the files of the TLS listeners: {reason}",
        "correct the certificate, key or revocation list that sealway-hop names on standard error",
        "sealway-hop --config {config} --check";
}
