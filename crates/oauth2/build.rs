//! Checks the catalog, and makes one list of it: name and text of every entry.

use std::{
    env,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use serde_json::Value;

#[path = "src/catalog/entry.rs"]
mod entry;
#[path = "src/catalog/error_rule.rs"]
#[expect(unreachable_pub, reason = "the crate uses and exports what this script does not")]
mod error_rule;
#[path = "src/catalog/parameter.rs"]
#[expect(dead_code, reason = "the crate uses what this script does not")]
mod parameter;
#[path = "src/catalog/protocol_rules.rs"]
mod protocol_rules;
#[path = "src/catalog/rules.rs"]
mod rules;
#[path = "src/catalog/template.rs"]
#[expect(dead_code, reason = "the crate uses what this script does not")]
mod template;

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=catalog");
    println!("cargo::rerun-if-changed=src/catalog");
    match list() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            for line in error.to_string().lines() {
                println!("cargo::error={line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn list() -> io::Result<()> {
    let mut files =
        fs::read_dir("catalog")?.map(|it| Ok(it?.path())).collect::<io::Result<Vec<PathBuf>>>()?;
    files.retain(|it| it.extension().is_some_and(|it| it == "toml"));
    files.sort();
    let mut list = String::from("&[\n");
    let mut wrong = Vec::new();
    for file in &files {
        match checked(file) {
            // Writing to a String does not fail.
            Ok((name, text)) => drop(writeln!(list, "({name:?}, {text:?}),")),
            Err(why) => wrong.push(format!("{}: {why}", file.display())),
        }
    }
    if !wrong.is_empty() {
        return Err(io::Error::other(wrong.join("\n")));
    }
    list += "]\n";
    let out = env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("OUT_DIR is not set"))?;
    fs::write(Path::new(&out).join("catalog.rs"), list)
}

/// Name and JSON text of a file that is an entry.
fn checked(file: &Path) -> Result<(String, String), String> {
    let name = file.file_stem().and_then(|it| it.to_str()).ok_or("it has no name")?;
    let text = fs::read_to_string(file).map_err(|error| error.to_string())?;
    entry::Entry::parse(name, &text)?;
    // What is embedded is JSON: read faster than TOML, at every start.
    let value: Value = toml::from_str(&text).map_err(|error| error.to_string())?;
    Ok((name.to_owned(), value.to_string()))
}
