//! What is in force but should not stay so, said in the log at each start and reload. Changes nothing.

use tracing::warn;

use crate::config::Config;
use crate::policy::Enforcement;

/// Says all of it.
pub(super) fn give(config: &Config) {
    if config.policy.enforcement() == Enforcement::Report {
        warn!("policy.mode is \"report\": hosts and SNI that the policy would refuse pass, and are only recorded");
    }
}
