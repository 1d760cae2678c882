//! The Symbolon service: configuration, wiring, telemetry and the command.

pub mod settings;
