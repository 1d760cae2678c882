use std::{env, fs, process};

use symbolon_domain::secret::Secret;

/// A name for this process, in leases, events and logs: the machine, the process, and a random
/// end, since containers share the first and restarts the second.
#[must_use]
pub fn replica_name() -> String {
    let machine = fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| env::var("HOSTNAME").ok())
        .map(|it| it.trim().chars().filter(|it| !it.is_control()).take(64).collect::<String>())
        .filter(|it| !it.is_empty())
        .unwrap_or_else(|| "host".to_owned());
    let random: String = Secret::random().expose().chars().take(8).collect();
    format!("{machine}-{}-{random}", process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_starts_have_two_names() {
        assert_ne!(replica_name(), replica_name());
    }
}
