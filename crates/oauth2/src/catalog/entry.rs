//! The form of an entry, as `docs/catalog.md` has it. What may stand where is checked by
//! [`rules`](super::rules).

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{
    error_rule::ErrorRule,
    parameter::Parameter,
    template::{Pointer, TOKEN, Template},
};

/// One provider type that is only data.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    /// What people call it.
    pub(crate) title: String,
    /// One or two sentences for whoever chooses.
    pub(crate) description: String,
    /// The pages that it rests on; the first is the one to read.
    pub(crate) documentation: Vec<String>,
    /// When its facts were last looked at, `2026-11-25`.
    pub(crate) checked: String,
    /// What they rest on.
    pub(crate) evidence: Evidence,
    /// What an operator must know.
    #[serde(default)]
    pub(crate) notes: Vec<String>,
    /// Whether the account's id proves who signs in.
    #[serde(default = "yes")]
    pub(crate) sign_in: bool,
    /// How to register a client there.
    pub(crate) register: Option<Register>,
    /// How our client registers itself there.
    pub(crate) registration: Option<DynamicRegistration>,
    /// Keys of the configuration that templates use.
    #[serde(default)]
    pub(crate) parameters: BTreeMap<String, Parameter>,
    /// Where the browser goes; absent where users bring a token that they made at the provider.
    pub(crate) authorization: Option<Authorization>,
    /// Where codes are traded.
    #[serde(default)]
    pub(crate) token: Token,
    /// A second trade, for a token that lives longer.
    pub(crate) long_lived: Option<LongLived>,
    /// How credentials are renewed; absent where they are not.
    pub(crate) refresh: Option<Refresh>,
    /// What makes it an OpenID provider.
    pub(crate) openid: Option<OpenId>,
    /// Calls that tell whose account it is.
    #[serde(default)]
    pub(crate) profile: Vec<Call>,
    /// Where in all this the account is.
    #[serde(default)]
    pub(crate) account: Account,
    /// How a grant is ended.
    pub(crate) revoke: Option<Revoke>,
    /// The device authorization endpoint.
    pub(crate) device: Option<Device>,
    /// What error answers mean where the standard's table reads them wrongly.
    #[serde(default)]
    pub(crate) errors: Vec<ErrorRule>,
}

/// What the facts of an entry rest on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Evidence {
    /// The provider's pages, read.
    Pages,
    /// Excerpts of them, and public code that speaks to the provider.
    Excerpts,
    /// General knowledge: nobody has compared them with the pages.
    Unread,
}

/// How to register a client, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Register {
    /// The page.
    pub(crate) at: String,
    /// The way from there, in the provider's words.
    pub(crate) steps: Option<String>,
    /// What the redirect URI is called there.
    pub(crate) redirect_uri: Option<String>,
    /// What the client id is called there.
    pub(crate) client_id: Option<String>,
    /// What the client secret is called there.
    pub(crate) client_secret: Option<String>,
}

/// How our client registers itself when an instance is made without one
/// ([RFC 7591](https://www.rfc-editor.org/rfc/rfc7591)).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DynamicRegistration {
    /// Where; absent where discovery says it.
    pub(crate) url: Option<Template>,
    /// How it asks to prove to be it; what the server answers counts.
    #[serde(default = "basic")]
    pub(crate) authentication: Authentication,
    /// What it asks to be allowed: a code, and a refresh token where the entry has a refresh,
    /// unless said.
    #[serde(default)]
    pub(crate) grant_types: Vec<String>,
}

/// The authorization request.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Authorization {
    /// Where; absent where discovery says it.
    pub(crate) url: Option<Template>,
    /// What the provider calls the code flow.
    #[serde(default = "code")]
    pub(crate) response_type: String,
    /// Asked for when nobody says otherwise.
    #[serde(default)]
    pub(crate) scopes: Vec<String>,
    /// Asked for always.
    #[serde(default)]
    pub(crate) always: Vec<String>,
    /// What parts them.
    #[serde(default = "space")]
    pub(crate) scope_separator: String,
    /// The parameter that holds them; empty for none.
    #[serde(default = "scope")]
    pub(crate) scope_parameter: String,
    /// Sent along.
    #[serde(default)]
    pub(crate) parameters: BTreeMap<String, Template>,
    /// Whether PKCE is spoken.
    #[serde(default)]
    pub(crate) pkce: Pkce,
    /// The parameter that holds the client id.
    #[serde(default = "client_id")]
    pub(crate) client_id_parameter: String,
    /// How the response comes back, where that has to be said.
    pub(crate) response_mode: Option<ResponseMode>,
    /// Parameters of the response that are facts.
    #[serde(default)]
    pub(crate) callback: Vec<String>,
    /// The parameter that suggests an account; empty for none.
    #[serde(default = "login_hint")]
    pub(crate) login_hint: String,
}

