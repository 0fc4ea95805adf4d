//! The values that are filled into the texts of verdicts.
//!
//! A value may come from a peer, so it is cut and stripped of what a terminal would obey. Holds no secret.

/// Named values, few.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Values(Vec<(&'static str, String)>);

impl Values {
    /// With one more value; an empty one stays unknown.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl AsRef<str>) -> Self {
        self.set(name, value);
        self
    }

    /// Sets a value; an empty one stays unknown.
    pub fn set(&mut self, name: &'static str, value: impl AsRef<str>) {
        let value = harmless(value.as_ref());
        self.0.retain(|(known, _)| *known != name);
        if !value.is_empty() {
            self.0.push((name, value));
        }
    }

    /// Sets a value that may be empty.
    pub fn set_exactly(&mut self, name: &'static str, value: &str) {
        self.0.retain(|(known, _)| *known != name);
        self.0.push((name, harmless(value)));
    }

    /// Adds the values that are not known here.
    #[must_use]
    pub fn or(mut self, others: &Self) -> Self {
        for (name, value) in &others.0 {
            if self.get(name).is_none() {
                self.0.push((name, value.clone()));
            }
        }
        self
    }

    /// The value of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// A sentence with its values; the name in capitals for each that is unknown.
    #[must_use]
    pub fn fill(&self, text: &str) -> String {
        self.fill_each(text, str::to_owned)
    }

    /// A command with its values, quoted where a shell needs it.
    #[must_use]
    pub fn fill_command(&self, text: &str) -> String {
        self.fill_each(text, quoted)
    }

    fn fill_each(&self, text: &str, shown: impl Fn(&str) -> String) -> String {
        let mut filled = String::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once('{') {
            let (name, after) = behind.split_once('}').unwrap_or((behind, ""));
            filled += before;
            match self.get(name) {
                // Several words, each quoted already.
                Some(value) if name == AGAIN => filled += value,
                Some(value) => filled += &shown(value),
                None if name == AGAIN => filled += AGAIN_BARE,
                None => filled += &name.to_ascii_uppercase(),
            }
            rest = after;
        }
        filled + rest
    }
}

/// At most `VALUE_MAX` characters, none of them a control or format character; anything else that does not print as
/// itself becomes `?`.
#[must_use]
pub fn harmless(text: &str) -> String {
    let shown = |c: char| match c {
        ' '..='~' => c,
        c if c.is_alphanumeric() => c,
        _ => '?',
    };
    text.chars().take(VALUE_MAX).map(shown).collect()
}

/// A word for a POSIX shell.
#[must_use]
pub fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-:/,@%+=".contains(c);
    match value.chars().all(plain) {
        true => value.to_owned(),
        false => format!("'{}'", value.replace('\'', r"'\''")),
    }
}

/// The value that is a whole command line: the doctor's own, with the flags of this run.
pub const AGAIN: &str = "again";
const AGAIN_BARE: &str = "sealway doctor";
/// The longest cause and cure of a code of the tunnel, and names of hosts, have less.
const VALUE_MAX: usize = 600;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_known_value_is_filled_in_and_an_unknown_one_stands_in_capitals() {
        let values = Values::default().with("host", "a.example").with("port", "");
        assert_eq!(
            values.fill("to {host}:{port}, {host}"),
            "to a.example:PORT, a.example"
        );
        assert_eq!(values.fill("none"), "none");
        assert_eq!(values.fill_command("{again} -x"), "sealway doctor -x");
        let again = Values::default().with(AGAIN, "sealway doctor --model 'a b'");
        assert_eq!(
            again.fill_command("{again} -x"),
            "sealway doctor --model 'a b' -x"
        );
        let others = Values::default().with("host", "b").with("port", "443");
        assert_eq!(values.or(&others).fill("{host}:{port}"), "a.example:443");
    }

    #[test]
    fn a_value_of_a_peer_neither_moves_the_cursor_nor_leaves_its_word() {
        let values = Values::default().with("a", "\x1b[2Jx\u{202e}\n'; reboot #{b}");
        assert_eq!(values.fill("{a}"), "?[2Jx??'; reboot #{b}");
        let command = values.fill_command("echo {a}");
        assert_eq!(command, r"echo '?[2Jx??'\''; reboot #{b}'");
        let ran = std::process::Command::new("sh")
            .args(["-c", &command])
            .output()
            .unwrap();
        assert_eq!(ran.stdout, b"?[2Jx??'; reboot #{b}\n");
        assert_eq!(harmless(&"x".repeat(1000)).len(), 600);
    }
}
