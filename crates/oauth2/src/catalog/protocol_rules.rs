//! What an entry must keep to so that what is said to its provider stays what the standards have:
//! the engine's own part cannot be said by an entry.

use std::{collections::BTreeMap, sync::LazyLock};

use regex::Regex;

use super::{
    entry::{Authentication, Body, Call, CodeGrant, Entry, Need, Pkce, RefreshWith},
    template::Template,
};

/// What the engine says itself, in one request or another.
const ENGINES_OWN: &[&str] = &[
    "assertion",
    "client_assertion",
    "client_assertion_type",
    "client_id",
    "client_secret",
    "code",
    "code_challenge",
    "code_challenge_method",
    "code_verifier",
    "device_code",
    "dpop_jkt",
    "grant_type",
    "nonce",
    "redirect_uri",
    "refresh_token",
    "request",
    "request_uri",
    "response_mode",
    "response_type",
    "scope",
    "state",
    "token",
];

static SCHEME: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new("^[A-Za-z0-9-]{1,63}$").ok());

static CODE_FLOW: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new("^[A-Za-z0-9_]{1,63}$").ok());

impl Entry {
    pub(super) fn check_own_names(&self) -> Result<(), String> {
        let mut maps: Vec<(&str, &BTreeMap<String, Template>)> =
            vec![("token.parameters", &self.token.parameters)];
        if let Some(it) = &self.authorization {
            maps.push(("authorization.parameters", &it.parameters));
        }
        if let Some(it) = &self.refresh {
            maps.push(("refresh.parameters", &it.parameters));
        }
        if let Some(it) = &self.revoke {
            maps.push(("revoke.parameters", &it.parameters));
        }
        for (key, map) in maps {
            for (name, value) in map {
                // Some want these again when they issue tokens, some revoke by a grant, and where
                // nobody proves to be the client, nobody says which one it is.
                let nobody = matches!(
                    self.revoke.as_ref().and_then(|it| it.authentication),
                    Some(Authentication::None | Authentication::Secret)
                );
                let free = match name.as_str() {
                    "scope" | "response_type" => key != "authorization.parameters",
                    "grant_type" => key == "revoke.parameters",
                    "client_id" => key == "revoke.parameters" && nobody,
                    _ => false,
                };
                if ENGINES_OWN.contains(&name.as_str()) && !free {
                    return Err(format!("{key}.{name}: is the engine's to say"));
                }
                let exchanges = key == "token.parameters";
                if value.pointers().any(|it| !(exchanges && it.root() == "callback")) {
                    return Err(format!(
                        "{key}.{name}: must be made of parameters alone, or, of the exchange, of what \
                         the authorization response brings (/callback/…)"
                    ));
                }
            }
        }
        if let Some(authorization) = &self.authorization {
            let response_type = authorization.response_type.as_str();
            if !CODE_FLOW.as_ref().is_some_and(|it| it.is_match(response_type))
                || ["token", "id_token", "none"].contains(&response_type.to_lowercase().as_str())
            {
                return Err(
                    "authorization.response_type: only the code flow is spoken, so it must be \
                            one word for that"
                        .into(),
                );
            }
            for name in &authorization.callback {
                if ENGINES_OWN.contains(&name.as_str()) || name == "iss" || name == "error" {
                    return Err(format!("authorization.callback: {name} is the engine's to read"));
                }
            }
            let parted = [&authorization.scopes, &authorization.always];
            let separator = &authorization.scope_separator;
            if parted.into_iter().flatten().any(|it| it.contains(separator.as_str())) {
                return Err("authorization.scopes: a scope holds the separator".into());
            }
            if authorization.pkce == Pkce::Unsupported && self.token.client_secret != Need::Required
            {
                return Err("without PKCE the client must have a secret".into());
            }
        }
        let token = &self.token;
        if token.authentication == Authentication::Bearer {
            return Err("token.authentication: there is no token yet".into());
        }
        let refresh = self.refresh.as_ref().and_then(|it| it.authentication);
        if [Some(token.authentication), refresh].contains(&Some(Authentication::Secret)) {
            return Err(
                "authentication: the secret alone, without the client's id, is for revoke".into()
            );
        }
        if token.grant == CodeGrant::Assertion && token.client_secret != Need::Required {
            return Err("token.grant: an assertion needs the client secret".into());
        }
        if let Some(signed) = &token.signed_secret
            && (token.client_secret != Need::None
                || !self.parameters.get(&signed.key).is_some_and(|it| it.secret))
        {
            return Err(
                "token.signed_secret: key must name a secret parameter, and client_secret \
                        must be none"
                    .into(),
            );
        }
        if token.body == Body::None {
            return Err("token.body: the fields must go somewhere".into());
        }
        Ok(())
    }

