//! Real programs over emulated paths.
