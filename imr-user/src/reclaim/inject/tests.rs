//! The backend without a second process: what it refuses, and what it says.
