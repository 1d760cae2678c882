use std::path::Path;

use serde_json::json;
use symbolon_domain::ports::Clock as _;
use symbolon_keyring::KeyRing;

use crate::{
    SystemClock,
    cli::{KeyringCommand, OutputArgs},
    failure::Failure,
    output::{print, print_json, table},
    settings::{Need, Settings},
};

/// `symbolon keyring …`.
pub(super) fn run(command: &KeyringCommand, config: Option<&Path>) -> Result<(), Failure> {
    match command {
        KeyringCommand::Generate { file, add, output } => {
            let now = SystemClock.now();
            let ring = if *add { KeyRing::add(file, now)? } else { KeyRing::generate(file, now)? };
            show(&ring, file, *output)?;
            if !output.json && *add {
                print(
                    "\nBring the file to every replica and restart them: they seal with the new key \
                     from then on.\n",
                )?;
            }
            Ok(())
        }
        KeyringCommand::Status { file, output } => {
            let file = if let Some(file) = file {
                file.clone()
            } else {
                Settings::load(config, &[Need::Keyring])?.keyring.file.unwrap_or_default()
            };
            show(&KeyRing::load(&file)?, &file, *output)
        }
    }
}

fn show(ring: &KeyRing, file: &Path, output: OutputArgs) -> Result<(), Failure> {
    let keys = ring.status();
    if output.json {
        let keys: Vec<_> = keys
            .iter()
            .map(|it| {
                json!({
                    "id": it.id,
                    "created_at": it.created_at,
                    "active": it.active,
                    "fingerprint": it.fingerprint,
                })
            })
            .collect();
        return print_json(&json!({ "file": file.display().to_string(), "keys": keys }));
    }
    let rows: Vec<_> = keys
        .iter()
        .map(|it| {
            [
                it.id.to_string(),
                it.fingerprint.clone(),
                it.created_at.format("%Y-%m-%dT%H:%M:%SZ").to_string(),
                if it.active { "seals and opens" } else { "opens" }.to_owned(),
            ]
        })
        .collect();
    let keys = table(["KEY", "FINGERPRINT", "CREATED", "USE"], &rows);
    print(&format!("{}\n\n{keys}", file.display()))
}
