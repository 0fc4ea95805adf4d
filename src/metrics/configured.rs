//! The series that come and go with the configuration: egress addresses, the age of the destination
//! ranges.
//!
//! A recorder keeps every series that it has seen, so a removed address would be exported, and
//! alerted about, until the next start. Therefore these series get a new recorder for each scrape.
//! Counts nothing between scrapes.

use std::net::IpAddr;
use std::time::Duration;

use metrics::{Key, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

use super::ABOUT;
use super::definitions::{
    DESTINATION_RANGES_AGE, EGRESS_FLOATING, EGRESS_PORTS_BUSIEST, EGRESS_PORTS_IN_USE, EGRESS_UP,
    describe,
};

/// The configured series of one scrape.
pub struct Configured {
    recorder: PrometheusRecorder,
}

impl Default for Configured {
    fn default() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        describe(&recorder);
        Self { recorder }
    }
}

impl Configured {
    /// Sets whether an egress address is on this host.
    pub fn egress_up(&self, address: IpAddr, is_up: bool) {
        self.set(
            EGRESS_UP.key([address.to_string()]),
            if is_up { 1.0 } else { 0.0 },
        );
    }

    /// Exports that another host may have the egress address instead.
    pub fn egress_floating(&self, address: IpAddr) {
        self.set(EGRESS_FLOATING.key([address.to_string()]), 1.0);
    }

    /// Sets how many ports of an egress address are in use, and how many of them towards one
    /// upstream.
    pub fn egress_ports(&self, address: IpAddr, in_use: usize, busiest: usize) {
        let values = || [address.to_string()];
        self.set(EGRESS_PORTS_IN_USE.key(values()), in_use as f64);
        self.set(EGRESS_PORTS_BUSIEST.key(values()), busiest as f64);
    }

    /// Sets the age of the destination ranges.
    pub fn ranges_age(&self, age: Duration) {
        self.set(DESTINATION_RANGES_AGE.key([""; 0]), age.as_secs_f64());
    }

    pub(super) fn render(&self) -> String {
        self.recorder.handle().render()
    }

    fn set(&self, key: Key, value: f64) {
        self.recorder.register_gauge(&key, &ABOUT).set(value);
    }
}
