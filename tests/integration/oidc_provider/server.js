// oidc-provider on loopback, for the tests of alf. Reads its configuration from stdin, a JSON
// object, and prints its issuer in one line when it is ready:
//   clients    client metadata (RFC 7591); `access_token_ttl` is ours: seconds a token lives
//   resources  resource indicator -> what its tokens are like (scope, accessTokenFormat, ...)
//   tls        optional: PEM texts `key`, `cert` and `ca`, the CA of the clients' certificates

import { generateKeyPairSync, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer as createHttpServer } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';

import Provider, { errors } from 'oidc-provider';

const { clients, resources = {}, tls } = JSON.parse(readFileSync(0, 'utf8'));

const clientDefaults = {
  grant_types: ['client_credentials'],
  response_types: [],
  redirect_uris: [],
};

const signingKey = {
  ...generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ format: 'jwk' }),
  kid: 'signing-key',
  alg: 'RS256',
  use: 'sig',
};

const configuration = {
  clients: clients.map((client) => ({ ...clientDefaults, ...client })),
  extraClientMetadata: { properties: ['access_token_ttl'] },
  jwks: { keys: [signingKey] },
  scopes: ['read', 'write'],
  ttl: {
    ClientCredentials: (ctx, token, client) =>
      token.resourceServer?.accessTokenTTL ?? client.access_token_ttl ?? 300,
  },
  clientAuthMethods: [
    'client_secret_basic',
    'client_secret_post',
    'client_secret_jwt',
    'private_key_jwt',
    'none',
    'tls_client_auth',
    'self_signed_tls_client_auth',
  ],
  enabledJWA: {
    clientAuthSigningAlgValues: ['HS256', 'HS512', 'RS256', 'PS256', 'ES256', 'EdDSA'],
    dPoPSigningAlgValues: ['ES256', 'RS256', 'EdDSA'],
  },
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    introspection: { enabled: true, allowedPolicy: () => true },
    revocation: { enabled: true },
    dPoP: {
      enabled: true,
      nonceSecret: Buffer.alloc(32, 'nonces of a test'),
      requireNonce: () => true,
    },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo(ctx, indicator) {
        if (!Object.hasOwn(resources, indicator)) {
          throw new errors.InvalidTarget();
        }
        return resources[indicator];
      },
    },
    mTLS: {
      enabled: true,
      certificateBoundAccessTokens: true,
      selfSignedTlsClientAuth: true,
      tlsClientAuth: true,
      getCertificate: (ctx) => {
        const { raw } = ctx.socket.getPeerCertificate?.() ?? {};
        return raw && new X509Certificate(raw);
      },
      certificateAuthorized: (ctx) => ctx.socket.authorized,
      certificateSubjectMatches(ctx, property, expected) {
        const { raw } = ctx.socket.getPeerCertificate();
        return property === 'tls_client_auth_san_dns'
          && new X509Certificate(raw).subjectAltName.split(', ').includes(`DNS:${expected}`);
      },
    },
  },
};

const server = tls
  ? createHttpsServer({ ...tls, requestCert: true, rejectUnauthorized: false })
  : createHttpServer();

server.listen(0, '127.0.0.1', () => {
  const issuer = `${tls ? 'https' : 'http'}://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, configuration);
  provider.on('server_error', (ctx, error) => console.error(error));
  server.on('request', provider.callback());
  console.log(issuer);
});
