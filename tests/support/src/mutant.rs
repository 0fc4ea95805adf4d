//! Changed ClientHellos, the same in each run: bytes, lengths, extensions and names of recorded
//! hellos, and their division into records.

use crate::made_hello::record;

/// A small pseudo-random generator (xorshift64*): a failure must recur in the next run.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `end`, which is not zero.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end
    }

    pub fn one_of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}

/// A hello taken apart: the bytes before the extensions, and each extension.
#[derive(Clone)]
pub struct Dissected {
    fields: Vec<u8>,
    pub extensions: Vec<(u16, Vec<u8>)>,
}

impl Dissected {
    /// Of a message without record headers, whose lengths are right.
    pub fn new(message: &[u8]) -> Dissected {
        let after = |at: usize, len: usize| at + len;
        let number = |at: usize| usize::from(u16::from_be_bytes([message[at], message[at + 1]]));
        let mut at = after(38, 1 + usize::from(message[38]));
        at = after(at, 2 + number(at));
        at = after(at, 1 + usize::from(message[at]));
        let (fields, mut rest) = (
            message[4..at].to_vec(),
            message.get(at + 2..).unwrap_or_default(),
        );
        let mut extensions = Vec::new();
        while let [kind_high, kind_low, high, low, tail @ ..] = rest {
            let (data, behind) = tail.split_at(usize::from(u16::from_be_bytes([*high, *low])));
            extensions.push((u16::from_be_bytes([*kind_high, *kind_low]), data.to_vec()));
            rest = behind;
        }
        Dissected { fields, extensions }
    }

    /// Reassembles the message.
    pub fn message(&self) -> Vec<u8> {
        let one =
            |(kind, data): &(u16, Vec<u8>)| [&kind.to_be_bytes()[..], &vector16(data)].concat();
        let extensions: Vec<u8> = self.extensions.iter().flat_map(one).collect();
        let body = [&self.fields[..], &vector16(&extensions)].concat();
        [&[1, 0][..], &vector16(&body)].concat()
    }

    /// Changes one of the fields or extensions; `other` provides extensions.
    pub fn mutate(&mut self, other: &Dissected, dice: &mut Dice) {
        let count = self.extensions.len();
        let at = dice.below(count.max(1)).min(count.saturating_sub(1));
        match dice.below(15) {
            0 => self
                .extensions
                .insert(dice.below(count + 1), self.extensions[at].clone()),
            1 => drop(self.extensions.remove(at)),
            2 => self.extensions.swap(at, dice.below(count)),
            3 => self.extensions.insert(
                dice.below(count + 1),
                dice.one_of(&other.extensions).clone(),
            ),
            4 => self.extensions.insert(
                dice.below(count + 1),
                (dice.below(65_536) as u16, vec![0; dice.below(4)]),
            ),
            5 => self.extensions[at].0 = *dice.one_of(&KINDS),
            6 => {
                let len = self.extensions[at].1.len();
                self.extensions[at].1.truncate(dice.below(len + 1));
            }
            7 => self.extensions[at]
                .1
                .extend(vec![dice.below(256) as u8; 1 + dice.below(3)]),
            8 => flip(&mut self.fields, dice),
            9..=10 => flip(&mut self.extensions[at].1, dice),
            // An extension mostly begins with a length.
            11 => {
                let start = self.extensions[at].1.len().min(5);
                flip(&mut self.extensions[at].1[..start], dice);
            }
            12 => self.replace(*dice.one_of(&[10, 41, 51, 0xfe0d]), dice),
            _ => self.rename(dice),
        }
    }

