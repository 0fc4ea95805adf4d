//! Names with fixed addresses on this machine: hosts(5), and special-use names that must not be
//! queried. Pure.
//!
//! A name in the file has the addresses of all its lines and no others: DNS is not queried for a
//! family that the file leaves out.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::message::ADDRESSES_MAX;
use super::system::{Format, Skipped, SystemFile, Unfit};
use crate::authority::Host;

/// The names of hosts(5) and their addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct HostsFile(HashMap<Host, Vec<IpAddr>>);

impl HostsFile {
    /// The addresses of a name, both families, in the order of the file.
    pub(super) fn addresses(&self, host: &Host) -> Option<&[IpAddr]> {
        self.0.get(host).map(Vec::as_slice)
    }

    fn line(&mut self, line: &str) -> Result<(), String> {
        let mut words = line
            .split('#')
            .next()
            .unwrap_or_default()
            .split_whitespace();
        let Some(text) = words.next() else {
            return Ok(());
        };
        let address: IpAddr = text
            .parse()
            .map_err(|_| format!("{} is not an IP address", Skipped::shown(text)))?;
        let (mut names, mut wrong) = (0, Vec::new());
        for name in words {
            names += 1;
            match Host::parse(name) {
                Ok(host) => wrong.extend(self.add(host, address.to_canonical()).err()),
                Err(error) => wrong.push(format!("{}: {error}", Skipped::shown(name))),
            }
        }
        if names == 0 {
            return Err("an address without a name".to_owned());
        }
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(wrong.join("; "))
        }
    }

    fn add(&mut self, host: Host, address: IpAddr) -> Result<(), String> {
        let addresses = self.0.entry(host.clone()).or_default();
        if addresses.contains(&address) {
            return Ok(());
        }
        if addresses.len() == ADDRESSES_MAX {
            return Err(format!("{host} has more than {ADDRESSES_MAX} addresses"));
        }
        addresses.push(address);
        Ok(())
    }
}

impl Format for HostsFile {
    const FILE: SystemFile = SystemFile::Hosts;
    /// Advertisement block lists have up to 10 MiB.
    const BYTES_MAX: u64 = 16 * 1024 * 1024;

    fn parse(text: &str) -> (Self, Skipped) {
        let (mut read, mut skipped) = (Self::default(), Skipped::default());
        for (number, line) in (1..).zip(text.lines()) {
            if let Err(why) = read.line(line) {
                skipped.add(number, why);
            }
        }
        (read, skipped)
    }

    /// An empty file after one with names counts as unfinished; otherwise names that it pinned
    /// would be queried from DNS.
    fn unfit_after(&self, before: &Self, text: &str) -> Option<Unfit> {
        (text.trim().is_empty() && !before.is_empty()).then_some(Unfit::Empty)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn summary(&self) -> String {
        format!("{} names", self.0.len())
    }
}

/// The addresses of special-use names, which must not be queried (RFC 6761, section 6; RFC 7686);
/// empty: the name has none.
pub(super) fn special(host: &Host) -> Option<&'static [IpAddr]> {
    match host.as_str().rsplit('.').next() {
        Some("localhost") => Some(&LOOPBACK),
        Some("invalid" | "onion") => Some(&[]),
        _ => None,
    }
}

const LOOPBACK: [IpAddr; 2] = [
    IpAddr::V6(Ipv6Addr::LOCALHOST),
    IpAddr::V4(Ipv4Addr::LOCALHOST),
];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn addresses(file: &HostsFile, name: &str) -> Option<Vec<String>> {
        let addresses = file.addresses(&Host::parse(name).unwrap())?;
        Some(addresses.iter().map(IpAddr::to_string).collect())
    }

    #[test]
    fn a_name_has_the_addresses_of_all_its_lines() {
        let (file, skipped) = HostsFile::parse(
            "192.0.2.1 One.Example one # both\r\n2001:db8::1\tone.example.\n#192.0.2.9 one.example\n\
             ::ffff:192.0.2.2 one.example\n192.0.2.1 one.example\n",
        );
        assert_eq!(
            addresses(&file, "ONE.example."),
            Some(vec![
                "192.0.2.1".into(),
                "2001:db8::1".into(),
                "192.0.2.2".into()
            ])
        );
        assert_eq!(addresses(&file, "one"), Some(vec!["192.0.2.1".into()]));
        assert_eq!(addresses(&file, "two"), None);
        assert!(skipped.lines().is_empty());
    }

    #[test]
    fn malformed_lines_are_skipped() {
        let (file, skipped) = HostsFile::parse(
            "x a.example\n192.0.2.1\nfe80::1%lo b.example\n127.1 c.example\n192.0.2.1 d..e 1.2.3.4 f.example\n",
        );
        let lines: Vec<_> = skipped.lines().iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [1, 2, 3, 4, 5]);
        assert_eq!(
            addresses(&file, "f.example"),
            Some(vec!["192.0.2.1".into()])
        );
        assert_eq!(file.0.len(), 1);
    }

    #[test]
    fn the_addresses_of_a_name_are_bounded() {
        let text: String = (0..70)
            .map(|last| format!("192.0.2.{last} a.example\n"))
            .collect();
        let (file, skipped) = HostsFile::parse(&text);
        assert_eq!(addresses(&file, "a.example").unwrap().len(), 64);
        assert_eq!(skipped.count(), 6);
    }

    #[test]
    fn special_names_and_all_names_below_them_are_never_queried() {
        let special = |name: &str| special(&Host::parse(name).unwrap());
        for name in ["localhost", "a.localhost", "A.B.LocalHost."] {
            assert_eq!(special(name), Some(&LOOPBACK[..]), "{name}");
        }
        for name in ["invalid", "a.invalid", "onion", "a.b.onion"] {
            assert_eq!(special(name), Some(&[][..]), "{name}");
        }
        for name in ["localhost.example", "notlocalhost", "a.notonion"] {
            assert_eq!(special(name), None, "{name}");
        }
    }

    #[test]
    fn only_an_empty_file_is_unfinished() {
        let full = HostsFile::parse("192.0.2.1 a.example").0;
        let none = HostsFile::default();
        assert_eq!(none.unfit_after(&full, " \n"), Some(Unfit::Empty));
        assert_eq!(none.unfit_after(&full, "# no names\n"), None);
        assert_eq!(none.unfit_after(&none, ""), None);
    }
}
