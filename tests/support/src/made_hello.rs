//! ClientHellos made by hand, for content that no real client sends (RFC 8446, section 4.1.2; RFC
//! 6066, section 3).

/// A hello under construction: TLS 1.3 and 1.2, only the added extensions.
#[derive(Clone)]
pub struct MadeHello {
    legacy_version: u16,
    extensions: Vec<Vec<u8>>,
}

impl MadeHello {
    /// Names the host in SNI.
    pub fn naming(host: &str) -> MadeHello {
        MadeHello::bare()
            .server_names(&[(HOST_NAME, host)])
            .versions(&[0x0304, 0x0303])
    }

    /// Without extensions.
    pub fn bare() -> MadeHello {
        MadeHello {
            legacy_version: 0x0303,
            extensions: Vec::new(),
        }
    }

    /// The version of clients without `supported_versions`.
    pub fn legacy_version(mut self, version: u16) -> MadeHello {
        self.legacy_version = version;
        self
    }

    /// `server_name` with these entries, each with its type.
    pub fn server_names(self, names: &[(u8, &str)]) -> MadeHello {
        let entry =
            |(kind, name): &(u8, &str)| [&[*kind], vector16(name.as_bytes()).as_slice()].concat();
        let entries: Vec<u8> = names.iter().flat_map(entry).collect();
        self.extension(0, &vector16(&entries))
    }

    /// `supported_versions`.
    pub fn versions(self, versions: &[u16]) -> MadeHello {
        let list: Vec<u8> = versions
            .iter()
            .flat_map(|version| version.to_be_bytes())
            .collect();
        let length = u8::try_from(list.len()).expect("few versions");
        self.extension(43, &[&[length], list.as_slice()].concat())
    }

    /// Any extension.
    pub fn extension(mut self, kind: u16, data: &[u8]) -> MadeHello {
        self.extensions
            .push([kind.to_be_bytes().as_slice(), &vector16(data)].concat());
        self
    }

    /// The handshake message.
    pub fn message(&self) -> Vec<u8> {
        let mut body = self.legacy_version.to_be_bytes().to_vec();
        body.extend([0x5a; 32]); // random
        body.push(0); // no session id
        body.extend([0, 4, 0x13, 0x01, 0xc0, 0x2f]); // cipher suites
        body.extend([1, 0]); // no compression
        if !self.extensions.is_empty() {
            body.extend(vector16(&self.extensions.concat()));
        }
        let length = u32::try_from(body.len())
            .expect("a short hello")
            .to_be_bytes();
        [&[1, length[1], length[2], length[3]], body.as_slice()].concat()
    }

    /// In one record.
    pub fn bytes(&self) -> Vec<u8> {
        record(22, &self.message())
    }
}

/// One TLS record.
pub fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    [&[kind, 3, 1], vector16(content).as_slice()].concat()
}

fn vector16(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len())
        .expect("a short vector")
        .to_be_bytes();
    [&length, bytes].concat()
}

/// The only defined type of a server name.
pub const HOST_NAME: u8 = 0;
