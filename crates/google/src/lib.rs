//! Google: the model of a provider type that needs code of its own, on top of `symbolon-oauth2`.
//!
//! What differs from the type `oidc`, with the page of Google's documentation that it rests on:
//!
//! - A refresh token comes with `access_type=offline` and not with a scope; only consent brings a
//!   new one, so `prompt=consent` is always sent
//!   ([web server applications](https://developers.google.com/identity/protocols/oauth2/web-server)).
//! - An ID token's `iss` is `https://accounts.google.com` or, for legacy implementations,
//!   `accounts.google.com`
//!   ([reference](https://developers.google.com/identity/openid-connect/reference)).
//! - An account of a Google Workspace or Cloud organization has the claim `hd`; the parameter of
//!   the same name is a hint to the account chooser and proves nothing, so the claim is checked
//!   ([OpenID Connect](https://developers.google.com/identity/openid-connect/openid-connect)).
//! - The account's key is `sub`. Google is the authority for an address only when it ends in
//!   `@gmail.com`, or `email_verified` is true and `hd` is there
//!   ([verify the ID token](https://developers.google.com/identity/gsi/web/guides/verify-google-id-token)).
//! - Refresh tokens are good again and again: of the cases in which one stops working, being used
//!   is none ([expiration](https://developers.google.com/identity/protocols/oauth2#expiration)).
//!
//! - Devices have a client of their own type, *TVs and Limited Input devices*, which no browser is
//!   sent with, and only some scopes
//!   ([limited-input devices](https://developers.google.com/identity/protocols/oauth2/limited-input-device)).
//!   The secret goes along with the polls and not before. A refresh token is the client's that got
//!   it, so an instance has one client and one of the two ways: `client_type`.
//!
//! `include_granted_scopes` is not sent: a token would then carry whatever the user granted to
//! this client at any time, more than was asked for now.

mod connector;

use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value, json};
use symbolon_domain::{
    identity_provider::{Capabilities, ProviderSecrets, ProviderType, Registration, Rotation},
    ports::{Connector, InvalidConfig},
};
use symbolon_oauth2::{
    Client, ClientAuthentication, Engine, ErrorRules, Issuer, OpenIdConnector, ProviderKind,
    SigningAlg,
    config::{
        CLIENT_SECRETS, Fields, client_id_schema, client_secret_schema, invalid,
        next_client_secret_schema, scopes_schema,
    },
};

use self::connector::GoogleConnector;

const ISSUER: &str = "https://accounts.google.com";
/// A refresh token that was not used for six months may stop working
/// ([expiration](https://developers.google.com/identity/protocols/oauth2#expiration)).
const REFRESH_TOKEN_IDLE: Duration = Duration::from_hours(180 * 24);

const CAPABILITIES: Capabilities = Capabilities {
    browser: true,
    device: true,
    refresh: true,
    revoke: true,
    sign_in: true,
    rotation: Rotation::Reusable,
};

/// The type of our client at Google, which decides by which way users come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClientType {
    /// *Web application*: by a browser.
    Web,
    /// *TVs and Limited Input devices*: by another device.
    LimitedInput,
}

impl ClientType {
    fn read(fields: &Fields<'_>) -> Result<Self, InvalidConfig> {
        match fields.optional(CLIENT_TYPE)? {
            None | Some("web") => Ok(Self::Web),
            Some("limited_input") => Ok(Self::LimitedInput),
            Some(_) => Err(invalid(CLIENT_TYPE, "must be web or limited_input")),
        }
    }

    /// What an instance with such a client can do.
    fn capabilities(self) -> Capabilities {
        let browser = self == Self::Web;
        Capabilities { browser, device: !browser, sign_in: browser, ..CAPABILITIES }
    }
}

/// The key that says it.
const CLIENT_TYPE: &str = "client_type";

/// The type `google`.
#[derive(Clone, Debug)]
pub struct Google {
    issuer: String,
}

/// The type `google`, to be added to a [`Registry`](symbolon_oauth2::Registry).
#[must_use]
pub fn kind() -> Google {
    kind_at(ISSUER)
}

/// The type `google` at another issuer, for tests against a stand-in. Only code can ask for it:
/// no configuration of an instance names the issuer.
#[must_use]
pub fn kind_at(issuer: impl Into<String>) -> Google {
    Google { issuer: issuer.into() }
}

