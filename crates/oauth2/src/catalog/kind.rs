use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use symbolon_domain::{
    identity_provider::{
        Capabilities, IdentityProvider, ProviderSecrets, ProviderType, Registration, Rotation,
    },
    ports::{ClientAddresses, Connector, ConnectorError, InvalidConfig, Registered},
};
use url::Url;

use super::{
    connector::{CatalogConnector, Endpoints},
    entry::{
        Authentication, Body, CodeGrant, Entry, Evidence, Method, Need, Refresh, RefreshRotation,
        Register, Requires, Revoke, Token,
    },
    parameter::Parameter,
    template::{Template, Values},
    values::Parameters,
};
use crate::{
    client::{Client, ClientAuthentication, Encoding, SignedSecret},
    config::{
        CLIENT_SECRETS, DPOP, Fields, MOST_SECONDS, client_id_schema, client_secret_schema,
        dpop_schema, invalid, next_client_secret_schema, scopes_schema,
    },
    connector::OpenIdConnector,
    engine::Engine,
    error_rules::ErrorRules,
    metadata::{Issuer, Metadata, misconfigured},
    oidc,
    registration::{self, CLIENT_NAME, NewClient, REGISTRATION_ACCESS_TOKEN},
    registry::ProviderKind,
    signing_alg::SigningAlg,
    token_answer::{IdToken, Layout},
};

/// A type that is an entry of the catalog.
pub(crate) struct CatalogKind {
    pub(crate) name: String,
    pub(crate) entry: Arc<Entry>,
}

impl Entry {
    pub(crate) fn capabilities(&self) -> Capabilities {
        let rotation = match self.refresh.as_ref().map(|it| it.rotation) {
            Some(RefreshRotation::Reusable) => Rotation::Reusable,
            _ => Rotation::MayRotate,
        };
        let browser = self.authorization.is_some();
        Capabilities {
            browser,
            device: self.device.is_some(),
            refresh: self.refresh.is_some(),
            revoke: self.revoke.is_some() || self.revokes_by_discovery(),
            sign_in: self.sign_in && browser,
            rotation,
        }
    }

    /// Whether it revokes where its provider says so.
    pub(crate) fn revokes_by_discovery(&self) -> bool {
        self.is_discovered() && self.openid.as_ref().is_some_and(|it| it.revocation)
    }

    /// Whether its provider is asked where things are.
    pub(crate) fn is_discovered(&self) -> bool {
        self.openid.as_ref().is_some_and(|it| it.jwks_uri.is_none())
    }

    /// Whether its provider issues ID tokens that are nothing else.
    pub(crate) fn has_id_tokens(&self) -> bool {
        self.openid.as_ref().is_some_and(|it| !it.is_in_access_token())
    }

    /// Whether instances have a client of ours at the provider.
    fn has_client(&self) -> bool {
        self.authorization.is_some()
    }

    /// What an operator must know, what the entry rests on first where that is not enough.
    fn all_notes(&self) -> Vec<String> {
        let unread = "Nobody has compared this entry with the provider's pages yet: it was written \
                      from general knowledge. Try it with a client for tests first.";
        let unread = (self.evidence == Evidence::Unread).then(|| unread.to_owned());
        unread.into_iter().chain(self.notes.iter().cloned()).collect()
    }

    fn has_secret(&self) -> bool {
        self.has_client() && self.token.client_secret != Need::None
    }

    fn secret_names(&self) -> Vec<String> {
        let own = self.parameters.iter().filter(|(_, it)| it.secret).map(|(name, _)| name.clone());
        let client = self.has_secret().then_some(CLIENT_SECRETS).into_iter().flatten();
        let client = client.chain(self.registration.as_ref().map(|_| REGISTRATION_ACCESS_TOKEN));
        client.map(str::to_owned).chain(own).collect()
    }

    /// What only its provider can tell, where it is asked at all.
    fn asked_keys(&self) -> Vec<String> {
        let asks = self.token.dpop == Need::Optional && self.is_discovered();
        asks.then(|| DPOP.to_owned()).into_iter().collect()
    }

    /// Whether grants are to be bound to keys.
    fn binds(&self, fields: &Fields<'_>) -> Result<bool, InvalidConfig> {
        match self.token.dpop {
            Need::Required => Ok(true),
            Need::Optional => fields.is_on(DPOP, false),
            Need::None => Ok(false),
        }
    }

