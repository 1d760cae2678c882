use std::{fmt::Write as _, path::Path};

use serde_json::{Value, json};
use symbolon_domain::{
    identity_provider::{Capabilities, ProviderType, Registration, Rotation, meant_type},
    ports::Connectors as _,
};
use symbolon_oauth2::{Registry, catalog::Catalog};
use symbolon_sandbox::shape::Shape;

use crate::{
    catalog::{catalog, http_client},
    cli::{CheckTypeArgs, ListTypesArgs, ProviderTypesCommand, ShowTypeArgs},
    failure::{Failure, sentence},
    output::{print, print_json, table},
    settings::Settings,
    trial::{self, Verdict},
};

/// `symbolon provider-types …`.
pub(super) async fn run(
    command: &ProviderTypesCommand,
    config: Option<&Path>,
) -> Result<(), Failure> {
    let settings = Settings::load(config, &[])?;
    let registry = catalog(http_client(&settings.http_client)?, &settings.catalog);
    match command {
        ProviderTypesCommand::List(arguments) => list(&registry, arguments),
        ProviderTypesCommand::Show(arguments) => show(&registry, arguments),
        ProviderTypesCommand::Check(arguments) => check(&settings, &registry, arguments).await,
    }
}

fn list(registry: &Registry, arguments: &ListTypesArgs) -> Result<(), Failure> {
    let types = registry.types();
    if arguments.markdown {
        return print(&markdown(&types));
    }
    if arguments.output.json {
        return print_json(&types.iter().map(form).collect::<Vec<_>>());
    }
    let yes = |it: bool| if it { "yes" } else { "-" }.to_owned();
    let rows: Vec<_> = types
        .iter()
        .map(|it| {
            let Capabilities { browser, device, refresh, revoke, sign_in, .. } = it.capabilities;
            let [browser, device, refresh, revoke, sign_in] =
                [browser, device, refresh, revoke, sign_in].map(yes);
            [it.name.clone(), it.title.clone(), browser, device, sign_in, refresh, revoke]
        })
        .collect();
    let headings = ["TYPE", "TITLE", "BROWSER", "DEVICE", "SIGN-IN", "REFRESH", "REVOKE"];
    print(&format!(
        "{}\n{} types. `symbolon provider-types show TYPE` says what to configure.\n",
        table(headings, &rows),
        rows.len()
    ))
}

fn show(registry: &Registry, arguments: &ShowTypeArgs) -> Result<(), Failure> {
    let found = find(registry, &arguments.name)?;
    if arguments.output.json { print_json(&form(&found)) } else { print(&page(&found)) }
}

/// The type of this name; what may have been meant where there is none.
fn find(registry: &Registry, name: &str) -> Result<ProviderType, Failure> {
    registry.find_type(name).ok_or_else(|| {
        let known = registry.types();
        let meant = meant_type(name, known.iter().map(|it| it.name.as_str()));
        Failure::Argument(format!("there is no provider type {name}: {meant}"))
    })
}

