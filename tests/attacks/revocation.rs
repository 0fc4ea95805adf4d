//! What a reload or an expiry takes back ends live tunnels, whatever admission would refuse them for.
