//! Parses the name servers and options of resolv.conf(5) as tolerantly as glibc: lines that it
//! cannot parse are skipped and reported. Pure.
//!
//! Never rejects a file, and never uses its search list: names are queried as they are.

use super::server::Server;
use super::system::{Format, Skipped, SystemFile, Unfit};

/// The settings that the resolver uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ResolvConf {
    /// In the file's order; empty if the file names none.
    pub(super) servers: Vec<Server>,
    /// `options rotate`: each look-up begins with the next server.
    pub(super) rotate: bool,
    /// `options use-vc`: queries use TCP.
    pub(super) over_tcp: bool,
    /// `options no-aaaa`: AAAA records are not queried.
    pub(super) no_aaaa: bool,
}

impl ResolvConf {
    /// The servers to query; without one in the file, 127.0.0.1 as in glibc.
    pub(super) fn servers(&self) -> Vec<Server> {
        if self.servers.is_empty() {
            vec![Server::of_this_host()]
        } else {
            self.servers.clone()
        }
    }

    fn nameserver(&mut self, text: Option<&str>) -> Result<(), String> {
        let text = text.unwrap_or_default();
        let server = Server::parse_address(text)
            .map_err(|error| format!("nameserver {}: {error}", Skipped::shown(text)))?;
        if self.servers.contains(&server) {
            return Ok(());
        }
        if self.servers.len() == SERVERS_MAX {
            return Err(format!("more than {SERVERS_MAX} name servers"));
        }
        self.servers.push(server);
        Ok(())
    }

    fn option(&mut self, word: &str) -> Result<(), String> {
        match word.split(':').next().unwrap_or(word) {
            "rotate" => self.rotate = true,
            "use-vc" => self.over_tcp = true,
            "no-aaaa" => self.no_aaaa = true,
            name if UNUSED_OPTIONS.contains(&name) => {}
            name => return Err(format!("unknown option {}", Skipped::shown(name))),
        }
        Ok(())
    }

    fn line(&mut self, line: &str) -> Result<(), String> {
        let mut words = line
            .split([';', '#'])
            .next()
            .unwrap_or_default()
            .split_whitespace();
        match words.next() {
            None => Ok(()),
            Some("nameserver") => self.nameserver(words.next()),
            Some("options") => {
                let unknown: Vec<_> = words.filter_map(|word| self.option(word).err()).collect();
                if unknown.is_empty() {
                    Ok(())
                } else {
                    Err(unknown.join("; "))
                }
            }
            Some(word) if UNUSED_WORDS.contains(&word) => Ok(()),
            Some(word) => Err(format!("unknown word {}", Skipped::shown(word))),
        }
    }
}

impl Format for ResolvConf {
    const FILE: SystemFile = SystemFile::ResolvConf;
    const BYTES_MAX: u64 = 64 * 1024;

    fn parse(text: &str) -> (Self, Skipped) {
        let (mut read, mut skipped) = (Self::default(), Skipped::default());
        for (number, line) in (1..).zip(text.lines()) {
            if let Err(why) = read.line(line) {
                skipped.add(number, why);
            }
        }
        (read, skipped)
    }

    /// A file without servers after one with servers counts as unfinished; otherwise no server
    /// could be queried.
    fn unfit_after(&self, before: &Self, _text: &str) -> Option<Unfit> {
        (self.servers.is_empty() && !before.servers.is_empty()).then_some(Unfit::NoServer)
    }

    fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }

    fn summary(&self) -> String {
        let servers: Vec<_> = self.servers().iter().map(Server::to_string).collect();
        format!("name servers {}", servers.join(" "))
    }
}

/// glibc uses three. All eight can be queried within `dns.timeout`.
const SERVERS_MAX: usize = 8;
/// The search list could turn the name that policy allowed into another; the dialler orders
/// addresses itself.
const UNUSED_WORDS: [&str; 3] = ["search", "domain", "sortlist"];
/// Known options without effect here; docs/reference.md explains those that an operator might miss.
const UNUSED_OPTIONS: [&str; 14] = [
    "attempts",
    "debug",
    "edns0",
    "inet6",
    "insecure1",
    "insecure2",
    "ip6-bytestring",
    "ndots",
    "no-check-names",
    "no-reload",
    "no-tld-query",
    "single-request",
    "single-request-reopen",
    "timeout",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (ResolvConf, Vec<(usize, String)>) {
        let (read, skipped) = ResolvConf::parse(text);
        (read, skipped.lines().to_vec())
    }

    #[test]
    fn servers_are_read_in_every_common_form() {
        let text = "# one\r\n\tnameserver\t192.0.2.1 # two\r\nnameserver 192.0.2.2;three\nnameserver fe80::1%eth0 192.0.2.9\n\
                    nameserver 192.0.2.1\nsearch foo..bar\ndomain\noptions ndots:5 edns0 timeout:1\n; end";
        let (read, skipped) = parse(text);
        assert_eq!(
            read.summary(),
            "name servers 192.0.2.1 192.0.2.2 fe80::1%eth0"
        );
        assert!(skipped.is_empty(), "{skipped:?}");
        assert!(!(read.rotate || read.over_tcp || read.no_aaaa));
    }

    #[test]
    fn an_unreadable_line_is_skipped_and_reported() {
        let (read, skipped) =
            parse("nameserver\nnameserver x\nlookup file\noptions a rotate b:2\n\0\n");
        assert!(read.rotate && read.is_empty());
        let lines: Vec<_> = skipped.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [1, 2, 3, 4, 5]);
        let (_, fourth) = skipped.get(3).cloned().unwrap_or_default();
        assert_eq!(fourth, "unknown option \"a\"; unknown option \"b\"");
    }

    #[test]
    fn the_number_of_servers_is_bounded() {
        let text: String = (1..=9)
            .map(|last| format!("nameserver 192.0.2.{last}\n"))
            .collect();
        let (read, skipped) = parse(&text);
        assert_eq!((read.servers.len(), skipped.len()), (8, 1));
    }

    #[test]
    fn a_file_that_names_no_server_any_more_is_unfinished() {
        let (some, none) = (parse("nameserver 192.0.2.1").0, parse("search a").0);
        assert_eq!(none.unfit_after(&some, ""), Some(Unfit::NoServer));
        assert_eq!(none.unfit_after(&none, ""), None);
        assert_eq!(some.unfit_after(&some, ""), None);
        assert_eq!(none.summary(), "name servers 127.0.0.1");
    }
}
