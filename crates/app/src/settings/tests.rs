use std::fs;

use super::*;

fn read(text: &str, environment: &[(&str, &str)], needs: &[Need]) -> Result<Settings, Vec<String>> {
    let mut findings = Findings::default();
    let content = FileContent { name: DEFAULT_FILE.to_owned(), text: text.to_owned() };
    let environment =
        environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let settings = Settings::read(Some(&content), environment, needs, &mut findings);
    if findings.mistakes.is_empty() {
        Ok(settings)
    } else {
        Err(findings.mistakes.iter().map(ToString::to_string).collect())
    }
}

/// The key, a file that gets it wrong, and what is said of it.
const BAD_VALUES: &[(&str, &str, &str)] = &[
    ("server.listen", "server.listen='here'", "an address and a port"),
    ("server.listen", "server.listen=8080", "an address and a port"),
    ("server.public_url", "server.public_url='accounts.example'", "an http or https address"),
    ("server.public_url", "server.public_url='ftp://a.example'", "an http or https address"),
    ("server.public_url", "server.public_url='https://a.example/?x'", "without query"),
    ("server.public_url", "server.public_url='https://canary@a.example/'", "an http or https"),
    ("server.trusted_proxies", "server.trusted_proxies=['10.0.0.0/33']", "a list of addresses"),
    ("server.trusted_proxies", "server.trusted_proxies=[1]", "a list of addresses"),
    (
        "server.requests_per_second_per_key",
        "server.requests_per_second_per_key=0",
        "a whole number from 1 to 1000000",
    ),
    ("server.port", "server.port=1", "is not a known key; expected one of listen, public_url"),
    ("server", "server=1", "a table, [server]"),
    ("database.url", "database.url='mysql://canary'", "\"sqlite:PATH\" or \"postgres://"),
    ("database.url", "database.url='sqlite:'", "\"sqlite:PATH\" or \"postgres://"),
    ("database.url", "database.url=''", "\"sqlite:PATH\" or \"postgres://"),
    ("database.url_file", "database.url_file='/not/there'", "cannot read /not/there"),
    ("database.url_file", "database.url_file=['a']", "the path of a file"),
    ("database.url", "database.url='sqlite:a'\ndatabase.url_file='b'", "is given twice"),
    ("database.max_connections", "database.max_connections=3", "a whole number from 4 to 1000"),
    ("database.max_connections", "database.max_connections=2.5", "a whole number"),
    ("database.statement_timeout", "database.statement_timeout='0s'", "from 1s to 10m"),
    ("database.root_certificate", "database.root_certificate=['x']", "the path of a file"),
    ("database.auto_migrate", "database.auto_migrate='yes'", "true or false"),
    ("keyring.file", "keyring.file=7", "the path of a file"),
    ("keyring.env", "keyring.env=7", "the name of an environment variable"),
    ("keyring.env", "keyring.env='A=canary'", "the name of an environment variable"),
    ("keyring.env", "keyring.env='A'\nkeyring.file='b'", "and so is keyring.file"),
    ("keyring.command", "keyring.command=['x']\nkeyring.env='A'", "leave one of file, env"),
    ("keyring.command", "keyring.command=[]", "a program and its arguments"),
    ("keyring.command", "keyring.command=[1]", "a program and its arguments"),
    ("keyring.command_timeout", "keyring.command_timeout='1h'", "from 1s to 2m"),
    ("link.return_urls", "link.return_urls=['app.example']", "http or https addresses"),
    ("link.return_urls", "link.return_urls=['https://a.example/?x']", "must have no query"),
    ("link.return_urls", "link.return_urls=3", "a list of addresses"),
    ("link.session_ttl", "link.session_ttl='soon'", "a length of time from 10s to 1d"),
    ("link.session_ttl", "link.session_ttl=1", "a length of time from 10s to 1d"),
    ("refresh.margin", "refresh.margin='-5m'", "a length of time"),
    ("refresh.margin", "refresh.margin=-5", "a length of time"),
    ("refresh.ahead", "refresh.ahead='5 apples'", "a length of time"),
    ("refresh.ahead", "refresh.ahead='0s'", "a length of time from 1s to 1d"),
    ("refresh.ahead", "refresh.ahead='never'", "\"off\""),
    (
        "refresh.per_second_per_provider",
        "refresh.per_second_per_provider=0",
        "a whole number from 1",
    ),
    (
        "refresh.concurrency_per_provider",
        "refresh.concurrency_per_provider=0",
        "a whole number from 1",
    ),
    ("http_client.timeout", "http_client.timeout='10ms'", "a length of time from 1s to 2m"),
    ("http_client.max_response_bytes", "http_client.max_response_bytes=1", "from 1024"),
    ("http_client.allow_http", "http_client.allow_http=1", "true or false"),
    (
        "http_client.allow_private_networks",
        "http_client.allow_private_networks='on'",
        "true or false",
    ),
    ("webhooks.url", "webhooks.url='x'", "is not a known key; expected one of timeout"),
    ("webhooks.timeout", "webhooks.timeout='0s'", "a length of time from 1s to 2m"),
    ("webhooks.max_attempts", "webhooks.max_attempts=0", "a whole number from 1 to 100"),
    ("webhooks.first_retry", "webhooks.first_retry='2h'", "a length of time from 100ms to 1h"),
    ("webhooks.concurrency", "webhooks.concurrency='many'", "a whole number from 1 to 200"),
    ("ledger.retention_days", "ledger.retention_days=0", "a whole number from 1 to 3650"),
    ("token_exchange.issuers", "token_exchange.issuers='x'", "a list of tables"),
    (
        "token_exchange.issuers[0].audience",
        "[[token_exchange.issuers]]\nissuer='https://a.example'",
        "is missing; expected a text",
    ),
    (
        "token_exchange.issuers[0].issuer",
        "[[token_exchange.issuers]]\nissuer='a.example'\naudience='us'",
        "an http or https address",
    ),
    (
        "token_exchange.issuers[0].algorithms",
        "[[token_exchange.issuers]]\nissuer='https://a.example'\naudience='us'\n\
             algorithms=['none']",
        "a list of signing algorithms",
    ),
    (
        "token_exchange.issuers[1]",
        "[[token_exchange.issuers]]\nissuer='https://a.example'\naudience='us'\n\
             [[token_exchange.issuers]]\nissuer='https://a.example'\naudience='them'",
        "the same issuer",
    ),
    ("webhooks.retention_days", "webhooks.retention_days=0", "a whole number from 1 to 3650"),
    ("telemetry.log_format", "telemetry.log_format='xml'", "\"text\" or \"json\""),
    ("telemetry.otlp_endpoint", "telemetry.otlp_endpoint='here'", "an http or https address"),
    ("sentry_rpc.shared_secrets", "sentry_rpc.shared_secrets=['']", "a list of secrets"),
    ("sentry_rpc.include_credentials", "sentry_rpc.include_credentials=1", "true or false"),
    ("providers", "providers=1", "a list of tables, [[providers]]"),
    ("providers[0]", "providers=[1]", "a table"),
    ("providers[0].type", "[[providers]]", "is missing; expected a provider type"),
    ("providers[0].type", "[[providers]]\ntype=1", "a provider type"),
    ("providers[0].external_id", "[[providers]]\ntype='a'\nexternal_id=''", "not empty"),
    (
        "providers[0].multiple_accounts",
        "[[providers]]\ntype='a'\nmultiple_accounts=1",
        "true or false",
    ),
    ("providers[0].login", "[[providers]]\ntype='a'\nlogin=1", "true or false"),
    ("providers[0].issuer", "[[providers]]\ntype='a'\nissuer='x'", "is not a known key"),
    ("providers[0].config", "[[providers]]\ntype='a'\nconfig=1", "a table"),
    (
        "providers[0].config.client_secret_file",
        "[[providers]]\ntype='a'\nconfig.client_secret_file='/not/there'",
        "cannot read /not/there",
    ),
    ("providers[1]", "[[providers]]\ntype='a'\n[[providers]]\ntype='a'", "external_id"),
    ("symbolon.toml", "a=1\nb='canary", "line 2 is not TOML"),
    ("servre", "servre.listen='x'", "is not a known key; expected one of server, database"),
];