    fn config_names(&self) -> Vec<&str> {
        let mut names = Vec::new();
        if self.has_client() {
            names.extend(["client_id", "scopes"]);
        }
        if self.registration.is_some() {
            let others = registration::CONFIG_KEYS.into_iter().filter(|it| *it != "client_id");
            names.extend(others.chain([CLIENT_NAME]));
        }
        if self.refresh.is_some() {
            names.push("refresh_token_idle_seconds");
        }
        if self.token.dpop == Need::Optional {
            names.push(DPOP);
        }
        let plain = self.parameters.iter().filter(|(_, it)| !it.secret);
        names.extend(plain.map(|(name, _)| name.as_str()));
        names
    }

    fn schema(&self) -> Value {
        let mut properties = Map::new();
        let mut required: Vec<&str> = Vec::new();
        let register = self.register.as_ref();
        for (name, parameter) in &self.parameters {
            properties.insert(name.clone(), parameter.schema());
            if !parameter.may_be_left_out() {
                required.push(name);
            }
        }
        if self.registration.is_some() {
            properties.extend(registration::schemas());
        } else if self.has_client() {
            required.push("client_id");
        }
        if self.has_client() {
            let name = register.and_then(|it| it.client_id.as_ref());
            properties.insert("client_id".into(), self.named(client_id_schema(), name));
        }
        if self.has_secret() {
            if self.token.client_secret == Need::Required && self.registration.is_none() {
                required.push("client_secret");
            }
            let name = register.and_then(|it| it.client_secret.as_ref());
            properties.insert("client_secret".into(), self.named(client_secret_schema(), name));
            properties.insert("client_secret_next".into(), next_client_secret_schema());
        }
        if let Some(authorization) = &self.authorization {
            let default = match &authorization.scopes[..] {
                [] => "none".to_owned(),
                scopes => scopes.join(", "),
            };
            let mut description = format!("What to ask for. Without it: {default}.");
            if let Some(Requires::Scopes(scopes)) =
                self.refresh.as_ref().and_then(|it| it.requires.as_ref())
            {
                description += " A refresh token comes only with ";
                description += &scopes.join(", ");
                description.push('.');
            }
            properties.insert("scopes".into(), scopes_schema(&description));
        }
        if self.refresh.is_some() {
            properties.insert(
                "refresh_token_idle_seconds".into(),
                json!({
                    "type": "integer", "minimum": 60, "maximum": MOST_SECONDS,
                    "description": "How long a refresh token works that is not used, where it is \
                                    another time than the catalog knows: it is used in time then."
                }),
            );
        }
        if self.token.dpop == Need::Optional {
            properties.insert(DPOP.into(), dpop_schema());
        }
        json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "additionalProperties": false,
            "required": required,
            "properties": properties,
        })
    }

    /// A schema whose description tells what the provider calls the thing.
    fn named(&self, mut schema: Value, name: Option<&String>) -> Value {
        if let (Some(own), Some(object)) = (name, schema.as_object_mut()) {
            let title = &self.title;
            object.insert("description".into(), format!("What {title} calls {own}.").into());
        }
        schema
    }
}

impl From<Register> for Registration {
    fn from(it: Register) -> Self {
        Self {
            page: Some(it.at),
            steps: it.steps,
            redirect_uri: it.redirect_uri,
            client_id: it.client_id,
            client_secret: it.client_secret,
        }
    }
}

#[async_trait]
impl ProviderKind for CatalogKind {
    fn provider_type(&self) -> ProviderType {
        let entry = &self.entry;
        let authority =
            entry.parameters.iter().filter(|(_, it)| it.authority).map(|(name, _)| name.clone());
        ProviderType {
            name: self.name.clone(),
            title: entry.title.clone(),
            description: entry.description.clone(),
            documentation: entry.documentation.first().cloned().unwrap_or_default(),
            registration: entry.register.clone().map(Into::into).unwrap_or_default(),
            notes: entry.all_notes(),
            config_schema: entry.schema(),
            secret_names: entry.secret_names(),
            authority_keys: authority.collect(),
            registered_keys: match &entry.registration {
                Some(_) => registration::registered_keys().map(str::to_owned).collect(),
                None => Vec::new(),
            },
            asked_keys: entry.asked_keys(),
            capabilities: entry.capabilities(),
        }
    }

