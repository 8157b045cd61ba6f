//! What Inroad remembers: the trait, and SQLite behind it.