#[test]
fn every_bad_value_is_told_with_its_key_and_what_was_expected() {
    for (key, text, expected) in BAD_VALUES {
        let mistakes = read(text, &[], &[]).expect_err(text);
        assert_eq!(mistakes.len(), 1, "{text}: {mistakes:?}");
        assert!(mistakes[0].starts_with(&format!("{key}: ")), "{text}: {mistakes:?}");
        assert!(mistakes[0].contains(expected), "{text}: {mistakes:?}");
        assert!(!mistakes[0].contains("canary"), "{text}: {mistakes:?}");
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let text = "
        server.listen = 'x'
        database.max_connections = 'many'
        surprise = 1
        [[providers]]
        typ = 'oidc'
    ";
    let environment = [("SYMBOLON__LINK__SESSION_TTL", "soon"), ("SYMBOLON__LINK__TTL", "1")];
    let mistakes = read(text, &environment, &[Need::Database, Need::Keyring]).unwrap_err();
    let keys: Vec<_> = mistakes.iter().map(|it| it.split(": ").next().unwrap()).collect();
    assert_eq!(
        keys,
        [
            "server.listen",
            "database.url",
            "database.max_connections",
            "keyring.file",
            "link.session_ttl",
            "link.ttl",
            "providers[0].type",
            "providers[0].typ",
            "surprise",
        ]
    );
    assert!(mistakes[4].contains("SYMBOLON__LINK__SESSION_TTL"), "{mistakes:?}");
    let told = Mistakes(vec![Mistake::new("a", "b"), Mistake::new("c", "d")]).to_string();
    assert_eq!(told, "the configuration cannot be used for 2 reasons:\n  a: b\n  c: d");
}

#[test]
fn the_keys_come_from_a_file_a_variable_or_a_command() {
    let place = |text: &str, environment: &[(&str, &str)]| {
        let keyring = read(text, environment, &[Need::Keyring]).unwrap().keyring;
        keyring.service().place()
    };
    assert_eq!(place("keyring.file='ring.json'", &[]), "ring.json");
    assert_eq!(place("keyring.env='KEYS'", &[]), "the environment variable KEYS");
    assert_eq!(place("keyring.command=['vault', 'kv', 'canary']", &[]), "what vault prints");
    let environment = [("SYMBOLON__KEYRING__COMMAND", "vault,kv,canary")];
    assert_eq!(place("", &environment), "what vault prints");
    let mistakes = read("", &[], &[Need::Keyring]).unwrap_err();
    assert!(mistakes[0].contains("keyring.env or keyring.command"), "{mistakes:?}");
}

#[test]
fn the_environment_goes_over_the_file() {
    let settings = read(
        "server.listen='127.0.0.1:1'\nrefresh.margin='1m'\ndatabase.url_file='/not/there'",
        &[
            ("SYMBOLON__SERVER__LISTEN", "127.0.0.1:2"),
            ("SYMBOLON__SERVER__TRUSTED_PROXIES", "10.0.0.0/8, ::1"),
            ("SYMBOLON__DATABASE__URL", "sqlite:x.db"),
            ("SYMBOLON__DATABASE__AUTO_MIGRATE", "true"),
            ("SYMBOLON__DATABASE__MAX_CONNECTIONS", "5"),
            ("SYMBOLON__LINK__RETURN_URLS", "https://a.example/,https://b.example/x"),
            ("SYMBOLON__LINK__SESSION_TTL", "90"),
        ],
        &[Need::Database],
    )
    .unwrap();
    assert_eq!(settings.server.listen.port(), 2);
    assert_eq!(settings.server.trusted_proxies.len(), 2);
    assert_eq!(settings.database.url, Some(Secret::new("sqlite:x.db")));
    assert!(settings.database.auto_migrate);
    assert_eq!(settings.database.max_connections, 5);
    assert!(settings.link.return_urls.check("https://b.example/x/y").is_ok());
    assert_eq!(settings.link.session_ttl, Duration::from_secs(90));
    assert_eq!(settings.refresh.margin, Duration::from_mins(1));
}

#[test]
fn secrets_come_from_files_and_show_themselves_nowhere() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let url = write("url", "postgres://u:canary@h/d\n");
    let client_secret = write("client_secret", "canary-2\n");
    let shared = write("shared", "canary-one\ncanary-two\n");
    let text = format!(
        "database.url_file='{url}'\nsentry_rpc.shared_secrets_file='{shared}'\n\
         [[providers]]\ntype='oidc'\n[providers.config]\nclient_secret_file='{client_secret}'"
    );
    let settings = read(&text, &[], &[Need::Database]).unwrap();
    assert_eq!(settings.database.url, Some(Secret::new("postgres://u:canary@h/d")));
    assert_eq!(settings.providers[0].config["client_secret"], "canary-2");
    assert!(!format!("{settings:?}").contains("canary"));
    let shared = ["canary-one", "canary-two"].map(Secret::new);
    assert_eq!(settings.sentry_rpc.shared_secrets, shared);

    let empty = write("empty", "\n");
    let mistakes = read(&format!("database.url_file='{empty}'"), &[], &[]).unwrap_err();
    assert!(mistakes[0].contains("is empty"), "{mistakes:?}");
}