/// Proof Key for Code Exchange ([RFC 7636](https://www.rfc-editor.org/rfc/rfc7636)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Pkce {
    /// Always, with S256.
    #[default]
    S256,
    /// The provider refuses it.
    Unsupported,
}

/// How the authorization response comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ResponseMode {
    /// In the query of a redirect.
    Query,
    /// As a form that the browser posts
    /// ([OAuth 2.0 Form Post Response Mode](https://openid.net/specs/oauth-v2-form-post-response-mode-1_0.html)).
    FormPost,
}

/// The token endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Token {
    /// Where; absent where discovery says it.
    pub(crate) url: Option<Template>,
    /// How the client proves to be it.
    pub(crate) authentication: Authentication,
    /// Whether it has a secret.
    pub(crate) client_secret: Need,
    /// How its secret is made and signed for each request.
    pub(crate) signed_secret: Option<SecretToSign>,
    /// How fields are written.
    pub(crate) body: Body,
    /// How they are sent.
    pub(crate) method: Method,
    /// Sent along.
    pub(crate) headers: BTreeMap<String, Template>,
    /// Further fields of the exchange.
    pub(crate) parameters: BTreeMap<String, Template>,
    /// How a code is presented.
    pub(crate) grant: CodeGrant,
    /// Whether the redirect URI is sent.
    pub(crate) send_redirect_uri: bool,
    /// Whether the state of the authorization request is sent once more.
    pub(crate) send_state: bool,
    /// The field that holds the client id.
    pub(crate) client_id_parameter: String,
    /// The field that holds the secret.
    pub(crate) client_secret_parameter: String,
    /// Where things are in the answer.
    pub(crate) answer: Answer,
    /// The unit of `expires_in`.
    pub(crate) expires_in_unit: Unit,
    /// Where the answer says when the token ends.
    pub(crate) expires_at: Pointers,
    /// What else says so.
    pub(crate) expires_from: Option<ExpiresFrom>,
    /// How long a token lives where the answer does not say, in seconds.
    pub(crate) lifetime_seconds: Option<u64>,
    /// Whether it lives until it is revoked.
    pub(crate) never_expires: bool,
    /// Token types that are used like Bearer tokens.
    #[serde(rename = "token_types")]
    pub(crate) accepted_types: Vec<String>,
    /// What parts the granted scopes; space and comma both unless said.
    pub(crate) granted_scope_separator: Option<String>,
    /// The hosts that addresses made of facts may have.
    pub(crate) hosts: Vec<String>,
    /// Whether its tokens are bound to keys ([RFC 9449](https://www.rfc-editor.org/rfc/rfc9449)):
    /// always, as the operator says, or never.
    pub(crate) dpop: Need,
}

impl Default for Token {
    fn default() -> Self {
        Self {
            url: None,
            authentication: Authentication::Either,
            client_secret: Need::Required,
            signed_secret: None,
            body: Body::Form,
            method: Method::Post,
            headers: BTreeMap::new(),
            parameters: BTreeMap::new(),
            grant: CodeGrant::Code,
            send_redirect_uri: true,
            send_state: false,
            client_id_parameter: client_id(),
            client_secret_parameter: "client_secret".into(),
            answer: Answer::default(),
            expires_in_unit: Unit::Seconds,
            expires_at: Pointers::default(),
            expires_from: None,
            lifetime_seconds: None,
            never_expires: false,
            accepted_types: Vec::new(),
            granted_scope_separator: None,
            hosts: Vec::new(),
            dpop: Need::None,
        }
    }
}

