//! The command line: what can be asked for, and the words that explain it.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use symbolon_domain::{api_key::KeyScope, services::ApiKeys};

/// Links the users of your product to their accounts at OAuth and OpenID providers, keeps the
/// credentials sealed and fresh, and hands out access tokens.
#[derive(Debug, Parser)]
#[command(
    name = "symbolon",
    version,
    propagate_version = true,
    after_help = "\
To see all of it work on this machine, with nothing set up:
  symbolon demo

To set up a service:
  symbolon keyring generate --file symbolon-keyring.json
  export SYMBOLON__KEYRING__FILE=symbolon-keyring.json SYMBOLON__DATABASE__URL=sqlite:symbolon.db
  symbolon doctor
  symbolon api-key create --name my-product --scope admin
  symbolon serve

Configuration is read from symbolon.toml, if it is there, and environment variables over it
(SYMBOLON__SERVER__LISTEN sets server.listen). SYMBOLON_LOG or RUST_LOG says what is logged.

Exit status: 0 done, 1 failed, 2 wrong usage."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Configuration file [default: symbolon.toml, if it is there]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the whole product on this machine, with nothing set up
    #[command(
        long_about = "\
Show the whole product on this machine, with nothing set up.

Starts the service on an embedded database in ./symbolon-demo/, a small OpenID provider called
Sandbox whose access tokens live 20 seconds, and a page that plays the calling product. Prints the
pages to open and three curl lines to paste. Everything listens on loopback only. Stop it with
Ctrl-C; what was linked is there again at the next start.",
        after_help = "\
Examples:
  symbolon demo
  symbolon demo --listen 127.0.0.1:9000 --directory /tmp/symbolon-demo"
    )]
    Demo(DemoArgs),
    /// Run the service
    #[command(
        long_about = "\
Run the service.

Listens at server.listen and logs the address. Stops on SIGTERM or Ctrl-C: takes no new requests,
finishes those under way, and waits for every token refresh that was sent, so that no new token is
lost. A second signal ends it at once.",
        after_help = "\
Examples:
  symbolon serve
  symbolon serve --config /etc/symbolon.toml
  SYMBOLON__SERVER__LISTEN=0.0.0.0:8080 symbolon serve"
    )]
    Serve,
    /// Apply pending database migrations
    #[command(after_help = "\
Examples:
  symbolon migrate --dry-run      what would be applied
  symbolon migrate

`symbolon serve` applies them itself on SQLite, and on PostgreSQL only with
database.auto_migrate = true.")]
    Migrate(MigrateArgs),
    /// Create, list and revoke the API keys of calling services
    #[command(subcommand, arg_required_else_help = true)]
    ApiKey(ApiKeyCommand),
    /// Stop handing out tokens to a key, of a provider's accounts or of an organization's identities
    #[command(
        subcommand,
        arg_required_else_help = true,
        long_about = "\
Stop handing out tokens: at once and on every replica, until `symbolon unfreeze`. Who did it, when
and why is on record, and whoever asks for a token is told.

A frozen key is handed no token; it can do whatever else it may. Of a frozen provider no account's
token is handed out, and of a frozen organization no token of an identity that it uses, whoever
asks. Tokens that were handed out before work until they expire. They are kept fresh meanwhile, so
that nobody has to link again afterwards.",
        after_help = "\
Examples:
  symbolon freeze key 3 --reason 'found in a public repository'
  symbolon freeze provider 1
  symbolon freeze organization acme
  symbolon freeze list
  symbolon unfreeze key 3"
    )]
    Freeze(FreezeCommand),
    /// Hand out tokens again
    #[command(after_help = "\