#[test]
fn tokens_are_refreshed_ahead_of_demand_unless_that_is_off() {
    let minutes = Duration::from_mins;
    for (text, ahead) in [
        ("", Some(minutes(15))),
        ("refresh.ahead='20m'", Some(minutes(20))),
        ("refresh.ahead=600", Some(minutes(10))),
        ("refresh.ahead='off'", None),
    ] {
        let settings = read(text, &[], &[]).unwrap();
        assert_eq!(settings.refresh.ahead, ahead, "{text}");
        assert_eq!(settings.database.refresh_plan.ahead, ahead, "{text}");
        assert_eq!(settings.warnings(), Vec::<String>::new(), "{text}");
    }
    let warnings = read("refresh.ahead='5m'", &[], &[]).unwrap().warnings();
    let [warning] = warnings.as_slice() else { panic!("{warnings:?}") };
    assert!(warning.starts_with("refresh.ahead") && warning.contains("margin"), "{warning}");
}

#[test]
fn plain_http_in_public_is_warned_of() {
    for (text, warned) in [
        ("server.public_url='http://accounts.example'", true),
        ("server.public_url='https://accounts.example'", false),
        ("server.public_url='http://localhost:8080'", false),
        ("server.public_url='http://[::1]:8080'", false),
        ("server.listen='0.0.0.0:8080'", true),
        ("http_client.allow_http=true", true),
        ("http_client.allow_private_networks=true", true),
    ] {
        let warnings = read(text, &[], &[]).unwrap().warnings();
        assert_eq!(warnings.len(), usize::from(warned), "{text}: {warnings:?}");
    }
}