/// A client secret that is a token signed with ES256 or RS256.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SecretToSign {
    /// The secret parameter that holds the private key, PEM.
    pub(crate) key: String,
    /// What the provider calls the key.
    pub(crate) key_id: Template,
    /// Who signs.
    pub(crate) issuer: Template,
    /// For whom.
    pub(crate) audience: String,
}

/// How the client proves to be it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Authentication {
    /// In the `Authorization` header.
    Basic,
    /// In the body.
    Post,
    /// Not at all.
    None,
    /// As discovery says it, otherwise in the header.
    Either,
    /// With the token itself; only to revoke.
    Bearer,
    /// With the secret alone, in the `Authorization` header, after a scheme of the provider's own;
    /// only to revoke.
    Secret,
}

/// Whether something is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Need {
    /// It must be there.
    Required,
    /// It may be there.
    Optional,
    /// There is no such thing.
    None,
}

/// How fields are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Body {
    /// `application/x-www-form-urlencoded`.
    #[default]
    Form,
    /// A JSON object.
    Json,
    /// In the query.
    Query,
    /// Not at all.
    None,
}

/// Methods that are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Method {
    /// Reads; fields go into the query.
    Get,
    /// The default where something is traded or ended.
    #[default]
    Post,
    /// Ends something.
    Delete,
    /// Changes something.
    Put,
}

/// How a code is presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CodeGrant {
    /// `authorization_code` (RFC 6749 §4.1.3).
    Code,
    /// Code and refresh token as `assertion`, the secret as `client_assertion` (Azure DevOps).
    Assertion,
}

/// Where things are in a token answer: of several places the first where something is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Answer {
    /// The access token.
    pub(crate) access_token: Pointers,
    /// The refresh token.
    pub(crate) refresh_token: Pointers,
    /// How long the access token lives.
    pub(crate) expires_in: Pointers,
    /// How long the refresh token lives.
    pub(crate) refresh_token_expires_in: Pointers,
    /// When it ends.
    pub(crate) refresh_token_expires_at: Pointers,
    /// What was granted.
    pub(crate) scope: Pointers,
    /// The ID token.
    pub(crate) id_token: Pointers,
    /// How the access token is presented.
    pub(crate) token_type: Pointers,
}

/// The unit of a length of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    /// As the standard has it.
    Seconds,
    /// Thousandths.
    Milliseconds,
}

/// What says when an access token ends where the answer does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ExpiresFrom {
    /// The token itself, by its claim `exp`. Nobody has verified it, so nothing else is read there.
    Jwt,
}

/// A second trade right after the first.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LongLived {
    /// Which one.
    pub(crate) grant: LongLivedGrant,
    /// Where.
    pub(crate) url: Template,
    /// How fields are sent.
    #[serde(default = "get")]
    pub(crate) method: Method,
}

/// Trades for a token that lives longer, each with fields of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum LongLivedGrant {
    /// Facebook.
    #[serde(rename = "fb_exchange_token")]
    Facebook,
    /// Instagram.
    #[serde(rename = "ig_exchange_token")]
    Instagram,
    /// Threads.
    #[serde(rename = "th_exchange_token")]
    Threads,
}

/// Renewal.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Refresh {
    /// Where; the token endpoint unless said.
    pub(crate) url: Option<Template>,
    /// What becomes of a refresh token.
    #[serde(default)]
    pub(crate) rotation: RefreshRotation,
    /// Further fields.
    #[serde(default)]
    pub(crate) parameters: BTreeMap<String, Template>,
    /// Sent along.
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, Template>,
    /// How long an unused refresh token works.
    pub(crate) idle_seconds: Option<u64>,
    /// How long it works in any case.
    pub(crate) lifetime_seconds: Option<u64>,
    /// Whether the configured scopes are sent.
    #[serde(default)]
    pub(crate) send_scope: bool,
    /// Whether the redirect URI is sent.
    #[serde(default)]
    pub(crate) send_redirect_uri: bool,
    /// What is presented.
    #[serde(default)]
    pub(crate) with: RefreshWith,
    /// With which grant type an access token renews itself.
    pub(crate) grant: Option<SelfRefreshGrant>,
    /// How fields are sent; as to the token endpoint unless said.
    pub(crate) method: Option<Method>,
    /// As to the token endpoint unless said.
    pub(crate) authentication: Option<Authentication>,
    /// Where things are in the answer, if not where the exchange has them.
    pub(crate) answer: Option<Answer>,
    /// What makes the provider send a refresh token, for people.
    pub(crate) requires: Option<Requires>,
}

