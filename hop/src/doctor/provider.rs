//! The providers that the doctor can ask: their hosts, how they take a key, and the requests that only read.
//!
//! No request here changes anything. `countTokens` and `count_tokens` cost nothing; a stream is asked only of Gemini.

use std::fmt;

/// A provider of an API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Provider {
    /// The Gemini API.
    Gemini,
    /// Vertex AI.
    Vertex,
    /// OpenAI.
    OpenAi,
    /// Anthropic.
    Anthropic,
    /// Azure OpenAI or Foundry.
    Azure,
    /// Amazon Bedrock.
    Bedrock,
    /// OpenRouter.
    OpenRouter,
}

impl Provider {
    /// All providers.
    pub const ALL: [Self; 7] = [
        Self::Gemini,
        Self::Vertex,
        Self::OpenAi,
        Self::Anthropic,
        Self::Azure,
        Self::Bedrock,
        Self::OpenRouter,
    ];

    /// The name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gemini => "gemini",
            Self::Vertex => "vertex",
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
            Self::Azure => "azure",
            Self::Bedrock => "bedrock",
            Self::OpenRouter => "openrouter",
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