Example:
  symbolon unfreeze key 3      what is frozen is in `symbolon freeze list`")]
    Unfreeze(UnfreezeArgs),
    /// Make and inspect the keys that seal secrets at rest
    #[command(subcommand, arg_required_else_help = true)]
    Keyring(KeyringCommand),
    /// Show the catalog of provider types, and try its entries
    #[command(
        subcommand,
        arg_required_else_help = true,
        after_help = "\
Examples:
  symbolon provider-types list
  symbolon provider-types show gitlab      what to register there and to configure here
  symbolon provider-types check gitlab     how it fares with what the provider answers"
    )]
    ProviderTypes(ProviderTypesCommand),
    /// Check that everything the service needs is in order
    #[command(
        long_about = "\
Check that everything the service needs is in order: configuration, database, migrations, key ring,
clock, and each provider's discovery document. One line each: ok, warning or problem, and what to
do. Exit status 1 when there is a problem.",
        after_help = "\
Examples:
  symbolon doctor
  symbolon doctor --json | jq '.[] | select(.status != \"ok\")'"
    )]
    Doctor(OutputArgs),
    /// Bring identities over from another system, or a whole store from an export
    #[command(subcommand, arg_required_else_help = true)]
    Import(ImportCommand),
    /// Write everything that the service holds to a file
    #[command(
        long_about = "\
Write everything that the service holds to a file, as JSON lines: providers, identities, API keys,
webhook endpoints, transfers and the event log, as they are at one moment, while the service runs. `symbolon import symbolon`
reads it, into either kind of database, with every id, version and counter.

Without --with-secrets there are no credentials, no client secrets and no hashes of API keys in it:
users would have to link again. With it they lie in the file in the clear.",
        after_help = "\
Examples:
  symbolon export backup.jsonl
  symbolon export --with-secrets move.jsonl
  symbolon export --force backup.jsonl      writes over the last one"
    )]
    Export(ExportArgs),
    /// Print a completion script for a shell
    #[command(after_help = "\
Examples:
  symbolon completions bash > /etc/bash_completion.d/symbolon
  symbolon completions zsh > \"${fpath[1]}/_symbolon\"
  symbolon completions fish > ~/.config/fish/completions/symbolon.fish")]
    Completions {
        /// Which shell
        shell: Shell,
    },
}

/// How data is printed.
#[derive(Clone, Copy, Debug, Args)]
pub struct OutputArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Where the service listens; a loopback address [default: 127.0.0.1:8080, or a free port]
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = loopback)]
    pub listen: Option<SocketAddr>,
    /// Where the Sandbox provider listens; a loopback address [default: 127.0.0.1:8081, or a free
    /// port]
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = loopback)]
    pub sandbox_listen: Option<SocketAddr>,
    /// Where the page that plays your product listens; a loopback address [default:
    /// 127.0.0.1:8082, or a free port]
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = loopback)]
    pub product_listen: Option<SocketAddr>,
    /// Where the demo keeps its database and key ring
    #[arg(long, value_name = "PATH", default_value = "symbolon-demo")]
    pub directory: PathBuf,
    /// How the pages and lines are printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `migrate`.
#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// Only list what would be applied
    #[arg(long)]
    pub dry_run: bool,
    /// How the list is printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `api-key …`.
#[derive(Debug, Subcommand)]
pub enum ApiKeyCommand {
    /// Create a key; its secret is printed once and stored only as a hash
    #[command(after_help = "\
Examples:
  symbolon api-key create --name my-product --scope link:write --scope tokens:read
  symbolon api-key create --name ci --scope admin --json | jq -r .secret
  symbolon api-key create --name acme --scope sso:write --organization acme --provider-type oidc
  symbolon api-key create --name sync --scope tokens:read --provider 1 --token-scope repo --user 'acme:*'

Scopes: identities:read, identities:write, tokens:read, link:write, providers:read, providers:write,
sso:read, sso:write, events:read, and admin, which is all of them.")]
    Create(CreateApiKeyArgs),
    /// List all keys, revoked ones too
    List(OutputArgs),
    /// Revoke a key: it is refused from then on
    #[command(after_help = "\
Example:
  symbolon api-key revoke 3      the id is in `symbolon api-key list`")]
    Revoke {
        /// The key's id
        #[arg(value_parser = clap::value_parser!(i64).range(1..))]
        id: i64,
        /// How the key is printed.
        #[command(flatten)]
        output: OutputArgs,
    },
}

