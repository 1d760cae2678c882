// A real OpenID provider for the end-to-end tests: `oidc-provider`, with an automatic user in
// place of its pages, and a second port on which a test asks what happened and orders faults.
//
// It prints one line of JSON when it is ready, and ends when its standard input closes, so that
// it does not outlive the test. Options: --redirect-uri URI (any number), --access-token-ttl
// SECONDS (3600), --refresh-tokens offline_access|always (offline_access: only where it was asked
// for, together with prompt=consent, as OpenID Connect Core §11 has it), --dpop-nonces (a DPoP proof
// must have a nonce of ours in it).
//
// Whoever proves to hold a key has its tokens bound to it (RFC 9449); the client `bound` must.
//
// The user is `login_hint`, else `alice`; one called `denied` declines.
//
// Besides the two clients that it prints there is one for each way of the protocol that a client may
// be held to, see `held`. The service is taken to be where the first redirect URI is: its keys are
// fetched from there.
//
// Control port:
//   GET  /records                what happened so far, see `records` below
//   GET  /accounts               whose answers were lost, and whose tokens came twice, see `accounts`
//   GET  /secrets                every code, verifier and token that was sent or handed out
//   GET  /is-active?token=…      whether an access or refresh token would be accepted now, and for
//                                which resource it is
//   GET  /has-client?id=…        whether a client is registered
//   POST /redirect-uris {add}    registers one more redirect URI, compared character by character
//   POST /withdraw {account}     the user revokes what they granted
//   POST /refetch-keys {client}  looks at the client's keys again, as it does after some time
//   POST /fail {next, mode, …}   the next so many token requests fail; replaces what was ordered
//     mode: status               answers `status` (500), `error`, `retry_after`; nothing is done
//           drop_before          closes the connection; nothing is done
//           drop_after_commit    does it, then closes the connection
//           delay                waits `delay_ms`, then does it
//           delay_after_commit   does it, then answers after `delay_ms`
//           hold                 waits `delay_ms`, then closes the connection; nothing is done
//     grant_type: which requests (refresh_token); `any` for all

import { createPrivateKey, generateKeyPairSync, randomBytes } from 'node:crypto';
import { createServer } from 'node:http';
import { setTimeout as wait } from 'node:timers/promises';
import { parseArgs } from 'node:util';

import Provider from 'oidc-provider';

import { Store } from './store.mjs';

// The provider's notices go to standard output, which is for the one line.
console.info = console.warn;

const { values: options } = parseArgs({
  options: {
    'redirect-uri': { type: 'string', multiple: true, default: [] },
    'access-token-ttl': { type: 'string', default: '3600' },
    'refresh-tokens': { type: 'string', default: 'offline_access' },
    'dpop-nonces': { type: 'boolean', default: false },
  },
});

const DEVICE_GRANT = 'urn:ietf:params:oauth:grant-type:device_code';

const confidential = { client_id: 'confidential', client_secret: 'confidential-secret' };
const open = { client_id: 'public' };

const serviceUrl = new URL('/', options['redirect-uri'][0] ?? 'http://127.0.0.1/');
// Clients that are held to one way of the protocol: another one is refused.
const secret = { client_secret: 'a secret that is long enough to sign with' };
const held = [
  { ...secret, client_id: 'pushing', require_pushed_authorization_requests: true },
  {
    client_id: 'key-signing',
    token_endpoint_auth_method: 'private_key_jwt',
    jwks_uri: new URL('/jwks/1', serviceUrl).href,
  },
  { ...secret, client_id: 'secret-signing', token_endpoint_auth_method: 'client_secret_jwt' },
  { ...secret, client_id: 'posted-to', response_modes: ['form_post'] },
  { ...secret, client_id: 'signed-userinfo', userinfo_signed_response_alg: 'ES256' },
  ...['told-of-logouts', 'told-of-sessions'].map((client_id) => ({
    ...secret,
    client_id,
    backchannel_logout_uri: new URL('/backchannel-logout/1', serviceUrl).href,
    backchannel_logout_session_required: true,
  })),
];