    /// Where things are in answers, of which some are there only at certain providers.
    pub(super) fn check_answers(&self) -> Result<(), String> {
        let refresh = self.refresh.as_ref();
        let has_refresh_tokens = refresh.is_some_and(|it| it.with == RefreshWith::RefreshToken);
        let answers = [("token", Some(&self.token.answer))];
        let answers =
            answers.into_iter().chain([("refresh", refresh.and_then(|it| it.answer.as_ref()))]);
        for (table, answer) in answers.filter_map(|(table, it)| Some((table, it?))) {
            if !answer.id_token.0.is_empty() && self.openid.is_none() {
                return Err(format!(
                    "{table}.answer.id_token: an ID token is read of a provider with [openid] alone"
                ));
            }
            let of_refresh_tokens = [
                ("refresh_token", &answer.refresh_token),
                ("refresh_token_expires_in", &answer.refresh_token_expires_in),
                ("refresh_token_expires_at", &answer.refresh_token_expires_at),
            ];
            let said = of_refresh_tokens.into_iter().find(|(_, it)| !it.0.is_empty());
            if let Some((key, _)) = said.filter(|_| !has_refresh_tokens) {
                return Err(format!(
                    "{table}.answer.{key}: there are no refresh tokens to refresh with"
                ));
            }
        }
        Ok(())
    }

    pub(super) fn check_revocation(&self) -> Result<(), String> {
        let Some(revoke) = &self.revoke else { return Ok(()) };
        let alone = revoke.authentication == Some(Authentication::Secret);
        if alone != revoke.scheme.is_some() {
            return Err("revoke: authentication = \"secret\" and scheme belong together".into());
        }
        if revoke
            .scheme
            .as_ref()
            .is_some_and(|it| !SCHEME.as_ref().is_some_and(|own| own.is_match(it)))
        {
            return Err("revoke.scheme: must be one word of letters, digits and -".into());
        }
        if alone && self.token.client_secret != Need::Required {
            return Err("revoke.authentication: there may be no client secret".into());
        }
        if revoke.has_token_in_address()
            && revoke.token_parameter.as_ref().is_some_and(|it| !it.is_empty())
        {
            return Err(
                "revoke.token_parameter: the token stands in the address already; only where \
                        there is no other way it may"
                    .into(),
            );
        }
        Ok(())
    }

    pub(super) fn check_issuers(&self) -> Result<(), String> {
        let Some(openid) = &self.openid else { return Ok(()) };
        let pkce = self.authorization.as_ref().is_none_or(|it| it.pkce == Pkce::S256);
        if openid.is_in_access_token() && (!pkce || !self.token.answer.id_token.0.is_empty()) {
            return Err(
                "openid.id_token: an access token needs PKCE, as there is no nonce, and leaves nothing for \
                        answer.id_token"
                    .into(),
            );
        }
        if openid.issuer_from_discovery && (openid.jwks_uri.is_some() || openid.issuers.is_empty())
        {
            return Err(
                "openid.issuer_from_discovery: needs discovery, and issuers that it may name"
                    .into(),
            );
        }
        for refused in &openid.refuse {
            for (name, value) in &refused.when {
                let parameter = self.parameters.get(name).filter(|it| !it.secret);
                if parameter.is_none_or(|it| !it.admits(value)) {
                    return Err(format!("openid.refuse: {name} is never {value}"));
                }
            }
            let text = Template::try_from(refused.issuer.clone())?;
            let open = openid.issuers.iter().any(|it| it.pointers().next().is_some());
            if !open || text.parameters().next().is_some() || text.pointers().next().is_some() {
                return Err(format!(
                    "openid.refuse: {} must be one of what issuers leaves open",
                    refused.issuer
                ));
            }
        }
        Ok(())
    }