#[test]
fn what_sentry_may_be_told_is_warned_of() {
    let long = "x".repeat(32);
    for (text, warned) in [
        (String::new(), &[][..]),
        (format!("shared_secrets=['{long}']"), &[]),
        (format!("shared_secrets=['{long}','canary']"), &["sentry_rpc.shared_secrets"]),
        (
            format!("shared_secrets=['{long}']\ninclude_credentials=true"),
            &["sentry_rpc.include_credentials"],
        ),
        ("include_credentials=true".into(), &["sentry_rpc.include_credentials"]),
    ] {
        let settings = read(&format!("[sentry_rpc]\n{text}"), &[], &[]).unwrap();
        let warnings = settings.warnings();
        let keys: Vec<_> = warnings.iter().map(|it| it.split(' ').next().unwrap()).collect();
        assert_eq!(keys, warned, "{text}");
        assert!(!format!("{warnings:?}{settings:?}").contains("canary"), "{text}");
    }
    let environment = [("SYMBOLON__SENTRY_RPC__SHARED_SECRETS", "one, two")];
    let settings = read("sentry_rpc.shared_secrets=['three']", &environment, &[]).unwrap();
    assert_eq!(settings.sentry_rpc.shared_secrets, ["one", "two"].map(Secret::new));
}

#[test]
fn the_public_url_is_where_the_service_listens_unless_set() {
    let bound = |text: &str| text.parse().unwrap();
    let settings = Settings::default();
    assert_eq!(settings.public_url(bound("127.0.0.1:81")).as_str(), "http://127.0.0.1:81/");
    assert_eq!(settings.public_url(bound("[::1]:81")).as_str(), "http://[::1]:81/");
    assert_eq!(settings.public_url(bound("0.0.0.0:81")).as_str(), "http://localhost:81/");
    let set = read("server.public_url='https://a.example/sub'", &[], &[]).unwrap();
    assert_eq!(set.public_url(bound("127.0.0.1:81")).as_str(), "https://a.example/sub");
}