impl ProviderKind for Google {
    fn provider_type(&self) -> ProviderType {
        ProviderType {
            name: "google".into(),
            title: "Google".into(),
            description: "Google accounts, of everybody or of one Google Workspace domain. Create \
                          an OAuth client of the type web application in the Google Cloud \
                          console, with the redirect URI that the created provider shows; for \
                          device links, one of the type TVs and Limited Input devices, for a \
                          provider of its own with client_type = limited_input."
                .into(),
            documentation: "https://developers.google.com/identity/openid-connect/openid-connect"
                .into(),
            registration: Registration::default(),
            notes: vec![
                "Google gives devices only some scopes: openid, email and profile, and those of its \
                 list for limited-input devices (drive.appdata, drive.file, youtube, \
                 youtube.readonly). It refuses any other with invalid_scope."
                    .into(),
            ],
            config_schema: schema(),
            secret_names: CLIENT_SECRETS.map(str::to_owned).to_vec(),
            authority_keys: Vec::new(),
            registered_keys: Vec::new(),
            asked_keys: Vec::new(),
            capabilities: CAPABILITIES,
        }
    }

    fn connect(
        &self,
        engine: &Engine,
        config: &Map<String, Value>,
        secrets: &ProviderSecrets,
    ) -> Result<Arc<dyn Connector>, InvalidConfig> {
        let known = ["client_id", CLIENT_TYPE, "hosted_domain", "scopes"];
        let fields = Fields::new(config, secrets, &known, &CLIENT_SECRETS)?;
        let issuer = Issuer::new(self.issuer.as_str(), engine.http())
            .map_err(|error| invalid("issuer", error.to_string()))?;
        let hosted_domain = hosted_domain(&fields)?;
        let client_type = ClientType::read(&fields)?;
        let secret =
            fields.client_secret()?.ok_or_else(|| invalid("client_secret", "is missing"))?;
        let mut parameters = vec![
            ("access_type".to_owned(), "offline".to_owned()),
            ("prompt".to_owned(), "consent".to_owned()),
        ];
        parameters.extend(hosted_domain.iter().map(|it| ("hd".to_owned(), it.clone())));
        let bare = self.issuer.trim_start_matches("https://").trim_start_matches("http://");
        let client = Client {
            token_issuers: vec![self.issuer.clone(), bare.to_owned()],
            issuer,
            client_id: fields.client_id()?.to_owned(),
            authentication: match client_type {
                ClientType::Web => ClientAuthentication::Either(secret),
                // So the page for devices has it.
                ClientType::LimitedInput => ClientAuthentication::Post(secret),
            },
            next_secret: fields.next_client_secret()?,
            scopes: fields.scopes()?,
            offline_access: false,
            signing_algs: SigningAlg::DEFAULT.to_vec(),
            refresh_token_idle: Some(REFRESH_TOKEN_IDLE),
            resource: Vec::new(),
            pushes: false,
            dpop: false,
            published_keys: Vec::new(),
            authorization_parameters: parameters,
            capabilities: client_type.capabilities(),
            error_rules: ErrorRules::built_in("google"),
        };
        let openid = OpenIdConnector::new(engine.clone(), client);
        Ok(Arc::new(GoogleConnector { openid, hosted_domain }))
    }
}

/// A domain name in lower case.
fn hosted_domain(fields: &Fields<'_>) -> Result<Option<String>, InvalidConfig> {
    let Some(domain) = fields.optional("hosted_domain")? else { return Ok(None) };
    let plain = domain.split('.').count() > 1
        && domain.len() <= 253
        && domain.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|it| matches!(it, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        });
    if !plain {
        return Err(invalid(
            "hosted_domain",
            "must be a domain name in lower case, for example example.com",
        ));
    }
    Ok(Some(domain.to_owned()))
}

fn schema() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "additionalProperties": false,
        "required": ["client_id", "client_secret"],
        "properties": {
            "client_id": client_id_schema(),
            "client_secret": client_secret_schema(),
            "client_secret_next": next_client_secret_schema(),
            CLIENT_TYPE: {
                "type": "string", "enum": ["web", "limited_input"], "default": "web",
                "description": "The application type of the client at Google: web for a Web \
                                application, whose users come by a browser; limited_input for TVs \
                                and Limited Input devices, whose users link on another device \
                                (device links) and cannot sign in."
            },
            "hosted_domain": {
                "type": "string", "maxLength": 253,
                "pattern": "^[a-z0-9-]+(\\.[a-z0-9-]+)+$",
                "description": "Only accounts of this Google Workspace domain are accepted."
            },
            "scopes": scopes_schema(
                "What to ask for; openid is always asked for. Without it: openid, profile, email."
            )
        }
    })
}