    /// Replaces or appends an extension: well framed, with content that may not make sense.
    fn replace(&mut self, kind: u16, dice: &mut Dice) {
        let identities = [&[0, 1, 7][..], &[0; 4]].concat().repeat(dice.below(3));
        let binder_bytes = *dice.one_of(&[32, 32, 48, 31]);
        let binders = [&[binder_bytes][..], &vec![5; binder_bytes.into()]]
            .concat()
            .repeat(dice.below(3));
        let groups: Vec<u8> = (0..*dice.one_of(&[3_u16, 64, 65, 200]))
            .flat_map(u16::to_be_bytes)
            .collect();
        let share =
            |dice: &mut Dice| [&[0, *dice.one_of(&[23, 29, 30])][..], &vector16(&[9; 32])].concat();
        let shares = (0..dice.below(4))
            .flat_map(|_| share(dice))
            .collect::<Vec<u8>>();
        let types = [
            &[0, 0, 1, 0, 1, 7, 0, 0, 0, 1, 9][..],
            &[1],
            &[2],
            &[1, 0],
            &[0, 0, 1, 0, 1, 7, 0, 0, 0, 0],
        ];
        let data = match kind {
            41 => [vector16(&identities), vector16(&binders)].concat(),
            10 => vector16(&groups),
            51 => vector16(&shares),
            _ => dice.one_of(&types).to_vec(),
        };
        self.extensions.retain(|(other, _)| *other != kind);
        self.extensions.push((kind, data));
        if dice.below(8) == 0 {
            let more = (0x5000..)
                .map(|kind| (kind, Vec::new()))
                .take(dice.below(80));
            self.extensions.splice(0..0, more);
        }
    }

    /// Another list in server_name.
    fn rename(&mut self, dice: &mut Dice) {
        let entry = |dice: &mut Dice| {
            let kind = if dice.below(8) == 0 { 1 } else { 0 };
            [&[kind][..], &vector16(dice.one_of(&NAMES).as_bytes())].concat()
        };
        let mut list = entry(dice);
        if dice.below(6) == 0 {
            list.extend(entry(dice));
        }
        self.extensions.retain(|(kind, _)| *kind != 0);
        self.extensions.insert(0, (0, vector16(&list)));
    }
}

/// Changes one to three bytes, or slightly the number that two of them form.
pub fn flip(bytes: &mut [u8], dice: &mut Dice) {
    if bytes.is_empty() {
        return;
    }
    for _ in 0..=dice.below(3) {
        let at = dice.below(bytes.len());
        bytes[at] = match dice.below(4) {
            0 => bytes[at] ^ (1 << dice.below(8)),
            1 => bytes[at].wrapping_add(1),
            2 => bytes[at].wrapping_sub(1),
            _ => *dice.one_of(&[0, 1, 2, 0x0a, 0x16, 0x2e, 0x7f, 0x80, 0xff]),
        };
    }
}

/// A message in one record, or in several; rarely with an unexpected record between them.
pub fn in_records(message: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut cuts = vec![0, message.len()];
    for _ in 0..*dice.one_of(&[0, 0, 0, 1, 2, 5]) {
        cuts.push(dice.below(message.len() + 1));
    }
    cuts.sort_unstable();
    let mut records: Vec<Vec<u8>> = cuts
        .windows(2)
        .map(|pair| record(22, &message[pair[0]..pair[1]]))
        .collect();
    if dice.below(40) == 0 {
        let strange = [
            record(20, &[1]),
            record(21, &[1, 0]),
            record(23, &[7; 9]),
            record(22, &[]),
            record(99, &[0]),
        ];
        records.insert(dice.below(records.len() + 1), dice.one_of(&strange).clone());
    }
    if dice.below(40) == 0 {
        let last = records.len() - 1;
        records[last].extend(vec![dice.below(256) as u8; dice.below(9)]);
    }
    records.concat()
}

fn vector16(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

/// Extensions that some reader parses, for the contents of others.
const KINDS: [u16; 20] = [
    0, 5, 10, 11, 13, 16, 19, 20, 23, 27, 35, 41, 42, 43, 44, 45, 47, 51, 0xfe0d, 0xff01,
];

/// Texts that may or may not be host names.
const NAMES: [&str; 24] = [
    "a.example",
    "GENERATIVELANGUAGE.googleapis.com",
    "a.example.",
    "a_b.example",
    "_.example",
    "-a.example",
    "a-.example",
    "a..example",
    ".a.example",
    ".",
    "..",
    "",
    "a",
    "203.0.113.9",
    "1.2.3",
    "1.2.3.4.",
    "::1",
    "[::1]",
    "a\0.example",
    "a.example\0",
    "a b.example",
    "*.example",
    "a.example:443",
    "an-extremely-long-label-that-goes-on-and-on-until-it-has-more-than-63.example",
];