    pub(super) fn check_registration(&self) -> Result<(), String> {
        let Some(registration) = &self.registration else { return Ok(()) };
        if self.authorization.is_none() {
            return Err("registration: without an authorization there is no client".into());
        }
        let discovered = self.openid.as_ref().is_some_and(|it| it.jwks_uri.is_none());
        if registration.url.is_none() && !discovered {
            return Err("registration.url is missing, and there is no discovery".into());
        }
        if registration.url.iter().any(|it| it.pointers().next().is_some()) {
            return Err("registration.url: must be made of parameters alone".into());
        }
        // It is read before there is a client.
        let mut addresses = self.addresses().into_iter();
        if let Some((key, _)) =
            addresses.find(|(_, it)| it.parameters().any(|name| name == "client_id"))
        {
            return Err(format!("{key}: no address may hold the client_id of one that registers"));
        }
        let token = &self.token;
        if token.signed_secret.is_some() || token.grant == CodeGrant::Assertion {
            return Err("registration: gives no client that signs or asserts its secret".into());
        }
        match (registration.authentication, token.client_secret) {
            (Authentication::Basic | Authentication::Post, Need::Required | Need::Optional)
            | (Authentication::None, Need::Optional | Need::None) => {}
            _ => {
                return Err("registration.authentication: must be basic, post or none, and fit \
                     token.client_secret"
                    .into());
            }
        }
        let grants = &registration.grant_types;
        if !grants.is_empty() && !grants.iter().any(|it| it == "authorization_code") {
            return Err("registration.grant_types: must have authorization_code".into());
        }
        Ok(())
    }

    /// What is bound to a key is only ever presented with a proof.
    pub(super) fn check_dpop(&self) -> Result<(), String> {
        if self.token.dpop == Need::None {
            return Ok(());
        }
        if self.authorization.is_none() {
            return Err("token.dpop: nobody is asked, so nothing is bound".into());
        }
        let by_itself = self.refresh.as_ref().is_some_and(|it| it.with == RefreshWith::AccessToken);
        if by_itself || self.long_lived.is_some() {
            return Err("token.dpop: an access token that is traded again is not bound".into());
        }
        let own = |it: &&Call| it.scheme != "Bearer" || it.token_parameter.is_some();
        if let Some(call) = self.profile.iter().find(own) {
            return Err(format!(
                "profile {}: a token that is bound (token.dpop) is presented as DPoP",
                call.name
            ));
        }
        let revoke = self.revoke.as_ref().and_then(|it| it.authentication);
        if revoke == Some(Authentication::Bearer) {
            return Err(
                "revoke.authentication: a token that is bound (token.dpop) is no bearer's".into()
            );
        }
        Ok(())
    }