/// What makes a provider send a refresh token.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(crate) enum Requires {
    /// These scopes.
    Scopes(Vec<String>),
    /// In words.
    Words(String),
}

/// What becomes of a refresh token once it was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RefreshRotation {
    /// It is spent, and another one comes.
    Rotates,
    /// It is good again.
    Reusable,
    /// Nobody says.
    #[default]
    MayRotate,
}

/// What is presented for renewal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RefreshWith {
    /// A refresh token.
    #[default]
    RefreshToken,
    /// The access token itself.
    AccessToken,
}

/// Grant types by which an access token renews itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum SelfRefreshGrant {
    /// Instagram.
    #[serde(rename = "ig_refresh_token")]
    Instagram,
    /// Threads.
    #[serde(rename = "th_refresh_token")]
    Threads,
}

/// An OpenID provider.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OpenId {
    /// Its name. Discovered from it is what the entry does not say.
    pub(crate) issuer: Template,
    /// Where its keys are; with it nothing is discovered.
    pub(crate) jwks_uri: Option<Template>,
    /// Further names that `iss` may have.
    #[serde(default)]
    pub(crate) issuers: Vec<Template>,
    /// Whether the discovery document says which of all these names `iss` has.
    #[serde(default)]
    pub(crate) issuer_from_discovery: bool,
    /// Names that it must not have in spite of all that.
    #[serde(default)]
    pub(crate) refuse: Vec<RefusedIssuer>,
    /// Whether it revokes where discovery says so.
    #[serde(default = "yes")]
    pub(crate) revocation: bool,
    /// Whether its userinfo endpoint is asked.
    #[serde(default = "yes")]
    pub(crate) userinfo: bool,
    /// Which token the ID token is.
    #[serde(default)]
    pub(crate) id_token: IdTokenIs,
    /// How ID tokens may be signed.
    #[serde(default)]
    pub(crate) algorithms: Vec<String>,
}

/// Which token tells who the user is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum IdTokenIs {
    /// One of its own.
    #[default]
    Own,
    /// The access token, which knows of no nonce and no scope `openid`.
    AccessToken,
}

impl OpenId {
    /// Whether the access token is the ID token.
    pub(crate) fn is_in_access_token(&self) -> bool {
        self.id_token == IdTokenIs::AccessToken
    }
}

/// A name that `iss` must not have.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RefusedIssuer {
    /// With which values of parameters.
    #[serde(default)]
    pub(crate) when: BTreeMap<String, String>,
    /// Which one.
    pub(crate) issuer: String,
}

/// One call with the access token.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Call {
    /// By this name the answer is found.
    #[serde(default = "profile")]
    pub(crate) name: String,
    /// Where.
    pub(crate) url: Template,
    /// How; GET, or POST with a body.
    pub(crate) method: Option<Method>,
    /// Sent along.
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, Template>,
    /// What stands before the token in the `Authorization` header.
    #[serde(default = "bearer")]
    pub(crate) scheme: String,
    /// The parameter that holds the token instead: of the form where there is one, else of the
    /// query.
    pub(crate) token_parameter: Option<String>,
    /// Whether the answer is compressed, whatever is asked for.
    #[serde(default)]
    pub(crate) gzip: bool,
    /// A GraphQL query.
    pub(crate) graphql: Option<String>,
    /// A JSON text to be posted.
    pub(crate) json: Option<String>,
    /// The resource of an MCP server, which is at `url`: its text is the answer.
    pub(crate) mcp: Option<String>,
    /// Fields to be posted.
    #[serde(default)]
    pub(crate) form: BTreeMap<String, Template>,
    /// Whether a 4xx leaves it out.
    #[serde(default)]
    pub(crate) optional: bool,
    /// What must hold of the answer.
    pub(crate) ok: Option<Confirmation>,
}

/// What tells an answer that counts from an error, where the status does not.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(crate) enum Confirmation {
    /// This is `true`.
    True(Pointer),
    /// This is that text.
    Is(Said),
}

/// A value, and the text that it must be.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Said {
    /// Which value.
    pub(crate) at: Pointer,
    /// The text; numbers and booleans are compared as theirs.
    pub(crate) is: String,
}