const records = {
  // Authorization requests that ended with a code.
  authorizations: 0,
  // Token requests by grant type: all that arrived, and those that were answered with tokens or
  // would have been.
  token_requests: {},
  token_successes: {},
  // Requests with a refresh token that had been exchanged before.
  refresh_reuses: 0,
  // Requests with a refresh token while another request with the same one was under way.
  concurrent_refreshes: 0,
  // Grants revoked by reuse or by a revocation request.
  grant_revocations: 0,
  // Requests to the revocation endpoint, and those among them that named a token that was there.
  revocation_requests: 0,
  revocations: 0,
  // Faults that were ordered and happened.
  faults: 0,
  // Requests by path.
  requests: {},
  // Authorization requests that were pushed.
  pushed_requests: 0,
  // Authorization responses by how they were sent.
  response_modes: {},
  // Token requests that succeeded with an assertion of the client, by client, algorithm and key.
  assertions: {},
  // Answers of the userinfo endpoint by their type.
  userinfo: {},
  // Logouts that clients were told of, by whether they took the word.
  logouts: { taken: 0, refused: 0 },
  // What was fetched from clients, by address.
  fetched: {},
};
// By account: refreshes that were done and whose answer did not leave, or left late; and requests
// with a refresh token that had been exchanged before.
const accounts = { lost: {}, reused: {} };
const accountOf = new Map();
// An answer later than this may have been given up on.
const LATE_MS = 1500;
// What must never be seen anywhere else.
const secrets = new Set();
const keep = (values) => values.filter((it) => it).forEach((it) => secrets.add(it));
const count = (counts, name) => { counts[name] = (counts[name] ?? 0) + 1; };

const redirectUris = new Set(options['redirect-uri']);
const store = new Store();
let fault = { next: 0 };

const server = createServer();
const control = createServer();
await Promise.all([server, control].map((it) =>
  new Promise((resolve) => { it.listen(0, '127.0.0.1', resolve); })));
const issuer = `http://127.0.0.1:${server.address().port}`;

const provider = new Provider(issuer, {
  adapter: store.adapter,
  clients: [
    { ...confidential, token_endpoint_auth_method: 'client_secret_basic' },
    { ...open, token_endpoint_auth_method: 'none' },
    ...held,
    { client_id: 'bound', token_endpoint_auth_method: 'none', dpop_bound_access_tokens: true },
  ].map((client) => ({
    ...client,
    grant_types: ['authorization_code', 'refresh_token', DEVICE_GRANT],
    response_types: ['code'],
    // Those that count are in `redirectUris`.
    redirect_uris: ['http://127.0.0.1/'],
  })),
  jwks: {
    keys: [
      signingKey('rsa', { modulusLength: 2048 }, 'RS256'),
      signingKey('ec', { namedCurve: 'P-256' }, 'ES256'),
    ],
  },
  // The service is on loopback, which the built-in guard forbids.
  fetch: (url, { dispatcher, ...fetchOptions }) => {
    count(records.fetched, url);
    return fetch(url, fetchOptions);
  },
  cookies: { keys: [randomBytes(32).toString('hex')] },
  claims: {
    openid: ['sub'],
    email: ['email', 'email_verified'],
    profile: ['name', 'preferred_username'],
  },
  findAccount: (_ctx, id) => ({
    accountId: id,
    claims: () => ({
      sub: id,
      email: `${id}@example.test`,
      email_verified: true,
      name: `Test user ${id}`,
      preferred_username: id,
    }),
  }),
  features: {
    backchannelLogout: { enabled: true },
    deviceFlow: { enabled: true },
    dPoP: {
      enabled: true,
      nonceSecret: randomBytes(32),
      requireNonce: () => options['dpop-nonces'],
    },
    devInteractions: { enabled: false },
    introspection: { enabled: true },
    jwtUserinfo: { enabled: true },
    pushedAuthorizationRequests: { enabled: true },
    revocation: { enabled: true },
    // What an MCP client needs: it registers itself, and asks for tokens for one server, whose
    // tokens are of no use at the userinfo endpoint.
    registration: { enabled: true },
    registrationManagement: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (_ctx, resource) => ({
        audience: resource,
        scope: 'mcp:read mcp:write',
        accessTokenTTL: Number(options['access-token-ttl']),
        accessTokenFormat: 'opaque',
      }),
    },
  },
  // A token that has expired is refused at once; the default goes on for fifteen seconds.
  clockTolerance: 0,
  pkce: { required: () => true },
  rotateRefreshToken: true,
  // A refresh token that is not offline_access would otherwise end with the browser's session; it
  // does at the client that is told when that ends.
  expiresWithSession: (_ctx, token) =>
    token.clientId === 'told-of-logouts' && !token.scopes.has('offline_access'),
  issueRefreshToken: (_ctx, client, code) => client.grantTypeAllowed('refresh_token')
    && (options['refresh-tokens'] === 'always' || code.scopes.has('offline_access')),
  ttl: {
    AccessToken: Number(options['access-token-ttl']),
    AuthorizationCode: 60,
    Grant: 86_400,
    IdToken: 3600,
    Interaction: 600,
    RefreshToken: 86_400,
    Session: 86_400,
  },
  interactions: { url: (_ctx, { uid }) => `/interaction/${uid}` },
});

