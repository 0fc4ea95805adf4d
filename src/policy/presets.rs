//! The built-in sets of host names for `policy.presets`. Every name means port 443.
//!
//! Names are exact, never wildcards: under `*.googleapis.com` anyone's storage bucket, and under
//! `*.openai.azure.com` any tenant's resource, could receive stolen data. For the same reason a set
//! omits hosts that also serve other purposes; an operator can add one to `policy.allow`. Nothing is
//! fetched or resolved here: a host that a provider adds later needs an entry in `policy.allow` or a
//! newer release.

mod google;
mod parameter;
mod providers;

use std::fmt;

pub use parameter::PresetError;
use parameter::{Region, Resource};

/// One set of hosts, and what its provider does with source addresses.
#[derive(Debug)]
pub struct Preset {
    /// The name in `policy.presets`, without a parameter.
    pub name: &'static str,
    /// What the hosts serve.
    pub serves: &'static str,
    hosts: Hosts,
    /// Where the names were read, and when.
    pub source: &'static str,
    /// How the provider checks source addresses; None if no such check is known.
    pub check: Option<&'static SourceCheck>,
    /// What an operator has to know besides; may be empty.
    pub note: &'static str,
}

/// What is said of a provider without a [`SourceCheck`].
pub const NO_CHECK: &str = "none known: the provider documents no such check (November 2026), so a 401 or 403 usually has another \
     cause, such as the key, the account or the country";

/// How a provider restricts source addresses.
#[derive(Debug)]
pub struct SourceCheck {
    /// Where to enter the addresses.
    pub enter: &'static str,
    /// The command that enters them; empty if there is none. Words in capitals are to be replaced.
    pub command: &'static str,
    /// The answer to a request from another address.
    pub refusal: &'static str,
    /// Where the provider documents this, and when that was read.
    pub source: &'static str,
}

/// Where the names of a preset come from.
#[derive(Clone, Copy, Debug)]
enum Hosts {
    /// These names.
    Listed(&'static [&'static str]),
    /// Names that a function makes.
    Made(fn() -> Vec<String>),
    /// The names of one region, or of all listed regions if the preset has no parameter.
    OfRegions {
        of_region: fn(&Region) -> Vec<String>,
        regions: &'static [&'static str],
    },
    /// The names of the operator's own resource; the parameter is necessary.
    OfResource(fn(&Resource) -> Vec<String>),
}

/// A preset as the operator chose it, with its parameter.
#[derive(Clone, Debug)]
pub struct ChosenPreset {
    preset: &'static Preset,
    parameter: Option<String>,
    hosts: Vec<String>,
}

impl ChosenPreset {
    /// Parses `NAME` or `NAME:PARAMETER`; ignores surrounding spaces.
    ///
    /// # Errors
    /// If there is no preset of this name, or its parameter is missing, superfluous or malformed.
    pub fn parse(text: &str) -> Result<Self, PresetError> {
        let (name, parameter) = match text.trim().split_once(':') {
            Some((name, parameter)) => (name, Some(parameter)),
            None => (text.trim(), None),
        };
        let preset = Preset::all().find(|preset| preset.name == name);
        let preset = preset.ok_or(PresetError::Unknown)?;
        let mut hosts = preset.hosts.names(parameter)?;
        hosts.sort_unstable();
        Ok(Self {
            preset,
            parameter: parameter.map(str::to_ascii_lowercase),
            hosts,
        })
    }

    /// The set that the operator chose.
    #[must_use]
    pub fn preset(&self) -> &'static Preset {
        self.preset
    }

    /// The exact names of the hosts, sorted.
    #[must_use]
    pub fn hosts(&self) -> &[String] {
        &self.hosts
    }
}

impl fmt::Display for ChosenPreset {
    /// Writes `NAME` or `NAME:PARAMETER`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.preset.name)?;
        match &self.parameter {
            Some(parameter) => write!(f, ":{parameter}"),
            None => Ok(()),
        }
    }
}

impl Preset {
    /// All presets, in the order of the documentation.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        [providers::OF_GOOGLE, providers::OF_OTHERS]
            .into_iter()
            .flatten()
    }

    /// The form of the name in `policy.presets`, such as `bedrock[:REGION]`.
    #[must_use]
    pub fn form(&self) -> String {
        let parameter = match self.hosts {
            Hosts::Listed(_) | Hosts::Made(_) => "",
            Hosts::OfRegions { .. } => "[:REGION]",
            Hosts::OfResource(_) => ":RESOURCE",
        };
        format!("{}{parameter}", self.name)
    }

    /// The hosts without a parameter; an example for a preset that needs one.
    #[must_use]
    pub fn example(&self) -> Vec<String> {
        let mut names = match self.hosts {
            Hosts::OfResource(of) => of(&Resource::example()),
            hosts => hosts.names(None).unwrap_or_default(),
        };
        names.sort_unstable();
        names
    }
}

impl Hosts {
    fn names(self, parameter: Option<&str>) -> Result<Vec<String>, PresetError> {
        match (self, parameter) {
            (Self::Listed(_) | Self::Made(_), Some(_)) => Err(PresetError::Superfluous),
            (Self::Listed(names), None) => {
                Ok(names.iter().map(|name| (*name).to_owned()).collect())
            }
            (Self::Made(names), None) => Ok(names()),
            (Self::OfRegions { of_region, .. }, Some(region)) => {
                Ok(of_region(&Region::parse(region)?))
            }
            (Self::OfRegions { of_region, regions }, None) => Ok(regions
                .iter()
                .filter_map(|region| Region::parse(region).ok())
                .flat_map(|region| of_region(&region))
                .collect()),
            (Self::OfResource(of), Some(resource)) => Ok(of(&Resource::parse(resource)?)),
            (Self::OfResource(_), None) => Err(PresetError::Missing),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;
