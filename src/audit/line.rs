//! Prints records of attempts as JSON lines (RFC 8259), byte for byte as serde_json does. There is
//! one for each tunnel, so strings without escapes, addresses and times take a faster path;
//! serde_json prints the rest. Never writes to a file.

use std::fmt::Display;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::Serialize;
use time::OffsetDateTime;

/// A value in a record.
pub(super) trait Field {
    /// Prints the value after `key`, which is `,"name":`. Prints nothing if the value is absent.
    fn print(&self, key: &str, line: &mut Line<'_>);
}

/// A line under construction.
pub(super) struct Line<'l>(&'l mut Vec<u8>);

/// Appends a daemon record as one line; there are few of them.
pub(super) fn append_json(record: &impl Serialize, lines: &mut Vec<u8>) {
    // Serialising fails only for maps whose keys are not strings, and no record has a map.
    let _never_fails = serde_json::to_writer(&mut *lines, record);
    lines.push(b'\n');
}

/// Declares a record, or a part of one: its fields are printed in this order under their own names.
/// A part has no key of its own; its fields appear among those of the record.
macro_rules! record {
    ($(#[$about:meta])* pub struct $name:ident { $($(#[$field_about:meta])* pub $field:ident: $type:ty,)+ }) => {
        $(#[$about])*
        pub struct $name {
            $($(#[$field_about])* pub $field: $type,)+
        }

        impl Field for $name {
            fn print(&self, _: &str, line: &mut Line<'_>) {
                $(self.$field.print(concat!(",\"", stringify!($field), "\":"), line);)+
            }
        }
    };
}
pub(super) use record;

/// Appends `record` as one line.
pub(super) fn append(record: &impl Field, lines: &mut Vec<u8>) {
    let start = lines.len();
    lines.reserve(LINE_BYTES);
    record.print("", &mut Line(lines));
    // Removes the comma before the first field.
    if let Some(first) = lines.get_mut(start) {
        *first = b'{';
    }
    lines.extend_from_slice(b"}\n");
}

impl Line<'_> {
    /// Prints a string that may need escapes.
    pub(super) fn text(&mut self, key: &str, text: &str) {
        self.raw(key);
        self.quoted(text);
    }

    /// Prints a string of the program, which needs no escapes.
    pub(super) fn word(&mut self, key: &str, word: &str) {
        debug_assert!(is_plain(word), "{word}");
        self.raw(key);
        self.plain(word);
    }

    /// Prints an array of strings.
    pub(super) fn texts<'t>(&mut self, key: &str, texts: impl Iterator<Item = &'t str>) {
        self.raw(key);
        self.raw("[");
        for (place, text) in texts.enumerate() {
            if place > 0 {
                self.raw(",");
            }
            self.quoted(text);
        }
        self.raw("]");
    }

    /// Prints a value whose text needs no escapes.
    pub(super) fn shown(&mut self, key: &str, value: impl Display) {
        self.raw(key);
        // Fails only if Display fails, which none of these does.
        let _never_fails = write!(self.0, "\"{value}\"");
    }

    /// Prints two hexadecimal numbers joined by a hyphen.
    pub(super) fn pair(&mut self, key: &str, first: u64, second: u64) {
        self.raw(key);
        self.raw("\"");
        self.hexadecimal(first);
        self.raw("-");
        self.hexadecimal(second);
        self.raw("\"");
    }

    fn quoted(&mut self, text: &str) {
        if is_plain(text) {
            self.plain(text);
        } else {
            self.json(text);
        }
    }

    fn plain(&mut self, text: &str) {
        self.raw("\"");
        self.raw(text);
        self.raw("\"");
    }

    fn json(&mut self, value: &(impl Serialize + ?Sized)) {
        // Fails only for maps whose keys are not strings.
        let _never_fails = serde_json::to_writer(&mut *self.0, value);
    }

    fn raw(&mut self, text: &str) {
        self.0.extend_from_slice(text.as_bytes());
    }

    /// Prints a number without leading zeros.
    fn hexadecimal(&mut self, number: u64) {
        let digits = number
            .to_be_bytes()
            .map(|byte| [byte >> 4, byte & 15].map(hexadecimal_digit));
        let zeros = number.leading_zeros() as usize / 4;
        self.0.extend_from_slice(
            digits
                .as_flattened()
                .get(zeros.min(15)..)
                .unwrap_or_default(),
        );
    }

    /// Prints an octet of an IPv4 address and the byte after it. Each record has many of them.
    fn octet(&mut self, octet: u8, then: u8) {
        if octet >= 100 {
            self.0.push(b'0' + octet / 100);
        }
        if octet >= 10 {
            self.0.push(b'0' + octet / 10 % 10);
        }
        self.0.push(b'0' + octet % 10);
        self.0.push(then);
    }

    /// The last digits of a number.
    fn digits<const COUNT: usize>(&mut self, number: u32) {
        let mut digits = [0; COUNT];
        digits.iter_mut().rev().fold(number, |left, digit| {
            // A number below ten.
            *digit = b'0' + (left % 10) as u8;
            left / 10
        });
        self.0.extend_from_slice(&digits);
    }
}

/// Whether serde_json prints the text unchanged.
fn is_plain(text: &str) -> bool {
    // No early return, so that the compiler compares sixteen bytes at once.
    text.bytes().fold(true, |plain, byte| {
        plain & (byte >= b' ') & (byte != b'"') & (byte != b'\\')
    })
}

/// The digit of a number below sixteen.
fn hexadecimal_digit(number: u8) -> u8 {
    number + if number < 10 { b'0' } else { b'a' - 10 }
}

/// RFC 3339, UTC, microseconds.
impl Field for OffsetDateTime {
    fn print(&self, key: &str, line: &mut Line<'_>) {
        let (year, month, day) = self.to_calendar_date();
        let (hour, minute, second, microsecond) = self.to_hms_micro();
        line.raw(key);
        line.raw("\"");
        line.digits::<4>(year.unsigned_abs());
        line.raw("-");
        line.digits::<2>(u8::from(month).into());
        line.raw("-");
        line.digits::<2>(day.into());
        line.raw("T");
        line.digits::<2>(hour.into());
        line.raw(":");
        line.digits::<2>(minute.into());
        line.raw(":");
        line.digits::<2>(second.into());
        line.raw(".");
        line.digits::<6>(microsecond);
        line.raw("Z\"");
    }
}

impl Field for SocketAddr {
    fn print(&self, key: &str, line: &mut Line<'_>) {
        let Self::V4(address) = self else {
            return line.shown(key, self);
        };
        line.raw(key);
        line.raw("\"");
        let [first, second, third, last] = address.ip().octets();
        line.octet(first, b'.');
        line.octet(second, b'.');
        line.octet(third, b'.');
        line.octet(last, b':');
        line.json(&address.port());
        line.raw("\"");
    }
}

/// A string of the program.
impl Field for &'static str {
    fn print(&self, key: &str, line: &mut Line<'_>) {
        line.word(key, self);
    }
}

impl Field for str {
    fn print(&self, key: &str, line: &mut Line<'_>) {
        line.text(key, self);
    }
}

impl<F: Field> Field for Option<F> {
    fn print(&self, key: &str, line: &mut Line<'_>) {
        if let Some(field) = self {
            field.print(key, line);
        }
    }
}

macro_rules! as_what_it_holds {
    ($($holder:ty)+) => {$(
        impl<F: Field + ?Sized> Field for $holder {
            fn print(&self, key: &str, line: &mut Line<'_>) {
                (**self).print(key, line);
            }
        }
    )+};
}
as_what_it_holds!(Arc<F> Box<F>);

macro_rules! as_serde_json_has_it {
    ($($number:ty)+) => {$(
        impl Field for $number {
            fn print(&self, key: &str, line: &mut Line<'_>) {
                line.raw(key);
                line.json(self);
            }
        }
    )+};
}
as_serde_json_has_it!(bool u16 u32 u64 f64);

/// Longer than most lines.
const LINE_BYTES: usize = 2_048;