provider.Client.prototype.redirectUriAllowed = (uri) => redirectUris.has(uri);
// One client is told which session ended, and not whose it was, as some providers do it.
const { backchannelLogout } = provider.Client.prototype;
provider.Client.prototype.backchannelLogout = function tell(sub, sid) {
  const named = this.clientId === 'told-of-sessions' ? undefined : sub;
  return backchannelLogout.call(this, named, sid);
};
store.onReuse = () => { records.refresh_reuses += 1; records.grant_revocations += 1; };
provider.on('authorization.success', (ctx) => {
  records.authorizations += 1;
  if (ctx.oidc.responseMode) count(records.response_modes, ctx.oidc.responseMode);
});
provider.on('pushed_authorization_request.success', () => { records.pushed_requests += 1; });
provider.on('backchannel.success', () => { records.logouts.taken += 1; });
provider.on('backchannel.error', (_ctx, error) => {
  records.logouts.refused += 1;
  console.error(error.message);
});
provider.on('grant.revoked', () => { records.grant_revocations += 1; });
provider.on('server_error', (_ctx, error) => console.error(error));

provider.use(recordRequest);
provider.use(switchUser);
provider.use(automaticUser);
provider.use(recordRevocation);
provider.use(recordToken);

server.on('request', provider.callback());
control.on('request', answerControl);
for (const end of ['end', 'close']) process.stdin.on(end, () => process.exit());
process.stdin.resume();
process.stdout.write(`${JSON.stringify({
  issuer,
  port: server.address().port,
  control: `http://127.0.0.1:${control.address().port}`,
  pid: process.pid,
  confidential,
  public: open,
})}\n`);

function signingKey(type, shape, alg) {
  // By way of DER: Node 20 can wait for itself for ever when the job that generated a key is
  // collected while that same key is exported.
  const { privateKey: key } = generateKeyPairSync(type, {
    ...shape,
    publicKeyEncoding: { type: 'spki', format: 'der' },
    privateKeyEncoding: { type: 'pkcs8', format: 'der' },
  });
  const jwk = createPrivateKey({ key, type: 'pkcs8', format: 'der' }).export({ format: 'jwk' });
  return { ...jwk, alg, use: 'sig', kid: alg.toLowerCase() };
}

/**
 * A `login_hint` that names somebody else than the browser's session ends that session: the
 * provider would show a page on which to sign out first.
 */
async function switchUser(ctx, next) {
  const hint = ctx.path === '/auth' ? ctx.query.login_hint : undefined;
  if (hint !== undefined) {
    const session = await provider.Session.find(ctx.cookies.get(provider.cookieName('session')));
    if (session && session.accountId !== hint) await session.destroy();
  }
  return next();
}

/** Signs in and consents at once where the provider would show a page. */
async function automaticUser(ctx, next) {
  if (!ctx.path.startsWith('/interaction/')) return next();
  const { params, prompt, session } = await provider.interactionDetails(ctx.req, ctx.res);
  const account = prompt.name === 'login' ? params.login_hint ?? 'alice' : session.accountId;
  ctx.respond = false;
  if (account === 'denied') {
    return provider.interactionFinished(ctx.req, ctx.res, { error: 'access_denied' });
  }
  const grant = new provider.Grant({ accountId: account, clientId: params.client_id });
  grant.addOIDCScope(params.scope ?? 'openid');
  if (params.resource) grant.addResourceScope(params.resource, 'mcp:read mcp:write');
  const grantId = await grant.save();
  return provider.interactionFinished(ctx.req, ctx.res, {
    login: { accountId: account },
    consent: { grantId },
  });
}

async function recordRequest(ctx, next) {
  count(records.requests, ctx.path);
  await next();
  if (ctx.path === '/me' && ctx.status === 200) count(records.userinfo, ctx.type);
}

/** By what key the client proved to be it. */
function recordAssertion(assertion) {
  const read = (part) => JSON.parse(Buffer.from(part, 'base64url').toString());
  const [header, claims] = assertion.split('.').slice(0, 2).map(read);
  count(records.assertions, [claims.sub, header.alg, header.kid].filter((it) => it).join(' '));
}

async function recordRevocation(ctx, next) {
  await next();
  if (ctx.path !== '/token/revocation') return;
  records.revocation_requests += 1;
  const { RefreshToken, AccessToken } = ctx.oidc?.entities ?? {};
  if (ctx.status === 200 && (RefreshToken || AccessToken)) records.revocations += 1;
}

const spent = new Set();
const underWay = new Map();

async function recordToken(ctx, next) {
  if (ctx.path !== '/token') return next();
  const chunks = [];
  for await (const chunk of ctx.req) chunks.push(chunk);
  // The provider takes a body that was read already from here.
  ctx.req.body = Buffer.concat(chunks).toString();
  const form = new URLSearchParams(ctx.req.body);
  const grantType = form.get('grant_type');
  const token = grantType === 'refresh_token' ? form.get('refresh_token') : null;

  count(records.token_requests, grantType);
  keep(['code', 'code_verifier', 'refresh_token', 'device_code'].map((name) => form.get(name)));
  const arrived = Date.now();
  const account = accountOf.get(token);
  if (token !== null) {
    if (spent.has(token)) {
      records.refresh_reuses += 1;
      count(accounts.reused, account);
    }
    if (underWay.get(token)) records.concurrent_refreshes += 1;
    underWay.set(token, (underWay.get(token) ?? 0) + 1);
  }
  try {
    await faulty(ctx, grantType, async () => {
      await next();
      if (ctx.status !== 200) return;
      const { access_token: access, refresh_token: refresh, id_token: id } = ctx.body;
      keep([access, refresh, id]);
      count(records.token_successes, grantType);
      const assertion = form.get('client_assertion');
      if (assertion !== null) recordAssertion(assertion);
      accountOf.set(refresh, account ?? ctx.oidc.account?.accountId);
      if (token === null) return;
      spent.add(token);
      const left = () => {
        const late = Date.now() - arrived > LATE_MS;
        if (late || !ctx.res.writableFinished) count(accounts.lost, account);
      };
      if (ctx.res.closed) left();
      else ctx.res.once('close', left);
    });
  } finally {
    if (token !== null) underWay.set(token, underWay.get(token) - 1);
  }
}

async function faulty(ctx, grantType, exchange) {
  const { mode, grant_type: wanted = 'refresh_token' } = fault;
  if (!(fault.next > 0) || (wanted !== 'any' && wanted !== grantType)) return exchange();
  const {
    status = 500, error = 'temporarily_unavailable', retry_after: retryAfter, delay_ms: delay,
  } = fault;
  fault.next -= 1;
  records.faults += 1;
  const drop = () => {
    ctx.respond = false;
    ctx.req.socket.destroy();
  };
  switch (mode) {
    case 'status':
      ctx.status = status;
      ctx.body = { error };
      if (retryAfter !== undefined) ctx.set('retry-after', String(retryAfter));
      return undefined;
    case 'drop_before':
      return drop();
    case 'drop_after_commit':
      await exchange();
      return drop();
    case 'delay':
      await wait(delay);
      return exchange();
    case 'hold':
      await wait(delay);
      return drop();
    default: // delay_after_commit, by the check in answerControl
      await exchange();
      return wait(delay);
  }
}

const MODES = [
  'status', 'drop_before', 'drop_after_commit', 'delay', 'delay_after_commit', 'hold',
];

async function answerControl(request, response) {
  const url = new URL(request.url, issuer);
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  let status = 200;
  let answer = {};
  try {
    const body = chunks.length ? JSON.parse(Buffer.concat(chunks).toString()) : {};
    switch (`${request.method} ${url.pathname}`) {
      case 'GET /records':
        answer = records;
        break;
      case 'GET /accounts':
        answer = accounts;
        break;
      case 'GET /secrets':
        answer = [...secrets];
        break;
      case 'GET /is-active': {
        const token = url.searchParams.get('token');
        const found = await provider.AccessToken.find(token)
          ?? await provider.RefreshToken.find(token);
        answer = { active: found?.isValid ?? false, audience: found?.aud };
        break;
      }
      case 'GET /has-client':
        answer = { registered: await provider.Client.find(url.searchParams.get('id')) !== undefined };
        break;
      case 'POST /redirect-uris':
        redirectUris.add(body.add);
        break;
      case 'POST /withdraw':
        answer = { grants: store.withdraw(body.account) };
        break;
      case 'POST /refetch-keys': {
        const { asymmetricKeyStore: keys } = await provider.Client.find(body.client);
        keys.freshUntil = 0;
        await keys.refresh();
        break;
      }
      case 'POST /fail':
        if (!MODES.includes(body.mode)) throw new Error(`mode is one of ${MODES.join(', ')}`);
        if (!Number.isInteger(body.next)) throw new Error('next is missing');
        if ((body.mode.startsWith('delay') || body.mode === 'hold') && !(body.delay_ms >= 0)) {
          throw new Error('delay_ms is missing');
        }
        fault = body;
        break;
      default:
        status = 404;
    }
  } catch (error) {
    status = 400;
    answer = { error: error.message };
  }
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(answer));
}
