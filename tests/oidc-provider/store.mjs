// What the provider keeps, in memory and without a bound: a test ends before it matters. The
// built-in one forgets beyond 1,000 entries, and lets two requests that arrive together use one
// refresh token; this one consumes a token once, whoever asks.

import { errors } from 'oidc-provider';

export class Store {
  #entries = new Map();

  /** Called with the grant of a refresh token that was used twice at once. */
  onReuse = () => {};

  adapter = (model) => {
    const entries = this.#entries;
    const key = (id) => `${model}:${id}`;
    const find = async (id) => entries.get(key(id));
    const findBy = async (field, value) =>
      [...entries].find(([name, it]) => name.startsWith(`${model}:`) && it[field] === value)?.[1];
    return {
      find,
      findByUid: (uid) => findBy('uid', uid),
      findByUserCode: (userCode) => findBy('userCode', userCode),
      upsert: async (id, payload) => void entries.set(key(id), payload),
      destroy: async (id) => void entries.delete(key(id)),
      consume: async (id) => {
        const payload = entries.get(key(id));
        if (!payload || payload.consumed) {
          if (payload) this.revokeGrant(payload.grantId);
          this.onReuse();
          throw new errors.InvalidGrant('used by another request at the same time');
        }
        payload.consumed = Math.floor(Date.now() / 1000);
      },
      revokeByGrantId: async (grantId) => this.#removeWhere((it) => it.grantId === grantId),
    };
  };

  /** Removes a grant and everything that was given under it. */
  revokeGrant(grantId) {
    this.#entries.delete(`Grant:${grantId}`);
    this.#removeWhere((it) => it.grantId === grantId);
  }

  /** Revokes all that an account ever granted; how many grants that were. */
  withdraw(accountId) {
    const grants = [...this.#entries.values()]
      .filter((it) => it.kind === 'Grant' && it.accountId === accountId);
    for (const { jti } of grants) this.revokeGrant(jti);
    return grants.length;
  }

  #removeWhere(condition) {
    for (const [name, payload] of this.#entries) {
      // A session or an interaction names a grant too, and outlives it.
      const isToken = /^(AccessToken|AuthorizationCode|RefreshToken|DeviceCode):/.test(name);
      if (isToken && condition(payload)) this.#entries.delete(name);
    }
  }
}