    fn connect(
        &self,
        engine: &Engine,
        config: &Map<String, Value>,
        secrets: &ProviderSecrets,
    ) -> Result<Arc<dyn Connector>, InvalidConfig> {
        Ok(Arc::new(self.connector(engine, config, secrets)?))
    }

    async fn register(
        &self,
        engine: &Engine,
        provider: &IdentityProvider,
        secrets: &ProviderSecrets,
        addresses: &ClientAddresses,
    ) -> Result<Option<Registered>, ConnectorError> {
        let entry = &self.entry;
        let Some(registration) = &entry.registration else { return Ok(None) };
        if provider.config.contains_key("client_id") {
            return Ok(None);
        }
        let unfit = |error: InvalidConfig| misconfigured(&error.to_string());
        let fields = self.fields(&provider.config, secrets).map_err(unfit)?;
        let name = registration::client_name(engine, &fields).map_err(unfit)?;
        let parameters = self.parameters(&fields).map_err(unfit)?;
        let at = Addresses { engine, parameters: &parameters };
        let (endpoint, tells_of_logouts) = if let Some(template) = &registration.url {
            (at.url(template).map_err(unfit)?, false)
        } else {
            let metadata = engine.metadata(&at.issuer(entry).map_err(unfit)?).await?;
            let endpoint = metadata.registration_endpoint.clone();
            let endpoint = endpoint.ok_or_else(registration::none_offered)?;
            (endpoint, metadata.backchannel_logout_supported)
        };
        let mut grant_types: Vec<&str> =
            registration.grant_types.iter().map(String::as_str).collect();
        if grant_types.is_empty() {
            let [code, refresh] = registration::GRANT_TYPES;
            grant_types.push(code);
            grant_types.extend(entry.refresh.as_ref().map(|_| refresh));
        }
        let client = NewClient {
            endpoint: &endpoint,
            name,
            addresses,
            tells_of_logouts,
            methods: &[registration::method_of(registration.authentication).to_owned()],
            grant_types: &grant_types,
            dpop: false,
        };
        client.register(engine).await.map(Some)
    }

    async fn deregister(
        &self,
        engine: &Engine,
        provider: &IdentityProvider,
        secrets: &ProviderSecrets,
    ) -> Result<(), ConnectorError> {
        registration::deregister(engine, &provider.config, secrets).await
    }

    fn binds_at(
        &self,
        engine: &Engine,
        config: &Map<String, Value>,
        secrets: &ProviderSecrets,
    ) -> Result<Option<Issuer>, InvalidConfig> {
        let fields = self.fields(config, secrets)?;
        if !self.entry.is_discovered() || !self.entry.binds(&fields)? {
            return Ok(None);
        }
        let parameters = self.parameters(&fields)?;
        Addresses { engine, parameters: &parameters }.issuer(&self.entry).map(Some)
    }
}

impl CatalogKind {
    /// What speaks to an instance; asks nobody.
    pub(super) fn connector(
        &self,
        engine: &Engine,
        config: &Map<String, Value>,
        secrets: &ProviderSecrets,
    ) -> Result<CatalogConnector, InvalidConfig> {
        let entry = &self.entry;
        let fields = self.fields(config, secrets)?;
        if entry.registration.is_some() {
            registration::client_name(engine, &fields)?;
        }
        let parameters = self.parameters(&fields)?;
        let at = Addresses { engine, parameters: &parameters };
        let issuer = at.issuer(entry)?;
        let endpoints = at.endpoints(entry)?;
        let client = Client {
            token_issuers: match &entry.openid {
                None => Vec::new(),
                Some(_) => vec![issuer.as_str().to_owned()],
            },
            issuer,
            client_id: parameters.client_id.clone(),
            authentication: match signed_secret(entry, &parameters, &fields)? {
                Some(signed) => ClientAuthentication::SignedSecret(signed),
                None => authentication(entry, &fields)?,
            },
            next_secret: if entry.has_secret() { fields.next_client_secret()? } else { None },
            scopes: if entry.has_client() { fields.scopes()? } else { None },
            offline_access: false,
            signing_algs: algorithms(entry),
            resource: Vec::new(),
            pushes: false,
            dpop: entry.binds(&fields)?,
            published_keys: Vec::new(),
            authorization_parameters: Vec::new(),
            refresh_token_idle: idle(entry, &fields)?,
            capabilities: entry.capabilities(),
            error_rules: self.error_rules(),
        };
        Ok(CatalogConnector {
            base: OpenIdConnector::new(engine.clone(), client),
            layout: layout(entry, None),
            refresh_layout: layout(entry, entry.refresh.as_ref()),
            token: encoding(&entry.token, &parameters),
            refresh: refresh_encoding(entry, &parameters),
            revoke: entry.revoke.as_ref().map(|it| revoke_encoding(it, &entry.token, &parameters)),
            config: Value::Object(config.clone()),
            entry: Arc::clone(entry),
            parameters,
            endpoints,
        })
    }

