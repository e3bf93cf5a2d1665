// An identity provider that nobody here wrote (npm oidc-provider), for tests of tokens on loopback.
//
// node provider.mjs PORT FOLDER: answers on PORT; FOLDER/keys.json holds the keys, made when it is not there. The first one signs.
// One client "pusher" (two resources: urn:jwt gives JWTs, urn:opaque opaque tokens) and one resource server "poller" that may ask
// about tokens. Prints "ready" once it listens.
import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';
import path from 'node:path';

const [port, folder] = [Number(process.argv[2]), process.argv[3]];
// An ES module asks no NODE_PATH: the package is looked for from the folder that OIDC_MODULES names.
const require = createRequire(path.join(process.env.OIDC_MODULES, 'x.js'));
const { default: Provider } = await import(pathToFileURL(require.resolve('oidc-provider')).href);

const file = path.join(folder, 'keys.json');
if (!existsSync(file)) {
  const made = generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ format: 'jwk' });
  writeFileSync(file, JSON.stringify([{ ...made, kid: randomUUID(), use: 'sig', alg: 'RS256' }]), { mode: 0o600 });
}

const scope = 'records:write records:read poll';
const provider = new Provider(`http://127.0.0.1:${port}`, {
  jwks: { keys: JSON.parse(readFileSync(file, 'utf8')) },
  clients: [
    { client_id: 'pusher', client_secret: 'pusher-secret', grant_types: ['client_credentials'], redirect_uris: [], response_types: [], scope },
    { client_id: 'poller', client_secret: 'poller-secret', grant_types: [], redirect_uris: [], response_types: [] },
  ],
  scopes: scope.split(' '),
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    introspection: { enabled: true, allowedPolicy: (_ctx, client) => client.clientId === 'poller' },
    revocation: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (_ctx, resource) => ({
        scope,
        audience: resource,
        accessTokenTTL: 600,
        accessTokenFormat: resource === 'urn:opaque' ? 'opaque' : 'jwt',
        jwt: { sign: { alg: 'RS256' } },
      }),
    },
  },
});
provider.on('server_error', (_ctx, error) => console.error(error));
provider.listen(port, '127.0.0.1', () => console.log('ready'));
