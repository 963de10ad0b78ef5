// Apple's push service in small, and paths that misbehave in every way that HTTP/2 allows.
//
//   node apns.mjs OPTIONS      with OPTIONS in JSON; says "serves PORT" once it listens on loopback.
//
// key, cert      PEM of the server
// publicKey      PEM of the key that provider tokens are signed with; without it they are not looked at
// strict         one stream at a time until a connection had a good token, then 1000 (as Apple does)
// goawayAfter    a connection that has taken so many pushes sends GOAWAY, for those that came after it are not acted on
// goaways        how many connections do that; 1 without it
// expireAfter    provider tokens that were seen until so many pushes were taken are too old from then on
// answerAfter    milliseconds until a push is answered
// maxStreams     what is allowed at once
import {createPublicKey, verify} from 'node:crypto';
import http2 from 'node:http2';

const options = JSON.parse(process.argv[2]);
const publicKey = options.publicKey && createPublicKey(options.publicKey);
const REASONS = {
  bad0: [400, 'BadDeviceToken'],
  dead: [410, 'Unregistered', {timestamp: 1700000000000}],
  4130: [413, 'PayloadTooLarge'],
  4030: [403, 'InvalidProviderToken'],
  4290: [429, 'TooManyRequests'],
  5030: [503, 'ServiceUnavailable'],
};
const taken = [];
let sessions = 0;
const tokens = new Set();
let expired = null;
let goaways = options.goaways ?? 1;
const refusedOnce = new Set();

const server = http2.createSecureServer({
  key: options.key,
  cert: options.cert,
  settings: {maxConcurrentStreams: options.strict ? 1 : (options.maxStreams ?? 1000)},
});

server.on('session', (session) => {
  sessions += 1;
  session.pushes = 0;
  session.on('error', () => {});
});
server.on('sessionError', () => {});

server.on('stream', (stream, headers) => {
  stream.on('error', () => {});
  const path = headers[':path'];
  if (path.startsWith('/3/device/')) return push(stream, headers, path.slice('/3/device/'.length));
  const url = new URL(path, 'https://localhost');
  const act = ACTS[url.pathname];
  if (act) act(stream, url.searchParams, headers);
  else answer(stream, 404, {reason: 'BadPath'});
});

const ACTS = {
  '/state': (stream) => answer(stream, 200, {taken, sessions, tokens: [...tokens]}),
  '/echo': async (stream, query, headers) => {
    let length = 0;
    for await (const part of stream) length += part.length;
    answer(stream, 200, {length, headers});
  },
  '/big': (stream, query) => {
    const length = Number(query.get('n'));
    stream.respond({':status': 200, 'content-length': length});
    let left = length;
    const more = () => {
      while (left > 0) {
        const part = Buffer.alloc(Math.min(left, 65536), 120);
        left -= part.length;
        if (!stream.write(part)) return stream.once('drain', more);
      }
      stream.end();
    };
    more();
  },
  '/silent': () => {},
  '/half': (stream) => {
    stream.respond({':status': 200});
    stream.write('half');
    setTimeout(() => stream.destroy(new Error('half')), 50);
  },
  '/early': (stream) => answer(stream, 200, {early: true}),
  '/reset': (stream) => stream.close(http2.constants.NGHTTP2_INTERNAL_ERROR),
  '/refuse-once': (stream, query) => {
    const id = query.get('id');
    if (refusedOnce.has(id)) return answer(stream, 200, {id});
    refusedOnce.add(id);
    stream.close(http2.constants.NGHTTP2_REFUSED_STREAM);
  },
  '/refuse': (stream) => stream.close(http2.constants.NGHTTP2_REFUSED_STREAM),
  '/goaway': (stream, query) => {
    const code = Number(query.get('code') ?? 0);
    stream.session.goaway(code, stream.id, Buffer.from(JSON.stringify({reason: 'BecauseAsked'})));
    setTimeout(() => { if (!stream.destroyed) answer(stream, 200, {after: 'goaway'}); }, 100);
  },
  '/hang-up': (stream) => stream.session.destroy(),
};

function push(stream, headers, device) {
  const session = stream.session;
  // What comes after the last stream that a GOAWAY named is not acted on.
  if (session.last !== undefined && stream.id > session.last) return;
  const body = [];
  stream.on('data', (part) => body.push(part));
  stream.on('end', () => {
    if (session.last !== undefined && stream.id > session.last) return;
    const problem = publicKey && tokenProblem(headers.authorization);
    if (problem) return answer(stream, 403, {reason: problem});
    if (options.strict && !session.isTrusted) {
      session.isTrusted = true;
      session.settings({maxConcurrentStreams: 1000});
    }
    const special = REASONS[device.slice(0, 4)];
    if (special) return answer(stream, special[0], {reason: special[1], ...special[2]});
    session.pushes += 1;
    taken.push({
      device, id: headers['apns-id'], headers, session: sessions, body: JSON.parse(Buffer.concat(body).toString()),
    });
    if (options.goawayAfter && session.pushes === options.goawayAfter && goaways > 0) {
      goaways -= 1;
      session.last = stream.id;
      session.goaway(0, stream.id);
    }
    setTimeout(() => {
      if (stream.destroyed) return;
      stream.respond({':status': 200, 'apns-id': headers['apns-id']}, {endStream: true});
    }, options.answerAfter ?? 0);
  });
}

function tokenProblem(authorization) {
  if (!authorization?.startsWith('bearer ')) return 'MissingProviderToken';
  const [head, claims, signature] = authorization.slice('bearer '.length).split('.');
  if (options.expireAfter && !expired && taken.length >= options.expireAfter) expired = new Set(tokens);
  tokens.add(authorization);
  if (expired?.has(authorization)) return 'ExpiredProviderToken';
  const good = verify(
    'sha256', Buffer.from(`${head}.${claims}`), {key: publicKey, dsaEncoding: 'ieee-p1363'},
    Buffer.from(signature ?? '', 'base64url'),
  );
  if (!good) return 'InvalidProviderToken';
  const {alg, kid} = JSON.parse(Buffer.from(head, 'base64url'));
  const {iss, iat} = JSON.parse(Buffer.from(claims, 'base64url'));
  if (alg !== 'ES256' || kid?.length !== 10 || !iss) return 'InvalidProviderToken';
  return Math.abs(Date.now() / 1000 - iat) > 3600 ? 'ExpiredProviderToken' : null;
}

function answer(stream, status, content) {
  stream.respond({':status': status, 'content-type': 'application/json'});
  stream.end(JSON.stringify(content));
}

server.listen(0, '127.0.0.1', () => console.log(`serves ${server.address().port}`));
