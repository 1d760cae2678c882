//! What an entry must keep to, beyond its form: the mistakes that catalogs elsewhere are full of.

use std::{collections::BTreeSet, sync::LazyLock};

use regex::Regex;
use url::Url;

use super::{
    entry::{Alternatives, Call, Entry},
    parameter::ParameterKind,
    template::{Pointer, TOKEN, Template},
};

/// Keys of every configuration.
const CONFIG_KEYS: &[&str] = &[
    "client_id",
    "client_secret",
    "client_secret_next",
    "scopes",
    "refresh_token_idle_seconds",
    "dpop",
];

/// Keys of a configuration whose client registers itself.
const REGISTRATION_KEYS: &[&str] = &[
    "client_name",
    "client_secret_expires_at",
    "registration_access_token",
    "registration_client_uri",
    "token_endpoint_auth_method",
];

/// Headers that a client of an MCP server sets itself.
const MCP_HEADERS: &[&str] =
    &["accept", "authorization", "content-type", "mcp-protocol-version", "mcp-session-id"];

static NAME: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new("^[a-z0-9][a-z0-9_-]{0,62}$").ok());

impl Entry {
    /// Reads an entry from its TOML text.
    ///
    /// # Errors
    ///
    /// Says what was expected.
    pub(crate) fn parse(name: &str, text: &str) -> Result<Self, String> {
        let entry: Self = toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|it| text.get(..it.start)).unwrap_or_default();
            format!("line {}: {}", before.matches('\n').count() + 1, error.message())
        })?;
        entry.check(name)?;
        Ok(entry)
    }

    /// Checks everything that the form alone does not say.
    pub(crate) fn check(&self, name: &str) -> Result<(), String> {
        if !NAME.as_ref().is_some_and(|it| it.is_match(name)) {
            return Err("its name must be of a-z, 0-9, _ and -, and at most 63 characters".into());
        }
        self.check_texts()?;
        self.check_parameters()?;
        self.check_addresses()?;
        self.check_own_names()?;
        self.check_answers()?;
        self.check_revocation()?;
        self.check_issuers()?;
        self.check_registration()?;
        self.check_pointers()?;
        self.check_lifetimes()?;
        self.check_dpop()?;
        for (index, rule) in self.errors.iter().enumerate() {
            rule.check().map_err(|why| format!("errors, rule {index}: {why}"))?;
        }
        Ok(())
    }

    fn check_texts(&self) -> Result<(), String> {
        for (key, text) in [("title", &self.title), ("description", &self.description)] {
            if text.trim().is_empty() {
                return Err(format!("{key} must not be empty"));
            }
        }
        if self.documentation.is_empty() {
            return Err("documentation must name at least one page".into());
        }
        for page in &self.documentation {
            let url =
                Url::parse(page).map_err(|_| format!("documentation: {page} is no address"))?;
            if url.scheme() != "https" {
                return Err(format!("documentation: {page} must be https"));
            }
        }
        let date = |it: &str| {
            let parts: Vec<&str> = it.split('-').collect();
            parts.iter().map(|it| it.len()).eq([4, 2, 2])
                && parts.iter().all(|it| it.bytes().all(|it| it.is_ascii_digit()))
        };
        if !date(&self.checked) {
            return Err("checked must be a date like 2026-11-25".into());
        }
        Ok(())
    }

    /// Every template of the entry, with the key that it stands under.
    fn templates(&self) -> Vec<(&'static str, &Template)> {
        let mut all = self.addresses();
        if let Some(signed) = &self.token.signed_secret {
            all.extend([
                ("token.signed_secret.key_id", &signed.key_id),
                ("token.signed_secret.issuer", &signed.issuer),
            ]);
        }
        let mut maps = vec![("token.headers", &self.token.headers)];
        maps.push(("token.parameters", &self.token.parameters));
        if let Some(it) = &self.authorization {
            maps.push(("authorization.parameters", &it.parameters));
        }
        if let Some(it) = &self.refresh {
            maps.push(("refresh.parameters", &it.parameters));
            maps.push(("refresh.headers", &it.headers));
        }
        if let Some(it) = &self.revoke {
            maps.push(("revoke.parameters", &it.parameters));
            maps.push(("revoke.headers", &it.headers));
        }
        for call in &self.profile {
            maps.push(("profile.headers", &call.headers));
            maps.push(("profile.form", &call.form));
        }
        all.extend(maps.into_iter().flat_map(|(key, map)| map.values().map(move |it| (key, it))));
        let account = &self.account;
        for (key, alternatives) in [
            ("account.id", &account.id),
            ("account.name", &account.name),
            ("account.email", &account.email),
            ("account.tenant", &account.tenant),
        ] {
            all.extend(alternatives.0.iter().map(|it| (key, it)));
        }
        all
    }

    /// Every template that is an address.
    pub(super) fn addresses(&self) -> Vec<(&'static str, &Template)> {
        let mut all: Vec<(&'static str, &Template)> = Vec::new();
        let mut add = |key, url| all.extend(Option::map(url, |it| (key, it)));
        add("authorization.url", self.authorization.as_ref().and_then(|it| it.url.as_ref()));
        add("token.url", self.token.url.as_ref());
        add("registration.url", self.registration.as_ref().and_then(|it| it.url.as_ref()));
        add("long_lived.url", self.long_lived.as_ref().map(|it| &it.url));
        add("refresh.url", self.refresh.as_ref().and_then(|it| it.url.as_ref()));
        add("revoke.url", self.revoke.as_ref().map(|it| &it.url));
        add("device.url", self.device.as_ref().and_then(|it| it.url.as_ref()));
        if let Some(openid) = &self.openid {
            add("openid.issuer", Some(&openid.issuer));
            add("openid.jwks_uri", openid.jwks_uri.as_ref());
            for issuer in &openid.issuers {
                add("openid.issuers", Some(issuer));
            }
        }
        for call in &self.profile {
            add("profile.url", Some(&call.url));
        }
        all
    }

    fn check_parameters(&self) -> Result<(), String> {
        for (name, parameter) in &self.parameters {
            let at = |why: &str| format!("parameters.{name}: {why}");
            let registers = self.registration.is_some();
            if CONFIG_KEYS.contains(&name.as_str())
                || registers && REGISTRATION_KEYS.contains(&name.as_str())
            {
                return Err(at("is a key of every provider already"));
            }
            if let Some(pattern) = &parameter.pattern
                && pattern.regex().is_none()
            {
                return Err(at("its pattern is no regular expression"));
            }
            for (what, value) in
                [("example", Some(&parameter.example)), ("default", parameter.default.as_ref())]
            {
                if value.is_some_and(|it| !parameter.admits(it)) {
                    return Err(at(&format!("its {what} does not fit it")));
                }
            }
            if parameter.secret && parameter.default.is_some() {
                return Err(at("a secret has no default"));
            }
            if parameter.optional && parameter.default.is_some() {
                return Err(at("what has a default is never left out, so it is not optional"));
            }
            if let Some(by) = &parameter.default_by {
                let other = self.parameters.get(&by.parameter).map(|it| &it.one_of[..]);
                let Some(values @ [_, ..]) = other else {
                    return Err(at("it follows from a parameter that has no one_of"));
                };
                if !by.values.keys().eq(values.iter().collect::<BTreeSet<_>>()) {
                    return Err(at("default_by has to say one for each value of the other"));
                }
                if !by.values.values().all(|it| parameter.admits(it)) {
                    return Err(at("a value of default_by does not fit it"));
                }
                if parameter.secret || parameter.optional || parameter.default.is_some() {
                    return Err(at("default_by is a default already, and none of a secret"));
                }
            }
            if name == TOKEN {
                return Err(at("{token} is the token that is revoked"));
            }
        }
        let used: Vec<&str> = self.templates().iter().flat_map(|(_, it)| it.parameters()).collect();
        for name in self.parameters.keys() {
            let signs = self.token.signed_secret.as_ref().is_some_and(|it| it.key == *name);
            if !used.contains(&name.as_str()) && !self.names_config(name) && !signs {
                return Err(format!("parameters.{name}: nothing uses it"));
            }
        }
        for (key, template) in self.templates() {
            for name in template.parameters() {
                let Some(parameter) = self.parameters.get(name) else {
                    if name == "client_id" || (name == TOKEN && key == "revoke.url") {
                        continue;
                    }
                    return Err(format!("{key}: {{{name}}} is no parameter of the entry"));
                };
                if parameter.secret && key.ends_with("url") {
                    return Err(format!(
                        "{key}: {{{name}}} is a secret, which no address may hold"
                    ));
                }
            }
        }
        let signed = self.token.signed_secret.as_ref();
        let optional = |it: &str| self.parameters.get(it).is_some_and(|it| it.optional);
        if let Some(signed) = signed.filter(|it| optional(&it.key)) {
            return Err(format!("parameters.{}: signs, so it is not optional", signed.key));
        }
        let signed = signed
            .map(|it| [("token.signed_secret", &it.key_id), ("token.signed_secret", &it.issuer)]);
        for (key, template) in self.addresses().into_iter().chain(signed.into_iter().flatten()) {
            if let Some(name) = template.parameters().find(|it| optional(it)) {
                return Err(format!("{key}: {{{name}}} is optional, and this has to be whole"));
            }
        }
        Ok(())
    }

    /// Whether some pointer goes to this key of the configuration.
    fn names_config(&self, name: &str) -> bool {
        let whole = format!("/config/{name}");
        let own = Pointer::try_from(whole).ok();
        self.pointers().iter().any(|(_, it)| Some(*it) == own.as_ref())
    }

    fn check_addresses(&self) -> Result<(), String> {
        for (key, template) in self.addresses() {
            let (names, fact) = template.host_parts();
            for name in names {
                if name == TOKEN {
                    return Err(format!("{key}: {{{name}}} stands in the host"));
                }
                if let Some(parameter) = self.parameters.get(name)
                    && !parameter.is_of_a_host()
                {
                    return Err(format!(
                        "{key}: {{{name}}} stands in the host, so it must have one_of or a pattern that \
                         admits none of / @ : ? # \\"
                    ));
                }
            }
            if fact && self.token.hosts.is_empty() {
                return Err(format!("{key}: a fact makes the host, so token.hosts must say which"));
            }
            if let Some(name) = template.origin()
                && self.parameters.get(name).is_none_or(|it| it.kind != ParameterKind::Origin)
            {
                return Err(format!(
                    "{key}: {{{name}}} begins it, so it must be of the kind origin"
                ));
            }
            let mut sample = self.sample(template);
            if key == "openid.issuers" && !sample.contains("://") {
                // Only ever compared: some leave the scheme out of their names.
                sample.insert_str(0, "https://");
            }
            let url = Url::parse(&sample).map_err(|_| format!("{key}: {sample} is no address"))?;
            if url.scheme() != "https" || url.host_str().is_none() {
                return Err(format!("{key}: must be an https address"));
            }
            if url.fragment().is_some() {
                return Err(format!("{key}: must have no fragment"));
            }
        }
        let discovered = self.openid.as_ref().is_some_and(|it| it.jwks_uri.is_none());
        if let Some(authorization) = &self.authorization
            && !discovered
            && (authorization.url.is_none() || self.token.url.is_none())
        {
            return Err(
                "authorization.url and token.url are missing, and there is no discovery".into()
            );
        }
        if self.authorization.is_none() && self.openid.is_none() && self.profile.is_empty() {
            return Err(
                "without an authorization there must be a profile call that tells whose token \
                        it is"
                    .into(),
            );
        }
        Ok(())
    }

    /// The template with examples in its gaps.
    fn sample(&self, template: &Template) -> String {
        template.sample(|name| self.parameters.get(name).map(|it| it.example.as_str()))
    }

    /// Every pointer of the entry into the facts, with the key that it stands under.
    fn pointers(&self) -> Vec<(&'static str, &Pointer)> {
        let mut all: Vec<_> = self
            .templates()
            .into_iter()
            .flat_map(|(key, it)| it.pointers().map(move |it| (key, it)))
            .collect();
        let account = &self.account;
        let verified = account.email_verified.0.iter().chain(&account.email_verified_present);
        all.extend(verified.map(|it| ("account.email_verified", it)));
        let kept = account.keep.values().flat_map(|it| &it.0);
        all.extend(kept.map(|it| ("account.keep", it)));
        all
    }

    fn check_pointers(&self) -> Result<(), String> {
        let mut roots = vec!["token", "config"];
        if self.openid.is_some() {
            roots.extend(["claims", "userinfo"]);
        }
        if self.authorization.as_ref().is_some_and(|it| !it.callback.is_empty()) {
            roots.push("callback");
        }
        for call in &self.profile {
            if roots.contains(&call.name.as_str()) || call.name.contains('/') {
                return Err(format!("profile: {} is not free as a name", call.name));
            }
            roots.push(&call.name);
        }
        for (key, pointer) in self.pointers() {
            if !roots.contains(&pointer.root()) {
                let known = roots.join(", ");
                return Err(format!(
                    "{key}: there is nothing called /{}; expected one of {known}",
                    pointer.root()
                ));
            }
        }
        let taken_out = |(_, it): &&(&str, &Pointer)| it.root() == "token" && it.is_of_secret();
        if let Some((key, _)) = self.pointers().iter().find(taken_out) {
            return Err(format!(
                "{key}: what is called a token, a secret, a password or a code is taken out of the \
                 token answer before anything is found there"
            ));
        }
        let Alternatives(id) = &self.account.id;
        if id.is_empty() && self.openid.is_none() {
            return Err("account.id is missing".into());
        }
        for template in id.iter().filter(|it| it.pointers().next().is_none()) {
            // The token of a shop at the shop's own address stands for the shop, and for nobody.
            let authority = |name| self.parameters.get(name).is_some_and(|it| it.authority);
            if self.sign_in || !template.parameters().any(authority) {
                return Err(
                    "account.id: must come from the facts; only with sign_in = false may it \
                            be made of a parameter with authority = true"
                        .into(),
                );
            }
        }
        if !self.account.email_verified.0.is_empty()
            && self.account.email_verified_present.is_some()
        {
            return Err(
                "account: email_verified and email_verified_present exclude each other".into()
            );
        }
        if let Some(name) = ["name", "email", "email_verified", "tenant"]
            .into_iter()
            .find(|it| self.account.keep.contains_key(*it))
        {
            return Err(format!("account.keep: {name} is shown with the account already"));
        }
        for call in &self.profile {
            call.check_mcp().map_err(|why| format!("profile {}: {why}", call.name))?;
            let bodies = [call.graphql.is_some(), call.json.is_some(), !call.form.is_empty()];
            if bodies.into_iter().filter(|it| *it).count() > 1 {
                return Err(format!("profile {}: has more than one body", call.name));
            }
            if call
                .json
                .as_ref()
                .is_some_and(|it| serde_json::from_str::<serde_json::Value>(it).is_err())
            {
                return Err(format!("profile {}: its json is no JSON", call.name));
            }
        }
        Ok(())
    }
}

