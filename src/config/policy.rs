//! `[policy]`: the rules on names, from the configuration and from rule files, and the settings of
//! the address guard.

use std::path::Path;

use super::Overrides;
use super::allow_files::{self, Pattern};
use super::destinations::{self, RangesFile};
use super::egress;
use super::fields::{Fields, network};
use crate::policy::guard::AddressGuard;
use crate::policy::presets::ChosenPreset;
use crate::policy::{Enforcement, NameRules, Policy, Rule};
use crate::wire::client_hello::TlsVersion;

/// The settings of the section.
pub(super) struct Section {
    pub(super) policy: Policy,
    pub(super) presets: Vec<ChosenPreset>,
    pub(super) ranges: Vec<RangesFile>,
    /// The entries of `allow_files`.
    pub(super) files: Vec<Pattern>,
}

/// Reads the section.
pub(super) fn read(
    mut fields: Fields<'_, '_>,
    path: &Path,
    overrides: &Overrides,
    egress: &egress::Section,
) -> Section {
    let presets = fields
        .list("presets", ChosenPreset::parse)
        .unwrap_or_else(|| ChosenPreset::parse(DEFAULT_PRESET).into_iter().collect());
    let (allow, files) = allow(&mut fields, path, overrides);
    let mut names = NameRules::default();
    // Unit tests check the presets; a rule that failed to parse here would only allow less.
    presets
        .iter()
        .flat_map(ChosenPreset::hosts)
        .filter_map(|name| Rule::parse(name).ok())
        .chain(allow)
        .for_each(|rule| names.add(rule));
    let mut guard = AddressGuard::new(
        fields
            .list("allow_destinations", network)
            .unwrap_or_default(),
    )
    .behind(&egress.public)
    .sharing(&egress.floating)
    .translating(&egress.nat64);
    let mut sources = Vec::new();
    if let Some((ranges, read)) = destinations::read(&mut fields, path, overrides.offline) {
        guard = guard.within(ranges);
        sources = read;
    }
    let min_tls = fields.choice(
        "min_tls",
        &[("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)],
    );
    let ech = fields.choice("ech", &[("allow", true), ("deny", false)]);
    let modes = [Enforcement::Enforce, Enforcement::Report].map(|mode| (mode.as_str(), mode));
    let enforcement = fields.choice("mode", &modes).unwrap_or_default();
    fields.finish();
    let policy = Policy::new(
        names,
        guard,
        min_tls.unwrap_or(TlsVersion::Tls12),
        ech.unwrap_or(true),
    );
    Section {
        policy: policy.with_enforcement(enforcement),
        presets,
        ranges: sources,
        files,
    }
}

/// The rules beyond the presets, and the entries of `allow_files`. If a flag replaces them, the
/// files are not read.
fn allow(
    fields: &mut Fields<'_, '_>,
    path: &Path,
    overrides: &Overrides,
) -> (Vec<Rule>, Vec<Pattern>) {
    let mut rules = fields.list("allow", Rule::parse).unwrap_or_default();
    if !overrides.allow.is_empty() {
        let _replaced = fields.texts("allow_files");
        return (overrides.allow.clone(), Vec::new());
    }
    let Some(listed) = allow_files::read(fields, path, overrides.offline) else {
        return (rules, Vec::new());
    };
    rules.extend(listed.rules);
    (rules, listed.patterns)
}

const DEFAULT_PRESET: &str = "gemini";