/// `api-key create`.
#[derive(Debug, Args)]
pub struct CreateApiKeyArgs {
    /// What people call it, for example the calling service's name
    #[arg(long, value_parser = key_name)]
    pub name: String,
    /// What it may do; give it several times for several scopes
    #[arg(
        long = "scope",
        value_name = "SCOPE",
        required = true,
        num_args = 1,
        value_parser = key_scope
    )]
    pub scopes: Vec<KeyScope>,
    /// An organization whose single sign-on it may deal with; give it several times for several,
    /// and not at all for every one
    #[arg(long = "organization", value_name = "ID", num_args = 1)]
    pub organizations: Vec<String>,
    /// A provider type whose instances and identities are there for it; give it several times for
    /// several, and not at all for every one
    #[arg(long = "provider-type", value_name = "TYPE", num_args = 1)]
    pub provider_types: Vec<String>,
    /// A provider instance whose identities are there for it, by id; give it several times for
    /// several. A key with this, --token-scope or --user is good for handing out tokens, reading
    /// identities and linking only
    #[arg(
        long = "provider",
        value_name = "ID",
        num_args = 1,
        value_parser = clap::value_parser!(i64).range(1..)
    )]
    pub providers: Vec<i64>,
    /// A scope that tokens may have which are handed to it; give it several times for several. A
    /// token with any other scope, or none on record, is not handed to it
    #[arg(long = "token-scope", value_name = "SCOPE", num_args = 1)]
    pub token_scopes: Vec<String>,
    /// A user whose identities are there for it, or a prefix of user ids with a star behind it;
    /// give it several times for several
    #[arg(long = "user", value_name = "ID|PREFIX*", num_args = 1)]
    pub users: Vec<String>,
    /// How the key is printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `provider-types …`.
#[derive(Debug, Subcommand)]
pub enum ProviderTypesCommand {
    /// List the types, and what each can do
    List(ListTypesArgs),
    /// Show what a type can do, what to register at the provider and what to configure
    Show(ShowTypeArgs),
    /// Try a type, or a file of your own, against the sandbox in the shape of its provider
    #[command(
        long_about = "\
Try a type of the catalog, or a file of your own, against the sandbox in the shape of its provider.

The sandbox answers what the provider's documentation says that it answers, to the requests that it
documents and to no others. The type is led through link, profile, refresh, failed refreshes and
revocation, and whatever does not fit is told. Nothing leaves this machine.

A file NAME.toml of your own needs a shape: NAME.shape.toml beside it, or --shape FILE.
docs/catalog.md describes both.",
        after_help = "\
Examples:
  symbolon provider-types check github
  symbolon provider-types check types/wiki.toml
  symbolon provider-types check types/wiki.toml --shape wiki-answers.toml --json"
    )]
    Check(CheckTypeArgs),
}