impl Call {
    fn check_mcp(&self) -> Result<(), String> {
        let Some(uri) = &self.mcp else { return Ok(()) };
        if Url::parse(uri).is_err() {
            return Err(format!("mcp must be the URI of a resource, and {uri} is none"));
        }
        if self.method.is_some()
            || self.token_parameter.is_some()
            || self.graphql.is_some()
            || self.json.is_some()
            || !self.form.is_empty()
        {
            return Err(
                "mcp leaves no choice of method, token_parameter, graphql, json and form".into()
            );
        }
        let set = |it: &&String| MCP_HEADERS.contains(&it.to_ascii_lowercase().as_str());
        match self.headers.keys().find(set) {
            Some(name) => Err(format!("mcp sets the header {name} itself")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A sound entry, to be changed.
    pub(in super::super) const ENTRY: &str = r#"
        title = "Example"
        description = "An example."
        documentation = ["https://docs.example/oauth"]
        checked = "2026-11-25"
        evidence = "pages"
        [parameters.host]
        description = "The host."
        example = "a"
        pattern = "[a-z]+"
        [authorization]
        url = "https://{host}.example/authorize"
        scopes = ["read"]
        [token]
        url = "https://{host}.example/token"
        [refresh]
        [[profile]]
        url = "https://{host}.example/me"
        [account]
        id = "/profile/id"
    "#;

    /// Why the entry is none with this in the place of that; empty where it is.
    pub(in super::super) fn why(from: &str, to: &str) -> String {
        assert!(ENTRY.contains(from), "{from}");
        Entry::parse("example", &ENTRY.replacen(from, to, 1)).err().unwrap_or_default()
    }

    #[test]
    fn a_sound_entry_is_one() {
        assert_eq!(Entry::parse("example", ENTRY).err(), None);
    }

    #[test]
    fn a_mistake_is_told_with_its_place() {
        let url = "url = \"https://{host}.example/token\"";
        for (from, to, expected) in [
            ("title =", "titel =", "titel"),
            ("title = \"Example\"", "title = \" \"", "title"),
            ("[\"https://docs.example/oauth\"]", "[]", "documentation"),
            ("2026-11-25", "yesterday", "checked"),
            ("pattern = \"[a-z]+\"", "", "stands in the host"),
            ("[a-z]+", ".+", "stands in the host"),
            ("[a-z]+", "[a-z", "pattern"),
            ("example = \"a\"", "example = \"1\"", "example does not fit"),
            ("{host}.example/me", "{other}.example/me", "no parameter"),
            ("https://{host}.example/me", "http://{host}.example/me", "https"),
            ("https://{host}.example/me", "https://{host}.example/me#x", "fragment"),
            ("https://{host}.example/me", "https://{/token/host}/me", "token.hosts"),
            ("https://{host}.example/me", "{host}/me", "kind origin"),
            ("/profile/id", "/other/id", "/other"),
            ("/profile/id", "/token/public_token", "taken out"),
            ("\"/profile/id\"", "\"/profile/id\"\nkeep = { a = \"/token/a/secret\" }", "taken out"),
            ("id = \"/profile/id\"", "", "account.id"),
            ("/profile/id", "{host}", "must come from the facts"),
            (url, "", "token.url"),
            (url, &format!("{url}\nparameters = {{ grant_type = \"x\" }}"), "engine's"),
            (url, &format!("{url}\nlifetime_seconds = 0"), "zero"),
            (url, &format!("{url}\nnever_expires = true"), "never_expires"),
            (url, &format!("{url}\nauthentication = \"bearer\""), "no token yet"),
            ("scopes = [\"read\"]", "scopes = [\"a b\"]", "separator"),
            ("scopes = [\"read\"]", "parameters = { state = \"x\" }", "engine's"),
            ("scopes = [\"read\"]", "callback = [\"iss\"]", "engine's"),
            ("[refresh]", "[refresh]\nwith = \"access_token\"", "belong together"),
            ("[refresh]", "[refresh]\nidle_seconds = 9\nlifetime_seconds = 9", "longer than idle"),
            ("[refresh]", "[refresh]\nanswer = { id_token = \"/a\" }", "refresh.answer.id_token"),
            (url, &format!("{url}\nanswer = {{ id_token = \"/a\" }}"), "token.answer.id_token"),
            (url, &format!("{url}\nanswer = {{ access_token = [] }}"), "must not be empty"),
            (url, &format!("{url}\nanswer = {{ access_token = \"a\" }}"), "did not match"),
            (
                url,
                &format!("{url}\nanswer = {{ refresh_expires_in = \"/a\" }}"),
                "refresh_expires_in",
            ),
            (url, &format!("{url}\nexpires_from = \"exp\""), "exp"),
            (
                "[refresh]",
                "[token.answer]\nrefresh_token_expires_in = \"/a\"\n",
                "no refresh tokens",
            ),
            ("[refresh]", "never_expires = true\nexpires_from = \"jwt\"\n", "never_expires"),
        ] {
            let told = why(from, to);
            assert!(told.contains(expected), "{from} -> {to}: {told}");
        }
    }

    #[test]
    fn what_may_be_left_out_stands_where_it_can_be_missed() {
        let parameter =
            "[parameters.audience]\ndescription = \"x\"\nexample = \"a\"\noptional = true";
        let with = |more: &str, from: &str, to: &str| {
            let entry = format!("{ENTRY}\n{parameter}\n{more}");
            assert!(entry.contains(from), "{from}");
            Entry::parse("example", &entry.replacen(from, to, 1)).err().unwrap_or_default()
        };
        let scopes = "scopes = [\"read\"]";
        let used = format!("{scopes}\nparameters = {{ audience = \"{{audience}}\" }}");
        assert_eq!(with("", scopes, &used), "");
        assert!(with("default = \"a\"", scopes, &used).contains("default"));
        assert!(with("", "example/me", "example/{audience}").contains("is optional"));
        assert!(with("", scopes, scopes).contains("nothing uses it"));
    }

    #[test]
    fn what_follows_from_another_does_so_from_each_of_its_values() {
        let (pattern, one_of) = ("pattern = \"[a-z]+\"", "one_of = [\"a\", \"b\"]");
        let with = |host: &str, values: &str, more: &str| {
            let entry = ENTRY.replacen(pattern, host, 1);
            let entry = entry.replacen("{host}.example/me", "{web}.example/me", 1);
            let web = "description = \"x\"\nexample = \"c\"\none_of = [\"c\", \"d\"]";
            let by = format!("default_by = {{ parameter = \"host\", values = {{ {values} }} }}");
            let entry = format!("{entry}\n[parameters.web]\n{web}\n{by}\n{more}");
            Entry::parse("example", &entry).err().unwrap_or_default()
        };
        let all = "a = \"c\", b = \"d\"";
        assert_eq!(with(one_of, all, ""), "");
        for (host, values, more, expected) in [
            (pattern, all, "", "no one_of"),
            (one_of, "a = \"c\"", "", "for each value"),
            (one_of, "a = \"c\", b = \"e\"", "", "does not fit"),
            (one_of, all, "default = \"c\"", "a default already"),
        ] {
            let told = with(host, values, more);
            assert!(told.contains(expected), "{host} {values} {more}: {told}");
        }
    }

    #[test]
    fn a_call_that_reads_a_resource_is_nothing_else() {
        let call = "url = \"https://{host}.example/me\"";
        let mcp = "mcp = \"example://whoami\"";
        let with = |more: &str| why(call, &format!("{call}\n{mcp}\n{more}"));
        assert_eq!(with("headers = { X-Version = \"1\" }\noptional = true\nok = \"/ok\""), "");
        for (more, expected) in [
            ("method = \"POST\"", "no choice"),
            ("token_parameter = \"t\"", "no choice"),
            ("graphql = \"{ me }\"", "no choice"),
            ("json = \"{}\"", "no choice"),
            ("form = { a = \"b\" }", "no choice"),
            ("headers = { Accept = \"text/html\" }", "header Accept"),
            ("headers = { Mcp-Session-Id = \"1\" }", "header Mcp-Session-Id"),
        ] {
            let told = with(more);
            assert!(told.contains(expected), "{more}: {told}");
        }
        assert!(why(call, &format!("{call}\nmcp = \"whoami\"")).contains("URI of a resource"));
    }

    #[test]
    fn a_parameter_that_nothing_uses_is_a_mistake() {
        let more = "[parameters.unused]\ndescription = \"x\"\nexample = \"a\"\n[authorization]";
        assert!(why("[authorization]", more).contains("nothing uses it"));
    }
}
