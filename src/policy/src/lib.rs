//! Tallies to posterior to probability best to growth: the pure statistics of Inroad.