/// Where the account is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Account {
    /// The provider's never reassigned name for it.
    #[serde(default)]
    pub(crate) id: Alternatives,
    /// A name to show.
    #[serde(default)]
    pub(crate) name: Alternatives,
    /// The address.
    #[serde(default)]
    pub(crate) email: Alternatives,
    /// What is true where the address was verified: one of these.
    #[serde(default)]
    pub(crate) email_verified: Pointers,
    /// What is there where the address was verified.
    pub(crate) email_verified_present: Option<Pointer>,
    /// The workspace or the like.
    #[serde(default)]
    pub(crate) tenant: Alternatives,
    /// Facts that are kept with the account.
    #[serde(default)]
    pub(crate) keep: BTreeMap<String, Pointers>,
}

/// Templates of which the first that has a value counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "OneOrMany<Template>")]
pub(crate) struct Alternatives(pub(crate) Vec<Template>);

/// Pointers of which the first that names something counts, unless said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "OneOrMany<Pointer>")]
pub(crate) struct Pointers(pub(crate) Vec<Pointer>);

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    fn into_vec(self) -> Result<Vec<T>, &'static str> {
        match self {
            Self::One(one) => Ok(vec![one]),
            Self::Many(many) if many.is_empty() => Err("a list of alternatives must not be empty"),
            Self::Many(many) => Ok(many),
        }
    }
}

impl TryFrom<OneOrMany<Template>> for Alternatives {
    type Error = &'static str;

    fn try_from(it: OneOrMany<Template>) -> Result<Self, Self::Error> {
        it.into_vec().map(Self)
    }
}

impl TryFrom<OneOrMany<Pointer>> for Pointers {
    type Error = &'static str;

    fn try_from(it: OneOrMany<Pointer>) -> Result<Self, Self::Error> {
        it.into_vec().map(Self)
    }
}

/// How a grant is ended.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Revoke {
    /// Where.
    pub(crate) url: Template,
    /// How.
    #[serde(default)]
    pub(crate) method: Method,
    /// As to the token endpoint unless said.
    pub(crate) authentication: Option<Authentication>,
    /// What stands before the secret where that alone authenticates.
    pub(crate) scheme: Option<String>,
    /// How fields are written.
    #[serde(default)]
    pub(crate) body: Body,
    /// Which tokens.
    #[serde(default)]
    pub(crate) token: RevokedToken,
    /// The field that holds the token: `token` unless said, and none where the token proves itself
    /// in the header; empty for none.
    pub(crate) token_parameter: Option<String>,
    /// Further fields.
    #[serde(default)]
    pub(crate) parameters: BTreeMap<String, Template>,
    /// Sent along.
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, Template>,
    /// Whether `token_type_hint` is sent.
    #[serde(default)]
    pub(crate) hint: bool,
    /// Statuses that say that it was gone already.
    #[serde(default)]
    pub(crate) gone: Vec<u16>,
    /// What must hold of the answer.
    pub(crate) ok: Option<Confirmation>,
}

impl Revoke {
    /// Whether the token stands in the address.
    pub(crate) fn has_token_in_address(&self) -> bool {
        self.url.parameters().any(|it| it == TOKEN)
    }
}

/// Which tokens are revoked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RevokedToken {
    /// The refresh token, then the access token.
    #[default]
    Both,
    /// The access token: the grant ends with it.
    Access,
    /// The refresh token: the grant ends with it.
    Refresh,
}

/// Device authorization ([RFC 8628](https://www.rfc-editor.org/rfc/rfc8628)).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Device {
    /// Where.
    pub(crate) url: Option<Template>,
    /// Whether discovery says where.
    #[serde(default)]
    pub(crate) discovered: bool,
}

fn yes() -> bool {
    true
}

fn basic() -> Authentication {
    Authentication::Basic
}

fn get() -> Method {
    Method::Get
}

fn code() -> String {
    "code".into()
}

fn space() -> String {
    " ".into()
}

fn scope() -> String {
    "scope".into()
}

fn client_id() -> String {
    "client_id".into()
}

fn login_hint() -> String {
    "login_hint".into()
}

fn profile() -> String {
    "profile".into()
}

fn bearer() -> String {
    "Bearer".into()
}
