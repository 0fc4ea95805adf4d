//! The parameters of presets: the region of Amazon Bedrock, the resource of Azure. Accepts only
//! what can be one label of a host name, so that a parameter never changes the domain.

/// A region of AWS, such as `us-east-1`.
#[derive(Debug)]
pub(super) struct Region(String);

/// The name of an Azure resource: its custom subdomain.
#[derive(Debug)]
pub(super) struct Resource(String);

/// Why a text names no preset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PresetError {
    /// No preset has this name.
    #[error("no such preset; `sealway presets` lists them")]
    Unknown,
    /// The preset has a parameter, which is missing.
    #[error("the name of your resource is missing: write \"azure-openai:RESOURCE\"")]
    Missing,
    /// The preset has no parameter.
    #[error("this preset has no parameter: write its name alone")]
    Superfluous,
    /// The parameter is not the name of a region.
    #[error("not a region of AWS: write it as in \"bedrock:us-east-1\"")]
    Region,
    /// The parameter is not the name of a resource.
    #[error(
        "not the name of an Azure resource: 2 to 63 letters, digits and hyphens, such as my-resource \
         of https://my-resource.openai.azure.com"
    )]
    Resource,
}

impl Region {
    /// Parses a region. A region that AWS opens later has the same form, so no list decides.
    pub(super) fn parse(text: &str) -> Result<Self, PresetError> {
        let text = text.to_ascii_lowercase();
        let mut parts = text.split('-');
        let is_area = parts
            .next()
            .is_some_and(|area| area.len() == 2 && is_word(area));
        let number = parts.next_back().unwrap_or_default();
        let is_numbered = number.len() == 1 && number.bytes().all(|b| b.is_ascii_digit());
        let mut words = parts.peekable();
        let has_words = words.peek().is_some() && words.all(is_word);
        if is_area && is_numbered && has_words && text.len() <= MOST_BYTES {
            Ok(Self(text))
        } else {
            Err(PresetError::Region)
        }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Resource {
    /// Parses the name of a resource.
    pub(super) fn parse(text: &str) -> Result<Self, PresetError> {
        let text = text.to_ascii_lowercase();
        let is_allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if (2..=MOST_BYTES).contains(&text.len())
            && text.bytes().all(is_allowed)
            && !text.starts_with('-')
            && !text.ends_with('-')
            && text.get(2..4) != Some("--")
        {
            Ok(Self(text))
        } else {
            Err(PresetError::Resource)
        }
    }

    /// A name for documentation.
    pub(super) fn example() -> Self {
        Self("resource".to_owned())
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_word(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase())
}

/// The longest label of a host name (RFC 1035, section 2.3.4).
const MOST_BYTES: usize = 63;