#[test]
fn an_issuer_is_trusted_as_the_file_says() {
    let settings = read(
        "[[token_exchange.issuers]]\nissuer='https://a.example/x/'\naudience='us'\n\
         user_claim='uid'\nprovider_types=['github']",
        &[],
        &[],
    );
    let issuers = settings.unwrap().token_exchange.issuers;
    let expected = TrustedIssuer {
        issuer: "https://a.example/x/".to_owned(),
        audience: "us".to_owned(),
        jwks_uri: None,
        algorithms: SigningAlg::DEFAULT.to_vec(),
        user_claim: "uid".to_owned(),
        provider_types: Some(vec!["github".to_owned()]),
    };
    assert_eq!(issuers, [expected]);
}

const EXAMPLE: &str = include_str!("../../../../symbolon.example.toml");

/// The example with its commented keys switched on: lines of the form `# key = value`, `# [table]`.
fn example_with_everything() -> String {
    let is_setting = |line: &str| {
        let name = line.split(" = ").next().unwrap_or_default();
        line.starts_with('[')
            || (line.contains(" = ") && name.chars().all(|it| it.is_ascii_lowercase() || it == '_'))
    };
    let switch_on = |line: &str| match line.strip_prefix("# ").filter(|it| is_setting(it)) {
        Some(setting) => setting.to_owned(),
        None => line.to_owned(),
    };
    EXAMPLE.lines().map(switch_on).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_says_the_defaults() {
    assert_eq!(read(EXAMPLE, &[], &[]), Ok(Settings::default()));
}

#[test]
fn the_example_has_every_key_and_no_other() {
    let mut findings = Findings::default();
    Settings::read(None, HashMap::new(), &[], &mut findings);
    let everything = example_with_everything();
    let table: toml::Table = everything.parse().unwrap();
    for known in &findings.known {
        let found = match known.split_once('.') {
            Some((section, key)) => table.get(section).and_then(|it| it.get(key)),
            None => table.get(known),
        };
        assert!(found.is_some(), "{known} is missing from symbolon.example.toml");
    }
    // What is shown is good too, but for the files, which are not there, and keys that stand
    // next to their own file or to another one that takes their place.
    let mistakes = read(&everything, &[], &[]).unwrap_err();
    for mistake in mistakes {
        assert!(
            mistake.contains("cannot read /run/secrets/")
                || mistake.contains("is given twice")
                || mistake.contains("provider-types: cannot be read")
                || mistake.contains("leave one of file, env and command"),
            "{mistake}"
        );
    }
}
