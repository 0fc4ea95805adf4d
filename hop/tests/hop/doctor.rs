//! `sealway-doctor` against a real tunnel and a provider that gives every refusal: each fault has its name, a healthy set-up
//! has none, and no output shows a secret.

mod cures;
mod fake;
mod faults;
mod healthy;
mod machines;
mod middlebox;
mod network;
mod proxies;
mod quick;
mod rarer;
mod refusals;
mod run;
mod screens;
mod streams;