/// `provider-types check`.
#[derive(Debug, Args)]
pub struct CheckTypeArgs {
    /// A type of the catalog, or a file with an entry
    #[arg(value_name = "TYPE|FILE")]
    pub target: String,
    /// What the provider answers [default: NAME.shape.toml beside FILE, or what is built in]
    #[arg(long, value_name = "FILE")]
    pub shape: Option<PathBuf>,
    /// How the report is printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `provider-types list`.
#[derive(Debug, Args)]
pub struct ListTypesArgs {
    /// Print a page with all that `show` tells of each: docs/providers.md, of your own catalog
    #[arg(long, conflicts_with = "json")]
    pub markdown: bool,
    /// How the list is printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `provider-types show`.
#[derive(Debug, Args)]
pub struct ShowTypeArgs {
    /// Which one, for example `gitlab`
    #[arg(value_name = "TYPE")]
    pub name: String,
    /// How the type is printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `freeze …`.
#[derive(Debug, Subcommand)]
pub enum FreezeCommand {
    /// Hand out no token to an API key
    Key(FreezeArgs),
    /// Hand out no token of a provider instance's accounts
    Provider(FreezeArgs),
    /// Hand out no token of the identities that an organization uses
    Organization(FreezeArgs),
    /// List what is frozen
    List(OutputArgs),
}

/// `freeze key|provider|organization`.
#[derive(Debug, Args)]
pub struct FreezeArgs {
    /// Which one
    pub id: String,
    /// Why, for the record and for whoever asks for a token: 1 to 500 characters
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub reason: Option<String>,
    /// How the freeze is printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `unfreeze`.
#[derive(Debug, Args)]
pub struct UnfreezeArgs {
    /// What is frozen
    pub kind: FreezeKind,
    /// Which one
    pub id: String,
    /// Why, for the record: 1 to 500 characters
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub reason: Option<String>,
    /// How the freeze is printed that was lifted.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// What can be frozen.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum FreezeKind {
    /// An API key
    Key,
    /// A provider instance
    Provider,
    /// An organization of the product's
    Organization,
}

impl FreezeKind {
    /// The kind as the domain names it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Provider => "provider",
            Self::Organization => "organization",
        }
    }
}

/// `keyring …`.
#[derive(Debug, Subcommand)]
pub enum KeyringCommand {
    /// Write a new key ring, or add a key to one
    #[command(
        long_about = "\
Write a new key ring with one key, readable by its owner only, and never over a file that is there.
With --add: add a new key to a key ring and seal with it from then on; what was sealed before still
opens. With --add --inactive the new key only opens, until `keyring activate` makes it seal: for
replicas that each have a copy of the file, and must have it before the key is used.

Keep a copy of the file apart from the database's backups: without it nobody reads the stored
credentials again.",
        after_help = "\
Examples:
  symbolon keyring generate --file symbolon-keyring.json
  symbolon keyring generate --file symbolon-keyring.json --add
  symbolon keyring rotate"
    )]
    Generate {
        /// The key ring's file
        #[arg(long, value_name = "PATH")]
        file: PathBuf,
        /// Add a key to the file instead of writing a new one
        #[arg(long)]
        add: bool,
        /// Do not seal with the added key yet
        #[arg(long, requires = "add")]
        inactive: bool,
        /// How the keys are printed.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Make a key of the key ring the one that seals
    Activate {
        /// The key's id
        id: u32,
        /// The key ring's file
        #[arg(long, value_name = "PATH")]
        file: PathBuf,
        /// How the keys are printed.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Seal everything in the database under the active key, while the service runs
    #[command(
        long_about = "\
Seal everything in the database under the active key, while the service runs: nobody waits, and at
every moment every value opens. It may be ended at any moment; run again, it goes on with what is
left. Values that do not open (altered, swapped between rows, older than their row, never sealed, or
under a missing key) stay as they are and are reported by table and row, with exit status 1.

With --retire: afterwards take keys out of the key ring that no value needs, older than the active
one. First it waits and looks a second time, since a replica that has not loaded the key ring anew
may still seal with the old key. A key that is taken out is kept in a file of its own beside the key
ring, for backups of the database from before.",
        after_help = "\
Examples:
  symbolon keyring rotate
  symbolon keyring rotate --retire
  symbolon keyring rotate --json | jq .refused"
    )]
    Rotate {
        /// Take older keys out of the key ring that no value needs any more
        #[arg(long)]
        retire: bool,
        /// Seconds until the second look before a key is taken out
        #[arg(long, value_name = "SECONDS", default_value_t = 30, requires = "retire")]
        settle: u32,
        /// How the report is printed.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Show which keys there are, which one seals, and how many values are under each
    #[command(long_about = "\
Show which keys there are, which one seals, and, where the configuration names a database, how many
values in it are under each. Every value is opened where it lies; those that do not open are
reported by table and row, with exit status 1.")]
    Status {
        /// A key ring's file, to look at it alone [default: the configuration's key ring]
        #[arg(long, value_name = "PATH")]
        file: Option<PathBuf>,
        /// How the keys are printed.
        #[command(flatten)]
        output: OutputArgs,
    },
}

/// `import …`.
#[derive(Debug, Subcommand)]
pub enum ImportCommand {
    /// Take Sentry's identities from Django's dumpdata JSON
    #[command(
        long_about = "\
Take Sentry's identities from Django's dumpdata JSON: identity providers, identities, auth
providers, auth identities and organization identities. Other models in the file are skipped and
counted.

Ids are kept where they are free. Credentials and other secrets are taken out of `data` and sealed.
A row that cannot be taken is reported by its position and reason, and the others are taken. What is
there already stays as it is, so that the same file can be imported again, also after an
interruption. The service may run meanwhile.

Exit status: 0 when every row was taken or was there, 1 when one was not.",
        after_help = "\
Examples:
  sentry django dumpdata sentry.identityprovider sentry.identity sentry.authprovider \\
    sentry.authidentity sentry.organizationidentity > sentry.json
  symbolon import sentry --dry-run sentry.json
  symbolon import sentry --report refused.jsonl sentry.json"
    )]
    Sentry(ImportArgs),
    /// Take everything from an export of Symbolon's own
    #[command(
        long_about = "\
Take everything from a file that `symbolon export` wrote, into an empty database or beside what is
there. An empty one becomes what was exported, with every id, version and counter; the other kind of
database too. In one that has rows of its own those stay as they are, and records that stand against
them are reported by their line and reason.

