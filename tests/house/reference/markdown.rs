//! Tables in Markdown, and the plain texts of the program with their names as code and links.

/// A table with this head.
pub fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | ")).replace("|  |", "| |");
    let head: Vec<_> = head.iter().map(|cell| (*cell).to_owned()).collect();
    let mut table = line(&head) + &format!("|{}\n", "---|".repeat(head.len()));
    for row in rows {
        assert_eq!(row.len(), head.len(), "{row:?}");
        assert!(
            row.iter().all(|cell| !cell.contains(['|', '\n'])),
            "{row:?}"
        );
        table += &line(&row);
    }
    table
}

/// A name between backticks.
pub fn code(name: &str) -> String {
    format!("`{name}`")
}

/// A text of the program: configuration keys and the phrases of [`PHRASES`] become code or links.
pub fn prose(text: &str) -> String {
    let words = text.split(' ').map(|word| {
        let bare = word.trim_matches(['(', ')', ',', ';', ':', '.']);
        if is_key(bare) || bare.contains("://") {
            word.replace(bare, &code(bare))
        } else {
            word.to_owned()
        }
    });
    let text = words.collect::<Vec<_>>().join(" ");
    PHRASES
        .iter()
        .fold(text, |text, (plain, marked)| text.replace(plain, marked))
}

/// Whether this is a section and a key.
fn is_key(word: &str) -> bool {
    let is_name =
        |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    word.split_once('.')
        .is_some_and(|(section, key)| is_name(section) && is_name(key))
}

const PHRASES: [(&str, &str); 22] = [
    ("CONNECT host:port HTTP/1.1", "`CONNECT host:port HTTP/1.1`"),
    ("exceeds a bound", "exceeds [a bound](#bounds-on-dns)"),
    (
        "the memory for hellos",
        "[the memory for hellos](#process-memory)",
    ),
    ("add host:port", "add `host:port`"),
    ("\"deny\"", "`\"deny\"`"),
    ("/readyz", "`/readyz`"),
    ("/status", "`/status`"),
    ("/etc/resolv.conf", "`/etc/resolv.conf`"),
    ("/etc/hosts", "`/etc/hosts`"),
    ("first_byte_ms", "`first_byte_ms`"),
    ("group is none", "group is `none`"),
    (
        "cannot be read",
        "[cannot be read](hardening.md#remaining-exposure)",
    ),
    ("LimitNOFILE", "`LimitNOFILE`"),
    ("error in the audit record", "`error` in the audit record"),
    ("revoked_by", "`revoked_by`"),
    ("user's sources", "user's `sources`"),
    ("user's egress", "user's `egress`"),
    ("user's expires", "user's `expires`"),
    ("sealway user rotate NAME", "`sealway user rotate NAME`"),
    (
        "sealway drain",
        "[`sealway drain`](#drained-by-an-operator)",
    ),
    (
        "sealway end",
        "[`sealway end`](#tunnels-ended-by-an-operator)",
    ),
    ("sealway undrain", "`sealway undrain`"),
];