    fn fields<'a>(
        &self,
        config: &'a Map<String, Value>,
        secrets: &'a ProviderSecrets,
    ) -> Result<Fields<'a>, InvalidConfig> {
        let names = self.entry.secret_names();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        Fields::new(config, secrets, &self.entry.config_names(), &names)
    }

    /// The entry's own rules first, then those that were written down for its type.
    fn error_rules(&self) -> ErrorRules {
        ErrorRules::built_in(&self.name).after(self.entry.errors.clone())
    }

    /// What a parameter is that nobody has said, where it follows from another.
    fn following<'a>(
        &'a self,
        parameter: &'a Parameter,
        fields: &Fields<'a>,
    ) -> Result<Option<&'a str>, InvalidConfig> {
        let Some(by) = &parameter.default_by else { return Ok(None) };
        let other = self.entry.parameters.get(&by.parameter).and_then(|it| it.default.as_deref());
        let other = fields.optional(&by.parameter)?.or(other);
        Ok(other.and_then(|it| by.values.get(it)).map(String::as_str))
    }

    fn parameters(&self, fields: &Fields<'_>) -> Result<Parameters, InvalidConfig> {
        let (mut plain, mut secret) = (BTreeMap::new(), BTreeMap::new());
        for (name, parameter) in &self.entry.parameters {
            if parameter.secret {
                if self.entry.token.signed_secret.as_ref().is_some_and(|it| it.key == *name) {
                    continue;
                }
                match fields.secret(name)? {
                    Some(value) => drop(secret.insert(name.clone(), value)),
                    None if parameter.optional => {}
                    None => return Err(invalid(name, "is missing")),
                }
                continue;
            }
            let value = match fields.optional(name)?.or(parameter.default.as_deref()) {
                Some(value) => Some(value),
                None => self.following(parameter, fields)?,
            };
            let Some(value) = value else {
                if parameter.optional {
                    continue;
                }
                return Err(invalid(name, "is missing"));
            };
            if !parameter.admits(value) {
                return Err(invalid(name, parameter.expected()));
            }
            plain.insert(name.clone(), value.to_owned());
        }
        let registers = self.entry.registration.is_some();
        let client_id = match fields.optional("client_id")? {
            // Registered later.
            None if registers => "",
            _ if self.entry.has_client() => fields.client_id()?,
            _ => "",
        };
        Ok(Parameters { client_id: client_id.to_owned(), plain, secret })
    }
}

/// Fills addresses, and has the client look at them.
struct Addresses<'a> {
    engine: &'a Engine,
    parameters: &'a Parameters,
}

