//! What the findings of `sealway check --deep` and of `sealway-doctor` share: the values in their texts, and their
//! paragraphs. Decides nothing.

pub mod paragraphs;
pub mod values;
