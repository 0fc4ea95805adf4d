//! Attacks by way of DNS: large answers, and look-ups that nobody waits for any more.