impl Addresses<'_> {
    fn url(&self, template: &Template) -> Result<Url, InvalidConfig> {
        self.filled(template, &self.parameters.alone())
    }

    fn filled(&self, template: &Template, values: &impl Values) -> Result<Url, InvalidConfig> {
        // What could be at fault is what was configured.
        let field = template.parameters().next().unwrap_or("type");
        let text = template.fill_url(values).ok_or_else(|| invalid(field, "makes no address"))?;
        let url = Url::parse(&text).map_err(|_| invalid(field, "makes no address"))?;
        self.engine.http().check(&url).map_err(|error| invalid(field, error.to_string()))?;
        Ok(url)
    }

    fn optional(&self, template: Option<&Template>) -> Result<Option<Url>, InvalidConfig> {
        template.map(|it| self.url(it)).transpose()
    }

    /// Where tokens are revoked. Each has an address of its own where it stands in it: then one as
    /// good as any is looked at.
    fn revocation(&self, revoke: &Revoke) -> Result<Url, InvalidConfig> {
        if !revoke.has_token_in_address() {
            return self.url(&revoke.url);
        }
        let url = self.filled(&revoke.url, &self.parameters.with_token("x"))?;
        if url.scheme() != "https" {
            let field = revoke.url.origin().unwrap_or("type");
            return Err(invalid(field, "must be https, as the tokens to revoke are in addresses"));
        }
        Ok(url)
    }

    /// The issuer; of a provider that is none, the origin of its token endpoint or of its first
    /// call, by which its documents and secrets are told from those of others.
    fn issuer(&self, entry: &Entry) -> Result<Issuer, InvalidConfig> {
        let (field, text) = if let Some(openid) = &entry.openid {
            let text = openid.issuer.fill_url(&self.parameters.alone());
            (openid.issuer.parameters().next(), text)
        } else {
            let fixed = |it: &&Template| it.pointers().next().is_none();
            let browser = entry.authorization.as_ref().and_then(|it| it.url.as_ref());
            let token = entry.token.url.as_ref().filter(fixed).or(browser);
            let template = token.or(entry.profile.first().map(|it| &it.url));
            let url = self.optional(template)?;
            (None, url.map(|it| it.origin().ascii_serialization()))
        };
        let field = field.unwrap_or("type");
        let text = text.ok_or_else(|| invalid(field, "makes no address"))?;
        Issuer::new(text, self.engine.http()).map_err(|error| invalid(field, error.to_string()))
    }

    fn endpoints(&self, entry: &Entry) -> Result<Endpoints, InvalidConfig> {
        let authorization = entry.authorization.as_ref().and_then(|it| it.url.as_ref());
        let authorization = self.optional(authorization)?;
        let token = match &entry.token.url {
            // Only the exchange knows it; until then the place where the browser goes names the
            // provider.
            Some(it) if it.pointers().next().is_some() => authorization.clone(),
            other => self.optional(other.as_ref())?,
        };
        let jwks = entry.openid.as_ref().and_then(|it| it.jwks_uri.as_ref());
        let known = match (&authorization, &token) {
            (Some(authorization), Some(token)) if !entry.is_discovered() => Some(Metadata {
                issuer: self.issuer(entry)?.as_str().to_owned(),
                authorization_endpoint: authorization.clone(),
                token_endpoint: token.clone(),
                jwks_uri: self.optional(jwks)?,
                userinfo_endpoint: None,
                revocation_endpoint: None,
                registration_endpoint: None,
                introspection_endpoint: None,
                pushed_authorization_request_endpoint: None,
                require_pushed_authorization_requests: false,
                device_authorization_endpoint: None,
                scopes_supported: Vec::new(),
                token_endpoint_auth_methods_supported: Vec::new(),
                dpop_signing_alg_values_supported: Vec::new(),
                code_challenge_methods_supported: None,
                authorization_response_iss_parameter_supported: false,
                backchannel_logout_supported: false,
            }),
            _ => None,
        };
        // Filled at once for the sake of what may be wrong with them.
        self.optional(entry.registration.as_ref().and_then(|it| it.url.as_ref()))?;
        for call in entry.profile.iter().filter(|it| it.url.pointers().next().is_none()) {
            self.url(&call.url)?;
        }
        let refresh = entry.refresh.as_ref().and_then(|it| it.url.as_ref());
        Ok(Endpoints {
            authorization,
            token,
            refresh: self.optional(refresh)?,
            device: self.optional(entry.device.as_ref().and_then(|it| it.url.as_ref()))?,
            long_lived: self.optional(entry.long_lived.as_ref().map(|it| &it.url))?,
            revocation: entry.revoke.as_ref().map(|it| self.revocation(it)).transpose()?,
            known: known.map(Arc::new),
        })
    }
}

fn authentication(
    entry: &Entry,
    fields: &Fields<'_>,
) -> Result<ClientAuthentication, InvalidConfig> {
    if entry.registration.is_some() {
        let registered = fields.optional("client_id")?.is_some();
        let said = fields.optional("token_endpoint_auth_method")?.is_some();
        let needs_secret = entry.token.client_secret == Need::Required;
        if !registered {
            return Ok(ClientAuthentication::None);
        }
        // What the server answered, or the operator wrote, goes before what is usual there.
        if said && !(needs_secret && fields.client_secret()?.is_none()) {
            return oidc::authentication(fields);
        }
    }
    if !entry.has_secret() {
        return Ok(ClientAuthentication::None);
    }
    let Some(secret) = fields.client_secret()? else {
        return match entry.token.client_secret {
            Need::Required => Err(invalid("client_secret", "is missing")),
            Need::Optional | Need::None => Ok(ClientAuthentication::None),
        };
    };
    Ok(match (entry.token.grant, entry.token.authentication) {
        (CodeGrant::Assertion, _) => ClientAuthentication::Assertion(secret),
        (_, Authentication::Basic) => ClientAuthentication::Basic(secret),
        (_, Authentication::Post) => ClientAuthentication::Post(secret),
        (_, Authentication::Either) => ClientAuthentication::Either(secret),
        (_, Authentication::None | Authentication::Bearer | Authentication::Secret) => {
            ClientAuthentication::None
        }
    })
}

