//! `/etc` and `/run` of this namespace only: folders of the test replace those of the machine.

use std::net::SocketAddr;
use std::path::Path;

use tempfile::TempDir;

use crate::dns::{Dns, Say};
use crate::namespace::run;

/// The folders; dropped, they are removed. The namespace must be one of `in_own_network`.
pub struct Etc {
    etc: TempDir,
    run: TempDir,
}

impl Etc {
    /// Replaces `/etc` and `/run` by empty folders.
    pub fn empty() -> Etc {
        let new = || tempfile::tempdir().expect("tempdir");
        let folders = Etc {
            etc: new(),
            run: new(),
        };
        for (folder, over) in [(&folders.etc, "/etc"), (&folders.run, "/run")] {
            run(&format!("mount --bind {} {over}", folder.path().display()));
        }
        folders
    }

    /// The same with `/etc/resolv.conf` and without `/etc/hosts`.
    pub fn with(resolv_conf: &str) -> Etc {
        let etc = Etc::empty();
        etc.write("/etc/resolv.conf", resolv_conf);
        etc
    }

    /// Writes a file in place, like most programs.
    pub fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        if let Some(folder) = Path::new(path).parent() {
            std::fs::create_dir_all(folder).expect("a folder");
        }
        std::fs::write(path, text).expect("write the file");
    }

    /// Writes a file beside it and renames that, like careful programs.
    pub fn replace(&self, path: &str, text: impl AsRef<[u8]>) {
        let new = format!("{path}.new");
        self.write(&new, text);
        std::fs::rename(new, path).expect("rename");
    }

    pub fn remove(&self, path: &str) {
        std::fs::remove_file(path).expect("remove the file");
    }

    /// Makes `path` a link to `target` and replaces what was there.
    pub fn link(&self, target: &str, path: &str) {
        let new = format!("{path}.new");
        std::os::unix::fs::symlink(target, &new).expect("a link");
        std::fs::rename(new, path).expect("rename");
    }
}

/// A name server on port 53, the port of resolv.conf.
pub async fn server(address: &str, say: Say) -> Dns {
    let address: SocketAddr = address.parse().expect("ip:53");
    Dns::start_at(address, say).await
}

/// A datagram socket that receives queries and answers none.
pub fn silent(address: &str) -> std::net::UdpSocket {
    std::net::UdpSocket::bind(address).expect("bind a silent server")
}
