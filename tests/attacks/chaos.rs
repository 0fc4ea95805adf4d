//! Chaotic attempts in great number: one record for each, and no byte of one tunnel in another.