Exit status: 0 when every record was taken or was there, 1 when one was not.",
        after_help = "\
Examples:
  symbolon import symbolon --dry-run backup.jsonl
  symbolon import symbolon --json backup.jsonl"
    )]
    Symbolon(ImportArgs),
}

/// `import …`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// What to import
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Only say what would become of each row; nothing is written
    #[arg(long)]
    pub dry_run: bool,
    /// Write what became of rows that need a look here, as JSON lines, in place of standard error
    #[arg(long, value_name = "PATH")]
    pub report: Option<PathBuf>,
    /// How the summary is printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Where to write it; readable by its owner only
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Write credentials, client secrets and hashes of API keys too, in the clear
    #[arg(long)]
    pub with_secrets: bool,
    /// Write over a file that is there
    #[arg(long)]
    pub force: bool,
    /// How the summary is printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// An address that only this machine reaches.
fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr =
        text.parse().map_err(|_| "expected an address and a port such as 127.0.0.1:8080")?;
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err("the demo has a key that everybody can read, so it listens on loopback only; expected \
             an address such as 127.0.0.1:8080"
            .to_owned())
    }
}

fn key_scope(text: &str) -> Result<KeyScope, String> {
    KeyScope::parse(text).ok_or_else(|| {
        let known: Vec<_> = KeyScope::ALL.iter().map(|it| it.as_str()).collect();
        format!("expected one of {}", known.join(", "))
    })
}

fn reason(text: &str) -> Result<String, String> {
    let length = text.chars().count();
    if (1..=500).contains(&length) && !text.chars().any(char::is_control) {
        Ok(text.to_owned())
    } else {
        Err("must be 1 to 500 characters and hold no control character".to_owned())
    }
}

fn key_name(text: &str) -> Result<String, String> {
    ApiKeys::check_name(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_help_names_every_scope() {
        let mut create = Cli::command();
        let create = create.find_subcommand_mut("api-key").unwrap();
        let create = create.find_subcommand_mut("create").unwrap();
        let help = create.render_long_help().to_string();
        for &scope in KeyScope::ALL {
            assert!(help.contains(scope.as_str()), "{scope:?}");
        }
    }

    #[test]
    fn the_demo_listens_on_loopback_only() {
        for address in ["127.0.0.1:0", "127.9.9.9:1", "[::1]:8080"] {
            assert!(loopback(address).is_ok(), "{address}");
        }
        for address in ["0.0.0.0:8080", "[::]:8080", "10.0.0.1:80", "192.168.0.1:80", "8080", "x"] {
            assert!(loopback(address).is_err(), "{address}");
        }
    }
}