async fn check(
    settings: &Settings,
    registry: &Registry,
    arguments: &CheckTypeArgs,
) -> Result<(), Failure> {
    let target = &arguments.target;
    let path = Path::new(target);
    let is_file = path.extension().is_some_and(|it| it == "toml");
    let mut own = settings.catalog.own.clone();
    let mut name = target.as_str();
    let mut shape_file = arguments.shape.clone();
    if is_file {
        own = own
            .with(Catalog::read_file(path).map_err(|error| Failure::Argument(sentence(&error)))?);
        name = path.file_stem().and_then(|it| it.to_str()).unwrap_or_default();
        let beside = path.with_extension("shape.toml");
        if shape_file.is_none() && beside.exists() {
            shape_file = Some(beside);
        }
    } else {
        find(registry, name)?;
    }
    let shape = match &shape_file {
        Some(file) => {
            let text = std::fs::read_to_string(file).map_err(|error| {
                Failure::Argument(format!("{}: cannot be read: {error}", file.display()))
            })?;
            Shape::parse(&text)
                .map_err(|error| Failure::Argument(format!("{}: {error}", file.display())))?
        }
        None => match Shape::built_in(name) {
            Some(shape) => shape.map_err(|error| Failure::Argument(error.to_string()))?,
            None => {
                return Err(Failure::Argument(format!(
                    "nothing is known of what {name} answers; write it into {} (docs/catalog.md \
                     says how) or name a file with --shape",
                    Path::new(name).with_extension("shape.toml").display()
                )));
            }
        },
    };
    let report = trial::try_out(name, &own, shape)
        .await
        .map_err(|error| Failure::Argument(sentence(&error)))?;
    if arguments.output.json {
        print_json(
            &json!({ "type": name, "fine": report.is_fine(), "findings": report.findings }),
        )?;
    } else {
        let rows: Vec<_> = report
            .findings
            .iter()
            .map(|it| [it.verdict.to_string(), it.step.clone(), it.detail.clone()])
            .collect();
        print(&table(["VERDICT", "STEP", "DETAIL"], &rows))?;
    }
    if report.is_fine() {
        return Ok(());
    }
    let problems = report.findings.iter().filter(|it| it.verdict == Verdict::Problem).count();
    Err(Failure::Argument(format!(
        "{name} does not fare as documented: {problems} of {} steps; correct the entry, or the shape \
         where the documentation says otherwise",
        report.findings.len()
    )))
}

/// A type for people.
fn page(it: &ProviderType) -> String {
    let mut page = format!("{} ({})\n{}\n", it.title, it.name, it.description);
    // Writing to a String does not fail.
    let _ = writeln!(page, "Documentation: {}", it.documentation);
    let _ = writeln!(page, "\nCan do: {}", abilities(it.capabilities));
    let Registration { page: at, steps, redirect_uri, client_id, client_secret } = &it.registration;
    if at.is_some() || steps.is_some() {
        let _ = writeln!(page, "\nRegister a client:");
        for line in [at, steps].into_iter().flatten() {
            let _ = writeln!(page, "  {line}");
        }
        let called = [
            ("redirect URI", redirect_uri),
            ("client_id", client_id),
            ("client_secret", client_secret),
        ];
        for (ours, theirs) in called {
            if let Some(theirs) = theirs {
                let _ = writeln!(page, "  Our {ours} is called {theirs} there.");
            }
        }
        let _ = writeln!(
            page,
            "  The redirect URI is SERVER.PUBLIC_URL/callback/ID: creating the provider answers it."
        );
    }
    let _ = writeln!(page, "\nConfiguration:");
    for Key { name, marks, about } in keys(it) {
        let marks =
            if marks.is_empty() { String::new() } else { format!(" ({})", marks.join(", ")) };
        let _ = writeln!(page, "  {name}{marks}\n    {about}");
    }
    if !it.notes.is_empty() {
        let _ = writeln!(page, "\nTo know:");
        for note in &it.notes {
            let _ = writeln!(page, "  - {note}");
        }
    }
    page
}

const INTRODUCTION: &str = "\
# Provider types

What `symbolon provider-types list --markdown` prints of the built-in catalog: do not edit it, run
`make providers`. How an entry is written is in [catalog.md](catalog.md).

To use a type, register a client at the provider, with the redirect URI `SERVER.PUBLIC_URL/callback/ID`
(the provider that you create with `POST /v1/providers` answers it as `redirect_uri`), and put what you
get into `config`. A type that knows no revocation leaves it to the user, as its notes say.

";

