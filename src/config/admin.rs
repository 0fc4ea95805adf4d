//! `[admin]`: the address of the admin listener, the networks that may connect to it, and its
//! tokens. Keeps only hashes of the tokens.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use zeroize::Zeroizing;

use super::fields::{Fields, is_loopback, network, socket_address};
use super::file::{Given, Problem};
use super::read::{self as reading, ReadError, Secrecy};
use super::{Overrides, users};
use crate::auth::SecretHash;

/// A token of the admin listener, or of a TLS terminator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The file of the token.
    pub file: PathBuf,
    /// The hash of the token.
    pub hash: SecretHash,
}

/// The tokens that requests must present.
pub(super) struct Tokens {
    pub(super) watcher: Option<Token>,
    pub(super) operator: Option<Token>,
}

pub(super) fn read(
    mut fields: Fields<'_, '_>,
    path: &Path,
    overrides: &Overrides,
) -> (Option<SocketAddr>, Tokens, Vec<IpNet>) {
    let token = token(&mut fields, "token_file", path, overrides);
    let operator = self::token(&mut fields, "operator_token_file", path, overrides);
    let clients = fields.list("clients", network).unwrap_or_default();
    // A configured but unusable token file is reported separately.
    let has_token = token.as_ref().is_none_or(Option::is_some);
    let parse = |text: &str| match text {
        "" => Ok(None),
        _ => socket_address(text).map(Some).map_err(str::to_owned),
    };
    let judged = |text: &str| match parse(text)? {
        Some(address) if !address.ip().is_loopback() && !has_token => Err(NEEDS_TOKEN.to_owned()),
        address => Ok(address),
    };
    // A replaced address is not checked, because it is never opened.
    let given = fields.parsed("address", |text| {
        if overrides.admin.is_none() {
            judged(text)
        } else {
            parse(text)
        }
    });
    let line = given.as_ref().map(|given| given.line);
    let given = given.map_or(Some(DEFAULT), |given| given.value);
    let address = match overrides.admin.as_deref().map(judged) {
        None => given,
        Some(Ok(address)) => address,
        Some(Err(message)) => {
            let problem = Problem::of_flag(overrides.named.admin, message);
            fields.reader.problems.push(problem);
            given
        }
    };
    warn_of_clear(&mut fields, (address, line), &clients, overrides);
    fields.finish();
    let tokens = Tokens {
        watcher: token.flatten(),
        operator: operator.flatten(),
    };
    (address, tokens, clients)
}

/// Warns of an address off loopback, where tokens cross a network in clear. `line` is the address's in the file.
fn warn_of_clear(
    fields: &mut Fields<'_, '_>,
    (address, line): (Option<SocketAddr>, Option<usize>),
    clients: &[IpNet],
    overrides: &Overrides,
) {
    let is_local = !clients.is_empty() && clients.iter().all(is_loopback);
    let Some(at) = address.filter(|at| !at.ip().to_canonical().is_loopback() && !is_local) else {
        return;
    };
    let message = format!("{at} {CLEAR}");
    let warning = match line.filter(|_| overrides.admin.is_none()) {
        Some(line) => fields.problem(line, "address", message),
        None => Problem::of_flag(overrides.named.admin, message),
    };
    fields.reader.warnings.push(warning);
}

/// Reads a token. The outer None: the file is unusable, which is reported, or skipped, which is
/// recorded.
pub(super) fn token(
    fields: &mut Fields<'_, '_>,
    key: &'static str,
    path: &Path,
    overrides: &Overrides,
) -> Option<Option<Token>> {
    match fields.text(key).filter(|given| !given.value.is_empty()) {
        Some(given) => token_named(fields, key, &given, path, overrides).map(Some),
        None => Some(None),
    }
}

