//! Attacks on the evidence: strangers must not fill the audit queue, and removed records must be noticed.