fn signed_secret(
    entry: &Entry,
    parameters: &Parameters,
    fields: &Fields<'_>,
) -> Result<Option<SignedSecret>, InvalidConfig> {
    let Some(signed) = &entry.token.signed_secret else { return Ok(None) };
    let key = fields.client_key(&signed.key)?.ok_or_else(|| invalid(&signed.key, "is missing"))?;
    let fill = |template: &Template| {
        let field = template.parameters().next().unwrap_or("type");
        template.fill(&parameters.alone()).ok_or_else(|| invalid(field, "is missing"))
    };
    Ok(Some(SignedSecret {
        key,
        key_id: fill(&signed.key_id)?,
        issuer: fill(&signed.issuer)?,
        audience: signed.audience.clone(),
    }))
}

fn idle(entry: &Entry, fields: &Fields<'_>) -> Result<Option<Duration>, InvalidConfig> {
    let Some(refresh) = &entry.refresh else { return Ok(None) };
    let known = refresh.idle_seconds.map(|it| Duration::from_secs(it.min(MOST_SECONDS)));
    Ok(fields.seconds("refresh_token_idle_seconds")?.or(known))
}

fn algorithms(entry: &Entry) -> Vec<SigningAlg> {
    let named = entry.openid.iter().flat_map(|it| &it.algorithms);
    let named: Vec<_> = named.filter_map(|it| SigningAlg::parse(it)).collect();
    if named.is_empty() { SigningAlg::DEFAULT.to_vec() } else { named }
}

fn layout(entry: &Entry, refresh: Option<&Refresh>) -> Layout {
    let token = &entry.token;
    let own = refresh.and_then(|it| it.answer.as_ref());
    Layout {
        answer: own.unwrap_or(&token.answer).clone(),
        unit: token.expires_in_unit,
        expires_at: token.expires_at.clone(),
        expires_from: token.expires_from,
        lifetime: token.lifetime_seconds.map(Duration::from_secs),
        token_types: token.accepted_types.clone(),
        separator: token.granted_scope_separator.clone(),
        loose: true,
        id_token: match &entry.openid {
            None => IdToken::None,
            Some(openid) if openid.is_in_access_token() => IdToken::AccessToken,
            Some(_) => IdToken::Own,
        },
    }
}

fn headers(parameters: &Parameters, maps: &[&BTreeMap<String, Template>]) -> Vec<(String, String)> {
    let all = maps.iter().copied().flatten();
    all.filter_map(|(name, value)| Some((name.clone(), value.fill(&parameters.alone())?))).collect()
}

fn encoding(token: &Token, parameters: &Parameters) -> Encoding {
    Encoding {
        method: token.method,
        body: token.body,
        headers: headers(parameters, &[&token.headers]),
        client_id: token.client_id_parameter.clone(),
        client_secret: token.client_secret_parameter.clone(),
    }
}

fn refresh_encoding(entry: &Entry, parameters: &Parameters) -> Encoding {
    let mut encoding = encoding(&entry.token, parameters);
    if let Some(refresh) = &entry.refresh {
        encoding.method = refresh.method.unwrap_or(encoding.method);
        encoding.headers = headers(parameters, &[&entry.token.headers, &refresh.headers]);
    }
    encoding
}

fn revoke_encoding(revoke: &Revoke, token: &Token, parameters: &Parameters) -> Encoding {
    Encoding {
        method: revoke.method,
        body: if revoke.method == Method::Get { Body::Query } else { revoke.body },
        headers: headers(parameters, &[&revoke.headers]),
        client_id: token.client_id_parameter.clone(),
        client_secret: token.client_secret_parameter.clone(),
    }
}
