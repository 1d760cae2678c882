//! Makes one list of the shapes: name and text of every file.

use std::{
    env,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=shapes");
    let mut files =
        fs::read_dir("shapes")?.map(|it| Ok(it?.path())).collect::<io::Result<Vec<PathBuf>>>()?;
    files.retain(|it| it.extension().is_some_and(|it| it == "toml"));
    files.sort();
    let mut list = String::from("&[\n");
    for file in &files {
        let name = file.file_stem().and_then(|it| it.to_str()).unwrap_or_default();
        // Writing to a String does not fail.
        let _ = writeln!(list, "({name:?}, {:?}),", fs::read_to_string(file)?);
    }
    list += "]\n";
    let out = env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("OUT_DIR is not set"))?;
    fs::write(Path::new(&out).join("shapes.rs"), list)
}