/// Reads the token of a file that is named here. None as in [`token`].
pub(super) fn token_named(
    fields: &mut Fields<'_, '_>,
    key: &'static str,
    given: &Given<String>,
    path: &Path,
    overrides: &Overrides,
) -> Option<Token> {
    let offline = overrides.offline;
    let folder = path.parent().unwrap_or(Path::new(""));
    let place = users::place(&given.value, folder);
    fields.reader.named.extend(place.iter().cloned());
    if overrides.for_hop || offline && !place.as_ref().is_ok_and(|file| file.exists()) {
        fields
            .reader
            .unread
            .push(place.unwrap_or_else(|_| PathBuf::from(&given.value)));
        return None;
    }
    let read = place.map_err(TokenError::Place).and_then(|file| {
        let hash = hash_in(fields, key, &file, Secrecy::unless(offline))?;
        Ok(Token { file, hash })
    });
    match read {
        Ok(token) => Some(token),
        Err(error) => {
            fields.complain_of_file(given.line, key, error.kind(), error.to_string());
            None
        }
    }
}

/// The hash of the token in a file; the one in force if the file cannot be read.
fn hash_in(
    fields: &mut Fields<'_, '_>,
    key: &str,
    file: &Path,
    secrecy: Secrecy,
) -> Result<SecretHash, TokenError> {
    let key = fields.name(key);
    let files = &mut fields.reader.files;
    let hash = match token_in(file, secrecy) {
        Ok(token) => SecretHash::of(&token),
        Err(TokenError::Read(path, error)) => files
            .keep(file, key, error, |former| former.tokens.get(file).copied())
            .map_err(|error| TokenError::Read(path, error))?,
        Err(error) => return Err(error),
    };
    files.read.tokens.insert(file.to_owned(), hash);
    Ok(hash)
}

/// Why a token cannot be used. Never holds a token.
#[derive(Debug, thiserror::Error)]
enum TokenError {
    /// The service has no credentials.
    #[error("{0}")]
    Place(&'static str),
    /// The file cannot be read.
    #[error("{}: {}{}", reading::shown_path(.0).display(), .1, cure(.1))]
    Read(PathBuf, #[source] ReadError),
    /// The file holds no token.
    #[error(
        "{}: a token is one line of 32 to 1024 visible ASCII characters; openssl rand -hex 32 makes one",
        .0.display()
    )]
    Form(PathBuf),
}

impl TokenError {
    fn kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Read(_, error) => error.kind(),
            Self::Place(_) | Self::Form(_) => None,
        }
    }
}

/// How to get a token that is missing.
fn cure(error: &ReadError) -> &'static str {
    match error {
        ReadError::Missing(_) => "; create it: (umask 027; openssl rand -hex 32 >FILE)",
        _ => "",
    }
}

/// Reads the token, a single line, from a file.
///
/// # Errors
/// The problem of the file; never its contents.
pub fn text(file: &Path) -> Result<Zeroizing<String>, String> {
    token_in(file, Secrecy::Secret).map_err(|error| error.to_string())
}

fn token_in(file: &Path, secrecy: Secrecy) -> Result<Zeroizing<String>, TokenError> {
    let content =
        reading::read(file, secrecy).map_err(|error| TokenError::Read(file.to_owned(), error))?;
    let token = content.text.trim_ascii();
    if !TOKEN_BYTES.contains(&token.len()) || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(TokenError::Form(file.to_owned()));
    }
    Ok(Zeroizing::new(token.to_owned()))
}

const CLEAR: &str = "receives the tokens of Prometheus and operators without TLS, and anybody on the network between can read and use \
     them: listen on loopback (ssh -L reaches it), or, if that network is trusted, give operators a token of their own in \
     operator_token_file and use it on this machine only";
const NEEDS_TOKEN: &str =
    "can be reached from off this machine: set admin.token_file, or keep it on loopback";
const DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9294);
/// From a length that nobody guesses to one that fits into a header.
const TOKEN_BYTES: std::ops::RangeInclusive<usize> = 32..=1_024;