/// All types, as a page.
fn markdown(types: &[ProviderType]) -> String {
    let mut page = INTRODUCTION.to_owned();
    // Writing to a String does not fail.
    let _ = writeln!(
        page,
        "{} types:\n\n| type | browser | device | sign-in | refresh | revoke |",
        types.len()
    );
    page.push_str("| --- | --- | --- | --- | --- | --- |\n");
    let yes = |it: bool| if it { "yes" } else { "no" };
    for it in types {
        let Capabilities { browser, device, refresh, revoke, sign_in, .. } = it.capabilities;
        let [browser, device, sign_in, refresh, revoke] =
            [browser, device, sign_in, refresh, revoke].map(yes);
        let _ = writeln!(
            page,
            "| [{name}](#{name}) | {browser} | {device} | {sign_in} | {refresh} | {revoke} |",
            name = it.name
        );
    }
    for it in types {
        let _ = writeln!(page, "\n## {}\n\n**{}.** {}", it.name, it.title, it.description);
        let _ = writeln!(page, "[Documentation]({}).", it.documentation);
        let Registration { page: at, steps, redirect_uri, client_id, client_secret } =
            &it.registration;
        if let Some(at) = at {
            let steps = steps.as_deref().map(|it| format!(": {it}")).unwrap_or_default();
            let _ = writeln!(page, "\n- Register at <{at}>{steps}");
        }
        for (ours, theirs) in [
            ("The redirect URI", redirect_uri),
            ("`client_id`", client_id),
            ("`client_secret`", client_secret),
        ] {
            if let Some(theirs) = theirs {
                let _ = writeln!(page, "- {ours} is called *{theirs}* there.");
            }
        }
        page.push_str("\n| config | | |\n| --- | --- | --- |\n");
        for Key { name, marks, about } in keys(it) {
            let about = about.replace('|', "\\|");
            let marks = marks.join(", ").replace('|', "\\|");
            let _ = writeln!(page, "| `{name}` | {marks} | {about} |");
        }
        if !it.notes.is_empty() {
            page.push('\n');
        }
        for note in &it.notes {
            let _ = writeln!(page, "- {note}");
        }
    }
    page
}

/// A key of a type's configuration, for people.
struct Key {
    name: String,
    marks: Vec<String>,
    about: String,
}

/// The keys of a type's configuration, the required ones first.
fn keys(it: &ProviderType) -> Vec<Key> {
    let required = it.config_schema["required"].as_array().cloned().unwrap_or_default();
    let is_required = |name: &str| required.iter().any(|it| it == name);
    let properties = it.config_schema["properties"].as_object().cloned().unwrap_or_default();
    let mut keys: Vec<Key> = properties
        .iter()
        .map(|(name, schema)| {
            let mut marks = Vec::new();
            if is_required(name) {
                marks.push("required".to_owned());
            }
            if it.secret_names.contains(name) {
                marks.push("secret".to_owned());
            }
            if let Some(default) = schema["default"].as_str() {
                marks.push(format!("default {default}"));
            }
            if let Some(values) = schema["enum"].as_array() {
                let values: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
                marks.push(values.join(" | "));
            }
            let about = schema["description"].as_str().unwrap_or_default().to_owned();
            Key { name: name.clone(), marks, about }
        })
        .collect();
    keys.sort_by_key(|it| !is_required(&it.name));
    keys
}

fn abilities(capabilities: Capabilities) -> String {
    let Capabilities { browser, device, refresh, revoke, sign_in, rotation } = capabilities;
    let refresh_name = match rotation {
        Rotation::MayRotate => "refresh",
        Rotation::Reusable => "refresh (the refresh token stays the same)",
    };
    let all = [
        (browser, "link in a browser"),
        (!browser, "take a token that the user made there"),
        (device, "link a device"),
        (sign_in, "sign in"),
        (refresh, refresh_name),
        (revoke, "revoke"),
    ];
    let able: Vec<&str> = all.into_iter().filter(|(able, _)| *able).map(|(_, it)| it).collect();
    able.join(", ")
}

/// A type for programs: as `GET /v1/provider-types` has it.
fn form(it: &ProviderType) -> Value {
    let Capabilities { browser, device, refresh, revoke, sign_in, rotation } = it.capabilities;
    let rotation = match rotation {
        Rotation::MayRotate => "may_rotate",
        Rotation::Reusable => "reusable",
    };
    let Registration { page, steps, redirect_uri, client_id, client_secret } = &it.registration;
    json!({
        "type": it.name,
        "title": it.title,
        "description": it.description,
        "documentation": it.documentation,
        "registration": {
            "page": page, "steps": steps, "redirect_uri": redirect_uri, "client_id": client_id,
            "client_secret": client_secret,
        },
        "notes": it.notes,
        "config_schema": it.config_schema,
        "secrets": it.secret_names,
        "capabilities": {
            "browser": browser, "device": device, "refresh": refresh, "revoke": revoke,
            "sign_in": sign_in, "rotation": rotation,
        },
    })
}