    pub(super) fn check_lifetimes(&self) -> Result<(), String> {
        let refresh = self.refresh.as_ref();
        let lives = [
            ("token.lifetime_seconds", self.token.lifetime_seconds),
            ("refresh.idle_seconds", refresh.and_then(|it| it.idle_seconds)),
            ("refresh.lifetime_seconds", refresh.and_then(|it| it.lifetime_seconds)),
        ];
        if let Some((key, _)) = lives.iter().find(|(_, it)| *it == Some(0)) {
            return Err(format!("{key}: must not be zero"));
        }
        let token = &self.token;
        let ends = token.lifetime_seconds.is_some() || token.expires_from.is_some();
        if token.never_expires && (refresh.is_some() || ends) {
            return Err("token.never_expires: yet there is a refresh, or an end".into());
        }
        if let Some(refresh) = refresh
            && refresh
                .lifetime_seconds
                .zip(refresh.idle_seconds)
                .is_some_and(|(life, idle)| life <= idle)
        {
            return Err("refresh.lifetime_seconds: must be longer than idle_seconds".into());
        }
        if let Some(refresh) = refresh
            && (refresh.with == RefreshWith::AccessToken) != refresh.grant.is_some()
        {
            return Err("refresh: with = \"access_token\" and grant belong together".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::rules::tests::{ENTRY, why},
        *,
    };

    #[test]
    fn only_the_code_flow_has_a_name() {
        let with = |it: &str| {
            why("scopes = [\"read\"]", &format!("scopes = [\"read\"]\nresponse_type = \"{it}\""))
        };
        for fine in ["code", "Assertion"] {
            assert_eq!(with(fine), "");
        }
        for other in ["", "token", "Token", "id_token", "none", "code id_token", "code&a=b"] {
            assert!(with(other).contains("response_type"), "{other}");
        }
    }

    #[test]
    fn the_token_stands_in_the_address_of_its_revocation_and_nowhere_else() {
        let revoke = |more: &str| why("[account]", &format!("[revoke]\n{more}\n[account]"));
        let url = |it: &str| format!("url = \"https://{it}\"");
        assert_eq!(revoke(&url("{host}.example/tokens/{token}?again={token}")), "");
        assert_eq!(revoke(&format!("{}\ntoken_parameter = \"\"", url("a.example/{token}"))), "");
        for (more, expected) in [
            (url("{token}.example/revoke"), "host"),
            ("url = \"http://a.example/{token}\"".to_owned(), "https"),
            ("url = \"{token}/revoke\"".to_owned(), "kind origin"),
            (format!("{}\ntoken_parameter = \"t\"", url("a.example/{token}")), "already"),
            (
                format!("{}\nheaders = {{ X-Token = \"{{token}}\" }}", url("a.example")),
                "no parameter",
            ),
            (format!("{}\nparameters = {{ t = \"{{token}}\" }}", url("a.example")), "no parameter"),
        ] {
            let told = revoke(&more);
            assert!(told.contains(expected), "{more}: {told}");
        }
        assert!(why("{host}.example/me", "{host}.example/{token}").contains("no parameter"));
        let named = "[parameters.token]\ndescription = \"x\"\nexample = \"a\"\n[authorization]";
        assert!(why("[authorization]", named).contains("is revoked"));
    }

    #[test]
    fn the_secret_alone_authenticates_a_revocation_after_a_scheme() {
        let revoke = |more: &str| {
            let url = "url = \"https://a.example/revoke\"\n";
            why("[account]", &format!("[revoke]\n{url}{more}\n[account]"))
        };
        let alone = "authentication = \"secret\"";
        let whole = format!(
            "{alone}\nscheme = \"Client\"\nparameters = {{ client_id = \"{{client_id}}\" }}"
        );
        assert_eq!(revoke(&whole), "");
        assert!(revoke(alone).contains("belong together"));
        assert!(revoke("scheme = \"Client\"").contains("belong together"));
        assert!(revoke(&whole.replace("Client\"", "a b\"")).contains("one word"));
        assert!(revoke("parameters = { client_id = \"x\" }").contains("engine's"));
        for table in
            ["[refresh]\nauthentication = \"secret\"", "authentication = \"secret\"\n[refresh]"]
        {
            assert!(why("[refresh]", table).contains("is for revoke"), "{table}");
        }
    }

    #[test]
    fn the_exchange_may_send_along_what_came_back_and_nothing_else_may() {
        let scopes = "scopes = [\"read\"]";
        let with = |more: &str| {
            let back = format!("{scopes}\ncallback = [\"shop\"]");
            let entry = ENTRY.replacen(scopes, &back, 1).replacen("[refresh]", more, 1);
            Entry::parse("example", &entry).err().unwrap_or_default()
        };
        let shop = "parameters = { shop = \"/callback/shop\" }";
        assert_eq!(with(&format!("{shop}\n[refresh]")), "");
        assert!(with(&format!("[refresh]\n{shop}")).contains("parameters alone"));
        assert!(with(&shop.replace("/callback/", "/token/")).contains("parameters alone"));
        let revoke = "[revoke]\nurl = \"https://a.example\"\n";
        assert!(with(&format!("{revoke}{shop}")).contains("parameters alone"));
        assert_eq!(with(&format!("{revoke}parameters = {{ grant_type = \"delete\" }}")), "");
        assert!(
            why("[refresh]", &format!("{shop}\n[refresh]")).contains("nothing called /callback")
        );
    }

    #[test]
    fn without_a_nonce_there_is_pkce() {
        let openid = "[openid]\nissuer = \"https://a.example\"\nid_token = \"access_token\"\n";
        let with = |before: &str, after: &str| {
            why("[refresh]", &format!("{before}{openid}{after}[refresh]"))
        };
        assert_eq!(with("", "issuers = [\"a.example\"]\n"), "");
        assert!(with("answer = { id_token = \"/a\" }\n", "").contains("openid.id_token"));
        let entry = ENTRY.replacen("[refresh]", &format!("{openid}[refresh]"), 1);
        let entry = entry.replacen("scopes = [\"read\"]", "pkce = \"unsupported\"", 1);
        assert!(Entry::parse("example", &entry).err().unwrap().contains("openid.id_token"));
    }

    #[test]
    fn what_discovery_may_name_and_what_is_refused_is_known() {
        let openid = "[openid]\nissuer = \"https://{host}.example\"\n";
        let issuers = "issuers = [\"https://{host}.example/{/claims/tid}\"]\n";
        let refuse = "refuse = [{ when = { host = \"a\" }, issuer = \"https://a.example/b\" }]\n";
        let with = |more: &str| why("[refresh]", &format!("{openid}{more}[refresh]"));
        let named = "issuer_from_discovery = true\n";
        assert_eq!(with(&format!("{issuers}{named}{refuse}")), "");
        for (more, expected) in [
            (named.to_owned(), "issuer_from_discovery"),
            (
                format!("{issuers}{named}jwks_uri = \"https://{{host}}.example/jwks\"\n"),
                "issuer_from_discovery",
            ),
            (refuse.to_owned(), "leaves open"),
            (format!("{issuers}{}", refuse.replace("/b\"", "/{host}\"")), "leaves open"),
            (format!("{issuers}{}", refuse.replace("\"a\" }", "\"1\" }")), "never 1"),
            (format!("{issuers}{}", refuse.replace("host =", "port =")), "port is never"),
        ] {
            let told = with(&more);
            assert!(told.contains(expected), "{more}: {told}");
        }
    }

    #[test]
    fn a_registration_fits_the_client_that_it_makes() {
        let registers = "[registration]\nurl = \"https://{host}.example/register\"\n";
        let secret = |it: &str| format!("token\"\nclient_secret = \"{it}\"\n");
        let with = |registration: &str, from: &str, to: &str| {
            let entry = ENTRY.replacen("[refresh]", &format!("{registration}[refresh]"), 1);
            assert!(entry.contains(from), "{from}");
            Entry::parse("example", &entry.replacen(from, to, 1)).err().unwrap_or_default()
        };
        let and = |more: &str| format!("{registers}{more}\n");
        assert_eq!(with(registers, "x", "x"), "");
        assert_eq!(with(registers, "token\"\n", &secret("optional")), "");
        let public = and("authentication = \"none\"");
        assert_eq!(with(&public, "token\"\n", &secret("none")), "");
        for (registration, from, to, expected) in [
            ("[registration]\n", "x", "x", "registration.url"),
            (&and("other = 1"), "x", "x", "other"),
            (&registers.replace("{host}", "{other}"), "x", "x", "no parameter"),
            (&registers.replace("https", "http"), "x", "x", "https"),
            (&registers.replace("{host}.example", "a.example/{/token/id}"), "x", "x", "alone"),
            (&registers.replace("register", "{client_id}"), "x", "x", "client_id"),
            (registers, ".example/me", ".example/{client_id}", "profile.url"),
            (&public, "x", "x", "registration.authentication"),
            (registers, "token\"\n", &secret("none"), "registration.authentication"),
            (&and("authentication = \"bearer\""), "x", "x", "registration.authentication"),
            (&and("grant_types = [\"refresh_token\"]"), "x", "x", "authorization_code"),
            (registers, "parameters.host", "parameters.client_name", "already"),
            (
                registers,
                "[authorization]\n        url = \"https://{host}.example/authorize\"\n        \
                 scopes = [\"read\"]\n",
                "",
                "no client",
            ),
        ] {
            let told = with(registration, from, to);
            assert!(told.contains(expected), "{registration} {from} -> {to}: {told}");
        }
    }
}
