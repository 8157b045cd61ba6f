//! What every plot keeps, whatever it is given.
